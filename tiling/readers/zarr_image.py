"""One OME-NGFF image in a Zarr group: its arrays checked, and read by tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore, ZipStore

from tiling.geometry import is_reduced
from tiling.readers.base import MAX_TILE_BYTES, UnsupportedSlideError
from tiling.readers.mosaic import Pixels, StoredTile, TileLayout, shrink
from tiling.readers.ngff import Level, Multiscales, parse_multiscales
from tiling.readers.stored_tiles import as_rgb

COMPRESSORS = {"blosc", "gzip", "lz4", "zlib", "zstd"}
CODECS = COMPRESSORS | {"adler32", "astype", "bytes", "crc32", "crc32c", "delta", "fletcher32",
                         "jenkins_lookup3", "packbits", "sharding_indexed", "shuffle",
                         "transpose"}  # fmt: skip
"""Codecs that may decode a chunk. What is allowed is listed: Zarr's `pickle` would run code."""
IMAGE_CODECS = "imagecodecs_"
MAX_METADATA_BYTES = 64 << 20
MAX_CHUNKS_PER_SHARD = 1 << 20
READ_PX = 256
"""Smallest edge that is read at once: of several chunks, where they are smaller."""


class BoundedStore(WrapperStore[Store]):
    """Another store, from which nothing is read that is larger than it can need to be."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.is_remote = not isinstance(store, LocalStore | ZipStore)
        self.limits: dict[str, int] = {}
        """Bytes that one object may have, by the prefix of its key."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        limit = next(
            (bound for prefix, bound in self.limits.items() if key.startswith(prefix)),
            MAX_METADATA_BYTES,
        )
        if byte_range is None and not self.is_remote:
            # One byte more than may be, so that too much shows without being read.
            byte_range = RangeByteRequest(0, limit + 1)
        elif isinstance(byte_range, RangeByteRequest) and byte_range.end - byte_range.start > limit:
            raise ValueError(f"{key}: a part of {byte_range.end - byte_range.start} bytes")
        found = await super().get(key, prototype, byte_range)
        if found is not None and len(found) > limit:
            asked = "" if byte_range is None else "; does the server answer range requests?"
            raise ValueError(f"{key}: more than {limit} bytes{asked * self.is_remote}")
        return found

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]


@dataclass(frozen=True, slots=True)
class ZarrLevel:
    """One level of an image.

    Attributes
    ----------
    layout
        Its size, and the tiles that it is read in: one or several chunks.
    scale
        Of a pixel, (x, y), in the unit of the axes.
    places
        Which of the array's axes are x, y and, if it has one, colour.
    index
        What is read along each axis where that is always the same.
    """

    array: zarr.Array[Any]
    layout: TileLayout
    scale: tuple[float, float]
    places: tuple[int, int, int | None]
    index: tuple[int | slice, ...]

    def read(self, tile: StoredTile, reduction: int) -> Pixels:
        """Return the pixels of one tile of the unreduced layout, RGB, shrunk."""
        box = self.layout.box_of(tile)
        x, y, colour = self.places
        where = list(self.index)
        where[x], where[y] = slice(box.left, box.right), slice(box.top, box.bottom)
        found = np.asarray(self.array[tuple(where)])
        order = [place for place in (y, x, colour) if place is not None]
        # The axes of one index are gone; the others keep their order.
        pixels = found.transpose([sorted(order).index(place) for place in order])
        return shrink(as_rgb(np.ascontiguousarray(pixels)), reduction)


@dataclass(frozen=True, slots=True)
class ZarrImage:
    """One image: what its group says of it, and its levels, finest first."""

    metadata: Multiscales
    levels: tuple[ZarrLevel, ...]


def read_image(group: zarr.Group) -> ZarrImage:
    """Return the image that an open group describes.

    Raises
    ------
    UnsupportedSlideError
        It describes none, or one that is not read.
    """
    metadata = parse_multiscales(group.attrs.asdict())
    found = [(level, _level(group, metadata, level)) for level in metadata.levels]
    found.sort(key=lambda pair: pair[1].layout.size, reverse=True)
    (first, base), *others = found
    levels = [base]
    for stated, level in others:
        sizes = {"base": base.layout.size, "last": levels[-1].layout.size}
        is_next = is_reduced(level.layout.size, **sizes)
        if is_next and _is_in_place(metadata, stated, first):
            levels.append(level)
    return ZarrImage(metadata, tuple(levels))


