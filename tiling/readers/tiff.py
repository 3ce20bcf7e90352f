"""Tiled and striped TIFF, decoded straight from the stored tiles: fast, local or by URL."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from tiling.errors import SlideOpenError, SlideReadError
from tiling.geometry import PixelBox, true_downsample
from tiling.readers.base import MAX_ASSOCIATED_PX, Reader, UnsupportedSlideError
from tiling.readers.byte_source import ByteSource, LocalBytes, Range, RemoteBytes
from tiling.readers.mosaic import StoredTile, TileLayout, read_mosaic
from tiling.readers.stored_tiles import TileDecoder, as_rgb, decoder_of
from tiling.readers.tiff_check import check_tiff
from tiling.readers.tiff_layout import TiffLayout, TiffLevel, read_layout
from tiling.resample import resample


@dataclass(frozen=True, slots=True)
class StoredLevel:
    """One level as it lies in the file; `columns` of stored tiles, by the page's own width."""

    layout: TileLayout
    columns: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decoder: TileDecoder

    @classmethod
    def of(cls, level: TiffLevel) -> StoredLevel:
        """Return the level, which may be smaller than its page."""
        decoder = decoder_of(level.page)
        tile = decoder.shape[1], decoder.shape[0]
        return cls(
            TileLayout(level.size, tile),
            -(-int(level.page.imagewidth) // tile[0]),
            np.asarray(level.page.dataoffsets, np.int64),
            np.asarray(level.page.databytecounts, np.int64),
            decoder,
        )

    @property
    def tile_counts(self) -> tuple[int, int]:
        """Stored tiles that the level fills, at least in part: (columns, rows)."""
        width, height = self.layout.size
        return -(-width // self.layout.tile[0]), -(-height // self.layout.tile[1])

    def index_of(self, tile: StoredTile) -> int:
        """Return the place of a stored tile in the file's tables."""
        return tile[1] * self.columns + tile[0]

    def range_of(self, tile: StoredTile) -> Range:
        """Return where a stored tile's bytes lie; raise `ValueError` if it states absurdly many."""
        index = self.index_of(tile)
        offset, count = int(self.offsets[index]), int(self.counts[index])
        limit = 6 * self.layout.tile[0] * self.layout.tile[1] + (
            64 << 10
        )  # twice its RGB, and some overhead
        if not 0 <= count <= limit or offset < 0:
            raise ValueError(f"it states {count} bytes at {offset}; it can need {limit}")
        return offset, count

    def ranges_of(self, tiles: Iterable[StoredTile]) -> Iterator[Range]:
        """Yield the ranges of those `tiles` that state a sound one."""
        for tile in tiles:
            with contextlib.suppress(ValueError):
                yield self.range_of(tile)


class TiffReader(Reader):
    """Aperio, Philips, OME and other TIFF slides; safe to read from several threads."""

    name: ClassVar[str] = "tiff"

    def __init__(self, path: str, source: ByteSource, layout: TiffLayout) -> None:
        self._path = path
        self._source = source
        self._layout = layout
        self._levels = tuple(StoredLevel.of(level) for level in layout.levels)
        for number, stored in enumerate(self._levels):
            columns, rows = stored.tile_counts
            wanted = stored.columns * (rows - 1) + columns
            if min(len(stored.offsets), len(stored.counts)) < wanted:
                raise SlideOpenError(
                    f"{path}: level {number} lists {len(stored.offsets)} stored tiles of {wanted}"
                )

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> Self:
        source: ByteSource | None = None
        try:
            source = RemoteBytes(path, storage_options) if "://" in path else LocalBytes(path)
            with source.open() as file:
                check_tiff(file, path)
                with tifffile.TiffFile(file) as tiff:
                    return cls(path, source, read_layout(tiff))
        except (UnsupportedSlideError, SlideOpenError):
            raise
        except tifffile.TiffFileError as err:
            raise UnsupportedSlideError(f"tiff: {err}") from err
        except ImportError as err:
            raise SlideOpenError(f"{path}: {err}; pip install 'wsi-pipeline[remote]'") from err
        except Exception as err:  # a hostile file raises whatever tifffile stumbles over
            raise SlideOpenError(f"{path}: tiff: {type(err).__name__}: {err}") from err

    @classmethod
    def version(cls) -> str:
        return f"tiff (tifffile {tifffile.__version__})"

    @property
    def decoder(self) -> str:
        return self._levels[0].decoder.name

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.layout.size for level in self._levels)

    @property
    def properties(self) -> Mapping[str, str]:
        return self._layout.properties

    @property
    def vendor(self) -> str:
        return self._layout.vendor

    @property
    def icc_profile(self) -> bytes | None:
        return self._layout.icc_profile

    @property
    def associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._layout.associated))

    def tile_size(self, level: int) -> tuple[int, int]:
        return self._levels[level].layout.tile

    def reductions(self, level: int) -> tuple[int, ...]:
        return self._levels[level].decoder.reductions

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        downsample = self.level_downsamples[level]
        left, top = (math.floor(v / downsample + 0.5) for v in location)
        [found] = self.read_boxes(level, [PixelBox(left, top, left + size[0], top + size[1])])
        if isinstance(found, SlideReadError):
            raise found
        return found

    def read_boxes(
        self,
        level: int,
        boxes: Sequence[PixelBox],
        *,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> Iterator[NDArray[np.uint8] | SlideReadError]:
        stored = self._levels[level]
        layout = stored.layout.reduced(reduction)
        under = {tile: None for box in boxes for tile in layout.tiles_under(box)}
        self._source.prefetch(stored.ranges_of(under))

        def load(
            tiles: Sequence[StoredTile], room: NDArray[np.uint8] | None
        ) -> list[NDArray[np.uint8] | SlideReadError | None]:
            return [self._load(level, tile, reduction, room) for tile in tiles]

        return read_mosaic(layout, boxes, load, out=out)

    def _load(
        self, level: int, tile: StoredTile, reduction: int, room: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | SlideReadError | None:
        """Return a stored tile's pixels, in `room` if possible; None if it was never scanned."""
        stored = self._levels[level]
        try:
            offset, count = stored.range_of(tile)
            if count == 0:
                return self._from_finer(level, tile, reduction)
            data = self._source.read(offset, count)
            if len(data) < count:
                raise EOFError(f"the file ends after {len(data)} of its {count} bytes")
            pixels = stored.decoder.decode(
                data, index=stored.index_of(tile), reduction=reduction, out=room
            )
            width, height = stored.layout.reduced(reduction).box_of(tile).size
            if pixels.shape[0] < height or pixels.shape[1] < width:
                raise ValueError(
                    f"{pixels.shape[1]} x {pixels.shape[0]} px, not {width} x {height}"
                )
            return pixels
        except Exception as err:  # codecs raise whatever they stumble over
            place = f"{self._path}: level {level}, stored tile {tile[0]}, {tile[1]}"
            error = SlideReadError(f"{place}: {err}")
            error.__cause__ = err
            return error

    def _from_finer(self, level: int, tile: StoredTile, reduction: int) -> NDArray[np.uint8] | None:
        """Return a tile that a coarse level lacks, shrunk from the finer one; None if none has it.

        Aperio's encoder sometimes leaves tiles out that the finer level holds, and OpenSlide fills
        them in as here. Elsewhere, and in level 0, what is not there was never scanned.
        """
        if self.vendor != "aperio" or level == 0:
            return None
        coarse, finer = self._levels[level], self._levels[level - 1]
        inner = coarse.layout.box_of(tile)
        sizes = zip(finer.layout.size, coarse.layout.size, strict=True)
        scale = [true_downsample(a, b) for a, b in sizes]
        low = [start * factor for start, factor in zip(inner[:2], scale, strict=True)]
        high = [
            min(stop * factor, length)
            for stop, factor, length in zip(inner[2:], scale, finer.layout.size, strict=True)
        ]
        box = PixelBox(*(math.floor(v) for v in low), *(math.ceil(v) for v in high))
        [pixels] = self.read_boxes(level - 1, [box])
        if isinstance(pixels, SlideReadError):
            raise pixels
        width, height = (max(length // reduction, 1) for length in inner.size)
        found = np.empty((height, width, 3), np.uint8)
        resample(
            pixels,
            (low[0] - box.left, low[1] - box.top, high[0] - box.left, high[1] - box.top),
            found,
        )
        return found

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        number = self._layout.associated[name]
        try:
            with self._source.open() as file, tifffile.TiffFile(file) as tiff:
                page = tiff.pages[number]
                if not isinstance(page, tifffile.TiffPage):
                    raise ValueError("no image")
                if page.imagewidth * page.imagelength > MAX_ASSOCIATED_PX:
                    raise ValueError(f"{page.imagewidth} x {page.imagelength} px is no overview")
                return as_rgb(np.asarray(page.asarray()))
        except Exception as err:
            raise SlideReadError(f"{self._path}: associated image {name!r}: {err}") from err

    def close(self) -> None:
        self._source.close()
