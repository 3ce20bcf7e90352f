"""A read-only Zarr store whose chunks are the ranges of a TIFF slide that hold its tiles."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
)

from tiling.errors import SlideOpenError, SlideReadError
from tiling.geometry import PixelBox
from tiling.readers.base import WHITE, UnsupportedSlideError, check_level_sizes
from tiling.readers.byte_source import CACHE_BYTES, ByteSource
from tiling.readers.mosaic import StoredTile
from tiling.readers.tiff import TiffReader
from tiling.readers.tiff_layout import TiffLayout
from tiling.readers.tile_codec import StoredTileCodec, TileBytes, TileFormat, put_planes
from tiling.urls import is_url

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

DOCUMENT = "zarr.json"
BAND_BYTES = 1 << 20
"""Pixels that are read at a time, beside those that are returned: they stay in the cache."""
MAX_PREFETCH_BYTES = CACHE_BYTES // 2
"""Stored bytes up to which a whole box is fetched at once, where fetching is slow."""
OPEN_TIFFS = 8
"""Slides that a process keeps open for stores that are sent to it."""


class StoredTiles(TiffReader):
    """A TIFF slide whose stored tiles can be had as they are."""

    def __init__(self, path: str, source: ByteSource, layout: TiffLayout) -> None:
        super().__init__(path, source, layout)
        self.formats = tuple(TileFormat.of(level.page) for level in layout.levels)

    def tile_counts(self, level: int) -> tuple[int, int]:
        """Return the number of (columns, rows) of stored tiles."""
        return self._levels[level].tile_counts

    def tile_bytes(self, level: int, tile: StoredTile) -> int:
        """Return how many bytes a tile takes; 0 if it was never scanned or there is no such."""
        if level >= len(self._levels):
            return 0
        columns, rows = self.tile_counts(level)
        if tile[0] >= columns or tile[1] >= rows:
            return 0
        stored = self._levels[level]
        return int(stored.counts[stored.index_of(tile)])

    def read_planes(self, level: int, box: PixelBox) -> NDArray[np.uint8]:
        """Return the pixels of `box`, which lies within the level, shape ``(3, height, width)``.

        They are read in bands of whole stored tiles, so that little is held beside the result.

        Raises
        ------
        SlideReadError
            A stored tile under `box` cannot be decoded.
        """
        stored = self._levels[level]
        tile_height = stored.layout.tile[1]
        step = max(BAND_BYTES // (3 * box.size[0] * tile_height), 1) * tile_height
        if box.size[1] > step:
            tiles = stored.layout.tiles_under(box)
            if sum(self.tile_bytes(level, tile) for tile in tiles) <= MAX_PREFETCH_BYTES:
                with contextlib.suppress(ValueError):  # of a tile that is named when it is read
                    self._source.prefetch([stored.range_of(tile) for tile in tiles])
        planes = np.empty((3, box.size[1], box.size[0]), np.uint8)
        for start in range(box.top // step * step, box.bottom, step):
            top, bottom = max(start, box.top), min(start + step, box.bottom)
            for band in self.read_boxes(level, [box._replace(top=top, bottom=bottom)]):
                if isinstance(band, SlideReadError):
                    raise band
                put_planes(band, planes[:, top - box.top :])
        return planes

    def read_tile(self, level: int, tile: StoredTile) -> TileBytes:
        """Return a tile's bytes as they are stored, or raise `SlideReadError`."""
        stored = self._levels[level]
        place = f"{self._path}: level {level}, stored tile {tile[0]}, {tile[1]}"
        try:
            offset, count = stored.range_of(tile)
            data = self._source.read(offset, count)
        except Exception as err:  # file systems raise whatever they stumble over
            raise SlideReadError(f"{place}: {err}") from err
        if len(data) < count:
            raise SlideReadError(f"{place}: the file ends after {len(data)} of its {count} bytes")
        found = TileBytes.from_bytes(data)
        width, height = stored.layout.box_of(tile).size
        found.place, found.inside = place, (height, width)
        return found


@dataclass(frozen=True, slots=True)
class TileSource:
    """How to open a slide's stored tiles, here or in another process."""

    path: str
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def open(self) -> StoredTiles:
        """Open the slide.

        Raises
        ------
        SlideOpenError
            No such file, or it has no tiles of its own that could be shown.
        """
        if not is_url(self.path) and not Path(self.path).exists():
            raise SlideOpenError(f"{self.path}: no such file; check the path")
        try:
            opened = StoredTiles.open(self.path, self.storage_options)
            check_level_sizes(self.path, opened.level_sizes)
            return opened
        except UnsupportedSlideError as err:
            raise SlideOpenError(
                f"{self.path}: {err}; only a TIFF's own tiles can be shown as Zarr: read this "
                f"slide with level_array(open_slide(path), level)"
            ) from err