def _level(group: zarr.Group, metadata: Multiscales, level: Level) -> ZarrLevel:
    array = group.get(level.path)
    if not isinstance(array, zarr.Array) or array.ndim != len(metadata.axes):
        raise UnsupportedSlideError(
            f"ome-zarr: {level.path} is no array of {len(metadata.axes)} axes"
        )
    if array.dtype != np.uint8:
        raise UnsupportedSlideError(f"ome-zarr: {array.dtype} pixels; 8-bit ones are read")
    _check_codecs(array)
    colour = metadata.place("c")
    x, y = (place for name in "xy" if (place := metadata.place(name)) is not None)
    index: list[int | slice] = []
    for place, (axis, length) in enumerate(zip(metadata.axes, array.shape, strict=True)):
        if length < 1:
            raise UnsupportedSlideError(f"ome-zarr: {level.path} is empty")
        if axis.name == "c" and length not in (1, 3):
            raise UnsupportedSlideError(
                f"ome-zarr: {length} channels; one (grey) or three (RGB) are read"
            )
        if axis.name not in ("x", "y", "c", "z") and length > 1:
            raise UnsupportedSlideError(f"ome-zarr: {length} pictures along {axis.name}, not one")
        is_whole = place in (x, y, colour)
        index.append(slice(None) if is_whole else middle(length))
    if not 0 < stored_bytes(array) <= MAX_TILE_BYTES:
        raise UnsupportedSlideError(
            f"ome-zarr: chunks of {array.chunks}, {stored_bytes(array) >> 20} MiB each; up to "
            f"{MAX_TILE_BYTES >> 20} MiB are read: write it anew in smaller chunks"
        )
    tile = tuple(array.chunks[i] * max(round(READ_PX / array.chunks[i]), 1) for i in (x, y))
    return ZarrLevel(
        array=array,
        layout=TileLayout((array.shape[x], array.shape[y]), (tile[0], tile[1])),
        scale=(level.scale[x], level.scale[y]),
        places=(x, y, colour),
        index=tuple(index),
    )


def stored_bytes(array: zarr.Array[Any]) -> int:
    """Return the size of what Zarr decodes together: a chunk, also one within a shard."""
    return math.prod(array.chunks) * array.dtype.itemsize


def codec_names(array: zarr.Array[Any]) -> list[str]:
    """Return the codecs of an array, also those within shards."""
    document: dict[str, Any] = dict(array.metadata.to_dict())
    codecs: list[Any] = [*(document.get("codecs") or ())]
    codecs += [document.get("compressor"), *(document.get("filters") or ())]
    names = []
    while codecs:
        codec = codecs.pop()
        if codec is not None:
            names.append(str(codec.get("name") or codec.get("id")).removeprefix("numcodecs."))
            inner = codec.get("configuration") or {}
            codecs += [*inner.get("codecs", ()), *inner.get("index_codecs", ())]
    return names


def _check_codecs(array: zarr.Array[Any]) -> None:
    """Refuse codecs that are not known to be harmless, and shards of too many chunks."""
    if array.shards is not None:
        count = math.prod(n // m for n, m in zip(array.shards, array.chunks, strict=True))
        if count > MAX_CHUNKS_PER_SHARD:
            raise UnsupportedSlideError(f"ome-zarr: shards of {count} chunks")
    for name in codec_names(array):
        if name not in CODECS and not name.startswith(IMAGE_CODECS):
            raise UnsupportedSlideError(f"ome-zarr: chunks encoded by {name!r} are not read")


def _is_in_place(metadata: Multiscales, level: Level, base: Level) -> bool:
    """Whether a level begins where the base does, up to half a pixel of its own.

    Some writers state the place of the first pixel's centre, others of its corner.
    """
    places = [place for name in "xy" if (place := metadata.place(name)) is not None]
    return all(
        abs(level.translation[i] - base.translation[i]) <= 0.5 * level.scale[i] for i in places
    )


def middle(planes: int) -> int:
    """Return which of several focal planes is read."""
    return (planes - 1) // 2
