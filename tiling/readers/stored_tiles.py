"""How one stored tile of a TIFF becomes RGB pixels, at the scale that is needed."""

from __future__ import annotations

import importlib.metadata
import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from tiling.readers.base import MAX_TILE_PX, UnsupportedSlideError, rgb_over_white
from tiling.readers.stream_check import check_stream

GREY_INVERTED, GREY, RGB, YCBCR = 0, 1, 2, 6
"""TIFF PhotometricInterpretation (TIFF 6.0, section 8 and 21)."""
LZW = 5
JPEG = 7
JPEG_2000 = {33003: "YCbCr", 33004: "RGB", 33005: "RGB", 34712: "RGB"}
"""TIFF Compression of JPEG 2000 tiles; 33003 and 33005 are Aperio's."""
GENERIC = {1, 5, 8, 32773, 32946, 34925, 34926, 34927, 50000, 50001, 50013}
"""None, LZW, Deflate, PackBits, LZMA, Zstd, WebP: what tifffile decodes."""
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Adobe's APP14 marker but for its last byte: 0 says RGB, 1 YCbCr."""


class TileDecoder(ABC):
    """Decodes the stored tiles of one level; safe to use from several threads."""

    name: ClassVar[str]
    reductions: tuple[int, ...] = (1,)
    """Factors by which it can shrink a tile while it decodes."""

    def __init__(self, page: tifffile.TiffPage) -> None:
        self.shape = (int(page.tilelength), int(page.tilewidth)) if page.is_tiled else (
            min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)
        )  # fmt: skip

    @abstractmethod
    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the pixels of stored tile `index`.

        Parameters
        ----------
        out
            Contiguous room for them that may be used; then it is what is returned.

        Returns
        -------
        uint8, shape ``(h // reduction, w // reduction, 3)``; a last strip may be shorter.

        Raises
        ------
        Exception
            Whatever the codec raises on bad data.
        """


class JpegDecoder(TileDecoder):
    """JPEG by libjpeg-turbo, scaled by 1/2, 1/4 or 1/8 in the discrete cosine transform.

    Slides leave quantisation tables out of the tiles, and some hold RGB without saying so in the
    stream; what the TIFF says of both is put in front of every tile.
    """

    name = f"libjpeg-turbo (simplejpeg {importlib.metadata.version('simplejpeg')})"

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        tables = bytes(page.jpegtables or b"")
        is_colour = page.photometric in (RGB, YCBCR)
        marker = _ADOBE + bytes([page.photometric == YCBCR]) if is_colour else b""
        self.head = b"\xff\xd8" + marker + tables[2:-2]
        divides = all(length % 8 == 0 for length in self.shape)
        self.reductions = (1, 2, 4, 8) if page.is_tiled and divides else (1,)

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        height, width = (length // reduction for length in self.shape)
        stream = self.head + data[2:]
        # The buffer bounds what a stream that claims other dimensions can take.
        room = np.empty((height, width, 3), np.uint8) if out is None else out
        size = {"min_height": height, "min_width": width} if reduction > 1 else {}
        try:
            pixels = simplejpeg.decode_jpeg(stream, "RGB", buffer=room, **size)
        except ValueError as err:
            if "extraneous bytes" not in str(err):  # harmless, and some scanners write them
                raise
            pixels = simplejpeg.decode_jpeg(stream, "RGB", buffer=room, strict=False, **size)
        return room if pixels.shape == room.shape else pixels


class Jpeg2000Decoder(TileDecoder):
    """JPEG 2000 by OpenJPEG.

    Always at full resolution: the wavelet's coarser pictures sample every second pixel, not the
    middle between two, and would be shifted. Colour that is stored at half the width is taken for
    YCbCr, and converted, by the library itself.
    """

    name = f"OpenJPEG (imagecodecs {importlib.metadata.version('imagecodecs')})"

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        self._compression = int(page.compression)
        self._is_ycbcr = JPEG_2000[self._compression] == "YCbCr"

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        check_stream(data, self._compression, self.shape)
        pixels = np.asarray(imagecodecs.jpeg2k_decode(data))
        if pixels.dtype != np.uint8:
            raise ValueError(f"{pixels.dtype} in place of 8 bit")
        if (
            pixels.ndim == 3
            and pixels.shape[2] == 3
            and self._is_ycbcr
            and not _is_subsampled(data)
        ):
            return ycbcr_to_rgb(pixels)
        return as_rgb(pixels)


class BytesDecoder(TileDecoder):
    """Plain, Deflate and Zstandard tiles: one call, into place where there is room."""

    name = f"libdeflate, Zstandard (imagecodecs {importlib.metadata.version('imagecodecs')})"
    codecs: ClassVar[dict[int, Callable[..., Any] | None]] = {
        1: None,
        8: imagecodecs.deflate_decode,
        32946: imagecodecs.deflate_decode,
        34926: imagecodecs.zstd_decode,
        50000: imagecodecs.zstd_decode,
    }
    """By TIFF Compression; None: as it is."""

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        self._decode = self.codecs[int(page.compression)]
        self._row = (self.shape[1], int(page.samplesperpixel))
        self._is_inverted = page.photometric == GREY_INVERTED

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        shape = (self.shape[0], *self._row)
        if self._decode is None:
            flat = np.frombuffer(data, np.uint8)[: math.prod(shape)]
        else:
            room = np.empty(shape, np.uint8) if out is None or out.shape != shape else out
            flat = self._decode(data, out=room.reshape(-1))
            if flat.size == room.size:
                return room if room is out else self._as_rgb(room)
        rows = flat.size // math.prod(self._row)
        return self._as_rgb(flat[: rows * math.prod(self._row)].reshape(rows, *self._row))

    def _as_rgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return as_rgb(255 - pixels if self._is_inverted else pixels)


class LzwDecoder(TileDecoder):
    """LZW by libtiff, a third faster than what else there is: each tile as a TIFF of its own."""

    name = f"libtiff (imagecodecs {importlib.metadata.version('imagecodecs')})"

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        self._page = page
        self._is_inverted = page.photometric == GREY_INVERTED

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        rows = self.shape[0]
        if not self._page.is_tiled:
            rows = min(rows, int(self._page.imagelength) - index * rows)
        pixels = np.asarray(imagecodecs.tiff_decode(self._head(rows, len(data)) + data))
        return as_rgb(255 - pixels if self._is_inverted else pixels)

    def _head(self, rows: int, count: int) -> bytes:
        """Return the head of a TIFF (6.0, section 2) of one strip, which follows it."""
        samples = int(self._page.samplesperpixel)
        entries = 10
        end = 8 + 2 + 12 * entries + 4
        depths = struct.pack("<4H", *[8] * 4)
        tags = [
            (256, 4, 1, self.shape[1]),
            (257, 4, 1, rows),
            (258, 3, samples, end if samples > 2 else 8),
            (259, 3, 1, LZW),
            (262, 3, 1, GREY if samples == 1 else RGB),
            (273, 4, 1, end + len(depths)),
            (277, 3, 1, samples),
            (278, 4, 1, rows),
            (279, 4, 1, count),
            (317, 3, 1, int(self._page.predictor)),
        ]
        body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
        return struct.pack("<2sHIH", b"II", 42, 8, entries) + body + bytes(4) + depths


class GenericDecoder(TileDecoder):
    """Everything that tifffile and imagecodecs decode to whole tiles."""

    name = f"tifffile {tifffile.__version__} (imagecodecs)"

    def __init__(self, page: tifffile.TiffPage) -> None:
        super().__init__(page)
        self._compression = int(page.compression)
        self._decode: Any = page.decode
        self._is_inverted = page.photometric == GREY_INVERTED

    def decode(
        self,
        data: bytes,
        *,
        index: int,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        check_stream(data, self._compression, self.shape)
        segment, _, _ = self._decode(data, index)
        pixels = as_rgb(np.asarray(segment)[0])  # (depth 1, h, w, samples)
        return 255 - pixels if self._is_inverted else pixels


def decoder_of(page: tifffile.TiffPage) -> TileDecoder:
    """Return the decoder of a page's tiles, or raise `UnsupportedSlideError` with the reason."""
    compression, samples = int(page.compression), int(page.samplesperpixel)
    photometrics = (GREY_INVERTED, GREY, RGB, YCBCR)
    if page.bitspersample != 8 or page.planarconfig != 1 or samples not in (1, 3, 4):
        raise UnsupportedSlideError(
            f"tiff: {samples} samples of {page.bitspersample} bit, planar configuration "
            f"{int(page.planarconfig)}; 8-bit grey, RGB or RGBA side by side is read"
        )
    if page.photometric not in photometrics or page.sampleformat not in (None, 1):
        raise UnsupportedSlideError(f"tiff: photometric interpretation {int(page.photometric)}")
    if compression == JPEG and samples in (1, 3):
        decoder: TileDecoder = JpegDecoder(page)
    elif compression in JPEG_2000:
        decoder = Jpeg2000Decoder(page)
    elif compression in BytesDecoder.codecs and page.predictor == 1 and page.photometric != YCBCR:
        decoder = BytesDecoder(page)
    elif compression == LZW and page.predictor in (1, 2) and page.photometric != YCBCR:
        decoder = LzwDecoder(page)
    elif compression in GENERIC and (page.photometric != YCBCR or compression in (34927, 50001)):
        decoder = GenericDecoder(page)
    else:
        raise UnsupportedSlideError(f"tiff: compression {compression}")
    if not 0 < decoder.shape[0] * decoder.shape[1] <= MAX_TILE_PX:
        raise UnsupportedSlideError(
            f"tiff: stored tiles of {decoder.shape[1]} x {decoder.shape[0]} px"
        )
    return decoder


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey ``(h, w)`` or ``(h, w, 1)``, RGB or RGBA pixels as RGB ``(h, w, 3)``."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 4:
        return rgb_over_white(pixels)
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def _is_subsampled(codestream: bytes) -> bool:
    """Whether a JPEG 2000 component is stored at less than full size (ISO/IEC 15444-1, A.5.1)."""
    components = int.from_bytes(codestream[40:42], "big")
    steps = codestream[42 : 42 + 3 * components]  # depth, horizontal step, vertical step
    return any(step != 1 for step in (*steps[1::3], *steps[2::3]))


def ycbcr_to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB of full-range YCbCr ``(h, w, 3)``, as JFIF defines it (ITU-T T.871)."""
    y, blue, red = (pixels[..., i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack(
        [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], axis=-1
    )
    found: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return found