class StoredTileStore(Store):
    """A slide as Zarr v3: a group of `attributes`, and an array ``0``, ``1``... for each level.

    Chunk ``<level>/c/0/<row>/<column>`` is a range of the file; that of a tile that was never
    scanned is missing, and reads as white. Nothing can be written. It pickles as `source`, and
    opens that anew, once in a process, where no open `tiles` are given.
    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True

    def __init__(
        self,
        source: TileSource,
        attributes: Mapping[str, Any],
        *,
        tiles: StoredTiles | None = None,
    ) -> None:
        super().__init__(read_only=True)
        self.source = source
        self.attributes = dict(attributes)
        self._tiles = tiles

    @property
    def tiles(self) -> StoredTiles:
        """The open slide."""
        if self._tiles is None:
            self._tiles = _shared_tiles(self.source)
        return self._tiles

    @functools.cached_property
    def _documents(self) -> dict[str, bytes]:
        group = {"zarr_format": 3, "node_type": "group", "attributes": self.attributes}
        levels = range(len(self.tiles.level_sizes))
        documents = {DOCUMENT: group} | {
            f"{level}/{DOCUMENT}": array_document(self.tiles, level) for level in levels
        }
        return {key: json.dumps(value).encode() for key, value in documents.items()}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key in self._documents:
            found = prototype.buffer.from_bytes(self._documents[key])
        else:
            chunk = _parse(key)
            if chunk is None or not self.tiles.tile_bytes(*chunk):
                return None
            tile = await asyncio.to_thread(self.tiles.read_tile, *chunk)
            is_wanted = isinstance(tile, prototype.buffer)
            found = tile if is_wanted else prototype.buffer.from_buffer(tile)
        return found if byte_range is None else found[_slice(byte_range, len(found))]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return self._size(key) > 0

    async def getsize(self, key: str) -> int:
        if not self._size(key):
            raise FileNotFoundError(key)
        return self._size(key)

    async def set(self, key: str, value: Buffer) -> None:
        raise ValueError(f"{self}: cannot set {key!r}: a slide shown as Zarr is read only")

    async def delete(self, key: str) -> None:
        raise ValueError(f"{self}: cannot delete {key!r}: a slide shown as Zarr is read only")

    async def list(self) -> AsyncIterator[str]:
        for key in self._keys(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        start = f"{prefix.strip('/')}/".lstrip("/")
        keys = self._keys(start) if start else iter(self._documents)
        for name in dict.fromkeys(key[len(start) :].partition("/")[0] for key in keys):
            yield name

    def close(self) -> None:
        self._tiles = None
        super().close()

    def _size(self, key: str) -> int:
        """Return how many bytes a key's value has; 0 if there is no such key."""
        if key in self._documents:
            return len(self._documents[key])
        chunk = _parse(key)
        return self.tiles.tile_bytes(*chunk) if chunk else 0

    def _keys(self, prefix: str) -> Iterator[str]:
        levels = range(len(self.tiles.level_sizes))
        chunks = (key for level in levels for key in _chunk_keys(self.tiles, level))
        return (k for k in itertools.chain(self._documents, chunks) if k.startswith(prefix))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredTileStore) and (self.source, self.attributes) == (
            other.source,
            other.attributes,
        )

    def __reduce__(self) -> tuple[type[StoredTileStore], tuple[TileSource, dict[str, Any]]]:
        return StoredTileStore, (self.source, self.attributes)

    def __str__(self) -> str:
        return self.source.path

    def __repr__(self) -> str:
        return f"StoredTileStore({self.source.path!r})"


def array_document(tiles: StoredTiles, level: int) -> dict[str, Any]:
    """Return the Zarr v3 metadata of a level: (c, y, x) over tiles stored as (y, x, c)."""
    (width, height), (tile_width, tile_height) = tiles.level_sizes[level], tiles.tile_size(level)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, height, width],
        "data_type": "uint8",
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [3, tile_height, tile_width]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": WHITE,
        "codecs": [
            {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
            StoredTileCodec(tiles.formats[level]).to_dict(),
        ],
        "dimension_names": ["c", "y", "x"],
        "attributes": {},
    }


def _chunk_keys(tiles: StoredTiles, level: int) -> Iterator[str]:
    columns, rows = tiles.tile_counts(level)
    for row, column in itertools.product(range(rows), range(columns)):
        if tiles.tile_bytes(level, (column, row)):
            yield f"{level}/c/0/{row}/{column}"


def _parse(key: str) -> tuple[int, StoredTile] | None:
    """Return the level and the (column, row) of a chunk's key.

    Examples
    --------
    >>> _parse("1/c/0/3/4"), _parse("1/zarr.json")
    ((1, (4, 3)), None)
    """
    found = re.fullmatch(r"(0|[1-9][0-9]{0,8})/c/0/(0|[1-9][0-9]{0,8})/(0|[1-9][0-9]{0,8})", key)
    if found is None:
        return None
    level, row, column = map(int, found.groups())
    return level, (column, row)


def _slice(wanted: ByteRequest, length: int) -> slice:
    """Return the part of a value of `length` bytes that Zarr asks for."""
    if isinstance(wanted, RangeByteRequest):
        return slice(wanted.start, wanted.end)
    if isinstance(wanted, OffsetByteRequest):
        return slice(wanted.offset, None)
    return slice(max(length - wanted.suffix, 0), None)


@functools.lru_cache(maxsize=OPEN_TIFFS)
def _shared_tiles(source: TileSource) -> StoredTiles:
    return source.open()
