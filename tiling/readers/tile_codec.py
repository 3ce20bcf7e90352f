"""A Zarr codec over a TIFF's stored tiles, which are decoded as the readers decode them."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.buffer.cpu import Buffer as CpuBuffer
from zarr.registry import register_codec

from tiling.errors import SlideReadError
from tiling.readers.base import WHITE, UnsupportedSlideError
from tiling.readers.stored_tiles import TileDecoder, decoder_of

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

CODEC_NAME = "wsi_pipeline.stored_tile"
MAX_TABLES_BYTES = 1 << 16
"""JPEG has room for four tables of each kind: a tenth of this."""
DECODERS = 256
"""Decoders that a process keeps; each is little more than its JPEG tables."""

Shape = tuple[int, int]
"""(height, width) in px."""


@dataclass(frozen=True, slots=True)
class TileFormat:
    """How a page's 8-bit tiles are encoded, in the numbers of TIFF's tags.

    Raises
    ------
    ValueError
        A value is not of the kind, or beyond the bounds, of its tag.
    """

    compression: int
    photometric: int
    samples: int
    predictor: int = 1
    fill_order: int = 1
    extra_samples: tuple[int, ...] = ()
    subsampling: tuple[int, ...] = ()
    jpeg_tables: bytes = b""
    is_tiled: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "jpeg_tables":
                is_sound = type(value) is bytes and len(value) <= MAX_TABLES_BYTES
            elif field.name == "is_tiled":
                is_sound = type(value) is bool
            elif field.name in ("extra_samples", "subsampling"):
                is_sound = type(value) is tuple and len(value) <= 4 and _are_shorts(*value)
            else:
                is_sound = _are_shorts(value)
            if not is_sound:
                raise ValueError(
                    f"{CODEC_NAME}: {field.name}={value!r:.80} is not what TIFF allows"
                )

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> TileFormat:
        """Return the format of a page whose file is open."""
        return cls(
            compression=int(page.compression),
            photometric=int(page.photometric),
            samples=int(page.samplesperpixel),
            predictor=int(page.predictor),
            fill_order=int(page.fillorder),
            extra_samples=tuple(int(v) for v in page.extrasamples),
            subsampling=tuple(int(v) for v in page.subsampling or ()),
            jpeg_tables=bytes(page.jpegtables or b""),
            is_tiled=bool(page.is_tiled),
        )

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any]) -> TileFormat:
        """Return what `to_configuration` wrote, or anybody else: all of it is checked."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = configuration.keys() - known
        missing = {"compression", "photometric", "samples"} - configuration.keys()
        if unknown or missing:
            raise ValueError(f"{CODEC_NAME}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in configuration.items()
        }
        tables = values.pop("jpeg_tables", "")
        try:
            decoded = base64.b64decode(tables, validate=True)
        except (TypeError, ValueError) as err:  # binascii.Error is a ValueError
            raise ValueError(f"{CODEC_NAME}: jpeg_tables={tables!r:.80} is not base64") from err
        return cls(**values, jpeg_tables=decoded)

    def to_configuration(self) -> dict[str, Any]:
        """Return the format as JSON, the tables as base64."""
        values = {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()
        }
        return values | {"jpeg_tables": base64.b64encode(self.jpeg_tables).decode()}


class TileBytes(CpuBuffer):
    """The bytes of a stored tile that know where they lie.

    Attributes
    ----------
    place
        File, level and tile, for messages.
    inside
        (height, width) of the tile's part within the level; what lies beyond need not be stored,
        as in the last strip of a striped TIFF. None: all of it is.
    """

    place: str = "a stored tile"
    inside: Shape | None = None


