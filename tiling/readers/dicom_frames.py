"""How one frame of a DICOM image becomes RGB pixels."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.readers.stored_tiles import JpegDecoder, TileDecoder, as_rgb, ycbcr_to_rgb

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
_JPEG_FAMILY = {"1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
                "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}  # fmt: skip
"""JPEG extended and lossless, JPEG-LS: each states its size in a JPEG frame header."""
_JPEG_2000_FAMILY = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.201",
                     "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"}  # fmt: skip
_PLAIN = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
_JFIF, _ADOBE, _SCAN = 0xE0, 0xEE, 0xDA
_FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}
"""SOF0 to SOF3 (ITU-T T.81, table B.1) and JPEG-LS's SOF55 (ITU-T T.87)."""
_CODESTREAM = b"\xff\x4f\xff\x51"
"""How JPEG 2000's codestream begins: SOC and SIZ (ITU-T T.800, annex A)."""


def frame_decoder(
    syntax: str, photometric: str, size: tuple[int, int], samples: int, library: Any
) -> TileDecoder:
    """Return what decodes the frames of one image.

    Parameters
    ----------
    syntax, photometric
        Transfer syntax UID and photometric interpretation of the image.
    size, samples
        (width, height) of a frame, and samples per pixel.
    library
        wsidicom's decoder for them, for what is not baseline JPEG or plain pixels.

    Raises
    ------
    ValueError
        Frames of this transfer syntax are not read.
    """
    shape = size[1], size[0]
    if syntax == JPEG_BASELINE:
        return JpegFrames(shape, photometric)
    if syntax in _PLAIN:
        return PlainFrames(shape, samples)
    if syntax in _JPEG_FAMILY | _JPEG_2000_FAMILY | {RLE}:
        return LibraryFrames(shape, photometric, syntax, library)
    raise ValueError(f"transfer syntax {syntax} is not read")


class JpegFrames(JpegDecoder):
    """Baseline JPEG by libjpeg-turbo; the photometric interpretation says what it holds.

    What the stream says of its colours (JFIF's and Adobe's markers) is left out: scanners copy
    streams that say something else, or nothing.
    """

    def __init__(self, shape: tuple[int, int], photometric: str) -> None:
        self.shape = shape
        self.head = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
        self.head += bytes([photometric != "RGB"])
        divides = all(length % 8 == 0 for length in shape)
        self.reductions = (1, 2, 4, 8) if divides else (1,)

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        bare = without_colour_markers(data)
        return super().decode(bare, index=index, reduction=reduction, out=out)


class PlainFrames(TileDecoder):
    """Uncompressed pixels, colour by pixel."""

    name = f"numpy {np.__version__}"

    def __init__(self, shape: tuple[int, int], samples: int) -> None:
        self.shape = shape
        self._samples = samples

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        count = self.shape[0] * self.shape[1] * self._samples
        pixels = np.frombuffer(data, np.uint8, count)
        return as_rgb(pixels.reshape(*self.shape, self._samples))


class LibraryFrames(TileDecoder):
    """JPEG lossless, JPEG-LS, JPEG 2000, HTJ2K and RLE, as wsidicom decodes them."""

    def __init__(self, shape: tuple[int, int], photometric: str, syntax: str, library: Any) -> None:
        self.shape = shape
        self._library = library
        self._is_sized = syntax != RLE
        # JPEG 2000's decoder undoes transforms of its own (YBR_ICT, YBR_RCT) and takes subsampled
        # components (YBR_FULL_422) for YCbCr by itself; this one is left to us.
        self._is_ycbcr = photometric == "YBR_FULL" and syntax in _JPEG_2000_FAMILY

    @property
    def name(self) -> str:  # type: ignore[override]
        version = importlib.metadata.version
        return f"imagecodecs {version('imagecodecs')} (wsidicom {version('wsidicom')})"

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        if self._is_sized:
            width, height = stated_size(data)
            if (height, width) != self.shape:
                raise ValueError(f"{width} x {height} px, not {self.shape[1]} x {self.shape[0]}")
        pixels = np.asarray(self._library.decode(data))
        if pixels.dtype != np.uint8:
            raise ValueError(f"{pixels.dtype} in place of 8 bit")
        return ycbcr_to_rgb(pixels) if self._is_ycbcr and pixels.ndim == 3 else as_rgb(pixels)


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Return (marker, start, end) of a JPEG stream's segments before its first scan."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _SCAN:
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((marker, at, end))
        at = end
    return found


def without_colour_markers(data: bytes) -> bytes:
    r"""Return a JPEG stream without the JFIF and Adobe segments that state its colours.

    Examples
    --------
    >>> jfif, table = bytes.fromhex("ffe00003aa"), bytes.fromhex("ffdb0003bb")
    >>> without_colour_markers(b"\xff\xd8" + jfif + table + b"\xff\xda").hex()
    'ffd8ffdb0003bbffda'
    """
    parts, at = [], 0
    for marker, start, end in _segments(data):
        if marker in (_JFIF, _ADOBE):
            parts.append(data[at:start])
            at = end
    return b"".join([*parts, data[at:]])


def stated_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) that a JPEG, JPEG-LS or JPEG 2000 stream states.

    Raises
    ------
    ValueError
        It states none.
    """
    at = data.find(_CODESTREAM, 0, 1024)
    if at >= 0 and len(data) >= at + 24:
        right, bottom, left, top = (
            int.from_bytes(data[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(4)
        )
        return right - left, bottom - top
    for marker, start, end in _segments(data):
        if marker in _FRAME_HEADERS and end - start >= 9:
            return (
                int.from_bytes(data[start + 7 : start + 9], "big"),
                int.from_bytes(data[start + 5 : start + 7], "big"),
            )
    raise ValueError("no frame header")
