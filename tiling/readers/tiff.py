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
from tiling.readers.base import MAX_ASSOCIATED_PX, WHITE, Reader, UnsupportedSlideError
from tiling.readers.byte_source import ByteSource, LocalBytes, Range, RemoteBytes
from tiling.readers.stored_tiles import TileDecoder, as_rgb, decoder_of
from tiling.readers.tiff_check import check_tiff
from tiling.readers.tiff_layout import TiffLayout, read_layout
from tiling.resample import resample

StoredTile = tuple[int, int]
"""(column, row) of a stored tile."""


@dataclass(frozen=True, slots=True)
class StoredLevel:
    """One level as it lies in the file."""

    size: tuple[int, int]
    tile: tuple[int, int]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    decoder: TileDecoder

    @property
    def columns(self) -> int:
        """Stored tiles in a row."""
        return -(-self.size[0] // self.tile[0])

    def tiles_under(self, box: PixelBox, reduction: int) -> list[StoredTile]:
        """Return the stored tiles that `box`, in px of the reduced level, touches."""
        inner = box.within(*self.reduced_size(reduction))
        if min(inner.size) <= 0:  # the padding of the last stored tiles is outside, too
            return []
        tile_width, tile_height = self.tile[0] // reduction, self.tile[1] // reduction
        columns = range(inner.left // tile_width, -(-inner.right // tile_width))
        rows = range(inner.top // tile_height, -(-inner.bottom // tile_height))
        return [(column, row) for row in rows for column in columns]

    def reduced_size(self, reduction: int) -> tuple[int, int]:
        """Return (width, height) of the level shrunk by `reduction`, in whole pixels.

        A last one that the level fills only in part is left out: the rest of it is whatever the
        stored tile was padded with, often black.
        """
        return max(self.size[0] // reduction, 1), max(self.size[1] // reduction, 1)

    def box_of(self, tile: StoredTile, reduction: int) -> PixelBox:
        """Return the pixels that a stored tile covers, its padding included."""
        width, height = self.tile[0] // reduction, self.tile[1] // reduction
        x, y = tile[0] * width, tile[1] * height
        return PixelBox(x, y, x + width, y + height)

    def pixels_of(self, tile: StoredTile, reduction: int) -> tuple[int, int]:
        """Return how many pixels of a stored tile lie within the level: (width, height)."""
        return self.box_of(tile, reduction).within(*self.reduced_size(reduction)).size

    def index_of(self, tile: StoredTile) -> int:
        """Return the place of a stored tile in the file's tables."""
        return tile[1] * self.columns + tile[0]

    def range_of(self, tile: StoredTile) -> Range:
        """Return where a stored tile's bytes lie; raise `ValueError` if it states absurdly many."""
        index = self.index_of(tile)
        offset, count = int(self.offsets[index]), int(self.counts[index])
        limit = 6 * self.tile[0] * self.tile[1] + (64 << 10)  # twice its RGB, and some overhead
        if not 0 <= count <= limit or offset < 0:
            raise ValueError(f"it states {count} bytes at {offset}; it can need {limit}")
        return offset, count

    def ranges_of(self, tiles: Iterable[StoredTile]) -> Iterator[Range]:
        """Yield the ranges of those `tiles` that state a sound one."""
        for tile in tiles:
            with contextlib.suppress(ValueError):
                yield self.range_of(tile)

    def cut(
        self,
        box: PixelBox,
        decoded: Mapping[StoredTile, NDArray[np.uint8] | None],
        reduction: int,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the pixels of `box` from the stored tiles under it; white where there are none."""
        inner = box.within(*self.reduced_size(reduction))
        if out is None:
            out = np.empty((box.bottom - box.top, box.right - box.left, 3), np.uint8)
        if inner != box or any(pixels is None for pixels in decoded.values()):
            out[:] = WHITE
        for (column, row), pixels in decoded.items():
            if pixels is None or pixels is out:
                continue
            x, y, _, _ = self.box_of((column, row), reduction)
            left, right = max(x, inner.left), min(x + pixels.shape[1], inner.right)
            top, bottom = max(y, inner.top), min(y + pixels.shape[0], inner.bottom)
            out[top - box.top : bottom - box.top, left - box.left : right - box.left] = pixels[
                top - y : bottom - y, left - x : right - x
            ]
        return out


class TiffReader(Reader):
    """Aperio, Philips, OME and other TIFF slides; safe to read from several threads."""

    name: ClassVar[str] = "tiff"

    def __init__(self, path: str, source: ByteSource, layout: TiffLayout) -> None:
        self._path = path
        self._source = source
        self._layout = layout
        self._levels = tuple(
            StoredLevel(
                size=level.size,
                tile=(decoder.shape[1], decoder.shape[0]),
                offsets=np.asarray(level.page.dataoffsets, np.int64),
                counts=np.asarray(level.page.databytecounts, np.int64),
                decoder=decoder,
            )
            for level in layout.levels
            for decoder in [decoder_of(level.page)]
        )
        for number, stored in enumerate(self._levels):
            wanted = stored.columns * -(-stored.size[1] // stored.tile[1])
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
        return tuple(level.size for level in self._levels)

    @property
    def properties(self) -> Mapping[str, str]:
        return self._layout.properties

    @property
    def vendor(self) -> str:
        return self._layout.vendor

    @property
    def associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._layout.associated))

    def tile_size(self, level: int) -> tuple[int, int]:
        return self._levels[level].tile

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
        needs = [stored.tiles_under(box, reduction) for box in boxes]
        last_use = {tile: place for place, tiles in enumerate(needs) for tile in tiles}
        self._source.prefetch(stored.ranges_of(last_use))
        decoded: dict[StoredTile, NDArray[np.uint8] | None] = {}
        for place, (box, tiles) in enumerate(zip(boxes, needs, strict=True)):
            row = None if out is None else out[place]
            try:
                for tile in tiles:
                    if tile not in decoded:
                        is_all = last_use[tile] == place and box == stored.box_of(tile, reduction)
                        is_inside = box == box.within(*stored.reduced_size(reduction))
                        decoded[tile] = self._decode(
                            level, tile, reduction, row if is_all and is_inside else None
                        )
                found: NDArray[np.uint8] | SlideReadError = stored.cut(
                    box, {tile: decoded[tile] for tile in tiles}, reduction, row
                )
            except SlideReadError as err:
                found = err
            for tile in tiles:
                if last_use[tile] == place:
                    decoded.pop(tile, None)
            yield found

    def _decode(
        self, level: int, tile: StoredTile, reduction: int, out: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8] | None:
        """Return a stored tile's pixels, in `out` if possible; None if it was never scanned."""
        stored = self._levels[level]
        try:
            offset, count = stored.range_of(tile)
            if count == 0:
                return self._from_finer(level, tile, reduction)
            data = self._source.read(offset, count)
            if len(data) < count:
                raise EOFError(f"the file ends after {len(data)} of its {count} bytes")
            pixels = stored.decoder.decode(
                data, index=stored.index_of(tile), reduction=reduction, out=out
            )
            width, height = stored.pixels_of(tile, reduction)
            if pixels.shape[0] < height or pixels.shape[1] < width:
                raise ValueError(
                    f"{pixels.shape[1]} x {pixels.shape[0]} px, not {width} x {height}"
                )
            return pixels
        except Exception as err:  # codecs raise whatever they stumble over
            raise SlideReadError(
                f"{self._path}: level {level}, stored tile {tile[0]}, {tile[1]}: {err}"
            ) from err

    def _from_finer(self, level: int, tile: StoredTile, reduction: int) -> NDArray[np.uint8] | None:
        """Return a tile that a coarse level lacks, shrunk from the finer one; None if none has it.

        Aperio's encoder sometimes leaves tiles out that the finer level holds, and OpenSlide fills
        them in as here. Elsewhere, and in level 0, what is not there was never scanned.
        """
        if self.vendor != "aperio" or level == 0:
            return None
        coarse, finer = self._levels[level], self._levels[level - 1]
        inner = coarse.box_of(tile, 1).within(*coarse.size)
        scale = [true_downsample(a, b) for a, b in zip(finer.size, coarse.size, strict=True)]
        low = [start * factor for start, factor in zip(inner[:2], scale, strict=True)]
        high = [
            min(stop * factor, length)
            for stop, factor, length in zip(inner[2:], scale, finer.size, strict=True)
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