@dataclass(frozen=True)
class StoredTileCodec(ArrayBytesCodec):
    """Decodes a stored tile to RGB, uint8, shape ``(height, width, 3)``; it never encodes.

    Raises
    ------
    ValueError
        There is no decoder for the format.
    SlideReadError
        On decoding: the bytes are not what the format says.
    """

    format: TileFormat
    is_fixed_size = False

    def __post_init__(self) -> None:
        decoder_for(self.format, (16, 16), (16, 16))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        configuration = data.get("configuration")
        if not isinstance(configuration, Mapping):
            raise ValueError(f"{CODEC_NAME}: configuration={configuration!r:.80}")
        return cls(TileFormat.from_configuration(configuration))

    def to_dict(self) -> dict[str, Any]:
        return {"name": CODEC_NAME, "configuration": self.format.to_configuration()}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError("the size of a stored tile depends on its pixels")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return self._encode_sync(chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        raise NotImplementedError(f"{CODEC_NAME} reads a slide's tiles and never writes any")

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        place = getattr(chunk_data, "place", TileBytes.place)
        try:
            tile = _tile_shape(chunk_spec)
            inside = getattr(chunk_data, "inside", None) or tile
            decoder = decoder_for(self.format, tile, inside)
            pixels = decoder.decode(chunk_data.as_numpy_array().tobytes(), index=0)
            height, width, _ = pixels.shape
            if not (inside[0] <= height <= tile[0] and inside[1] <= width <= tile[1]):
                raise ValueError(f"{width} x {height} px, not {tile[1]} x {tile[0]}")
        except Exception as err:  # codecs raise whatever they stumble over
            raise SlideReadError(f"{place}: {err}") from err
        planes = np.empty((3, *tile), np.uint8)
        if (height, width) != tile:
            planes.fill(WHITE)
        put_planes(pixels, planes)
        # In memory as the transpose codec will turn it, so that Zarr copies whole rows.
        return chunk_spec.prototype.nd_buffer.from_numpy_array(planes.transpose(1, 2, 0))


def put_planes(pixels: NDArray[np.uint8], planes: NDArray[np.uint8]) -> None:
    """Put ``(h, w, 3)`` pixels into the top left of ``(3, height, width)`` `planes`."""
    height, width, _ = pixels.shape
    room = planes[:, :height, :width]
    if width == planes.shape[2]:
        cv2.split(pixels, list(room))  # whole rows: four times as fast as NumPy
    else:
        room[:] = pixels.transpose(2, 0, 1)


@functools.lru_cache(maxsize=DECODERS)
def decoder_for(tile_format: TileFormat, tile: Shape, inside: Shape) -> TileDecoder:
    """Return the decoder of tiles (or strips) of shape `tile`, stored as far as `inside` at least.

    Raises
    ------
    ValueError
        There is none.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(_header(tile_format, tile, inside))) as tiff:
            page = tiff.pages[0]
            if not isinstance(page, tifffile.TiffPage):
                raise ValueError(f"{CODEC_NAME}: no page")
            return decoder_of(page)
    except (UnsupportedSlideError, tifffile.TiffFileError) as err:
        raise ValueError(f"{CODEC_NAME}: {err}") from err


def _header(tile_format: TileFormat, tile: Shape, inside: Shape) -> bytes:
    """Return a TIFF of one page and one tile that is not there.

    Decoders are made of tifffile's pages, so the codec makes a page of its configuration: a header,
    a directory, and the values that are too long for it (TIFF 6.0, section 2).
    """
    shorts = {
        258: (8,) * tile_format.samples,
        259: (tile_format.compression,),
        262: (tile_format.photometric,),
        266: (tile_format.fill_order,),
        277: (tile_format.samples,),
        284: (1,),
        317: (tile_format.predictor,),
        338: tile_format.extra_samples,
        530: tile_format.subsampling,
    }
    longs = {256: inside[1], 257: inside[0]}
    if tile_format.is_tiled:
        longs |= {322: tile[1], 323: tile[0], 324: 0, 325: 0}
    else:
        longs |= {278: tile[0], 273: 0, 279: 0}
    entries = [(code, 3, len(v), struct.pack(f"<{len(v)}H", *v)) for code, v in shorts.items() if v]
    entries += [(code, 4, 1, struct.pack("<I", value)) for code, value in longs.items()]
    if tile_format.jpeg_tables:
        entries.append((347, 7, len(tile_format.jpeg_tables), tile_format.jpeg_tables))
    directory = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    end = len(directory) + 12 * len(entries) + 4
    rest = b""
    for code, kind, count, packed in sorted(entries):
        if len(packed) > 4:
            place = struct.pack("<I", end + len(rest))
            rest += packed
        directory += struct.pack("<HHI4s", code, kind, count, packed if len(packed) <= 4 else place)
    return directory + bytes(4) + rest


def _tile_shape(chunk_spec: ArraySpec) -> Shape:
    """Return a chunk's (height, width), or refuse what no stored tile can be."""
    shape, kind = chunk_spec.shape, chunk_spec.dtype.to_native_dtype()
    if len(shape) != 3 or shape[2] != 3 or kind != np.uint8:
        raise ValueError(
            f"{CODEC_NAME}: chunks of {kind}, shape {tuple(shape)}; a stored tile is uint8 RGB, "
            f"(height, width, 3)"
        )
    return shape[0], shape[1]


def _are_shorts(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 16 for value in values)


register_codec(CODEC_NAME, StoredTileCodec)
