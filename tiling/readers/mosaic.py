"""Boxes of a level, put together from the tiles that it is stored in; each is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError
from tiling.geometry import PixelBox
from tiling.readers.base import WHITE

REDUCTIONS = (1, 2, 4, 8)
LOADED_TOGETHER = 16
LOADED_TOGETHER_PX = 1 << 24
"""Stored tiles, and their pixels in all, that are asked for at once."""

StoredTile = tuple[int, int]
"""(column, row) of a stored tile."""
Pixels = NDArray[np.uint8]
Load = Callable[[Sequence[StoredTile], Pixels | None], Sequence[Pixels | SlideReadError | None]]
"""Decodes stored tiles: RGB pixels, which may lack what lies outside of the level; None for what
was never scanned; or the error. Where a box is one whole tile there is room for its pixels, which
the loader may use or not."""


@dataclass(frozen=True, slots=True)
class TileLayout:
    """How a level is cut into tiles: (width, height) of both, px."""

    size: tuple[int, int]
    tile: tuple[int, int]

    @property
    def reductions(self) -> tuple[int, ...]:
        """Factors by which whole tiles can be shrunk, 1 first."""
        fits = all(length % REDUCTIONS[-1] == 0 for length in self.tile)
        return REDUCTIONS if fits else REDUCTIONS[:1]

    def reduced(self, reduction: int) -> TileLayout:
        """Return the layout after shrinking every tile, in whole pixels.

        A last one that the level fills only in part is left out: the rest of it is whatever the
        stored tile was padded with, often black.
        """
        width, height = (max(length // reduction, 1) for length in self.size)
        return TileLayout((width, height), (self.tile[0] // reduction, self.tile[1] // reduction))

    def tiles_under(self, box: PixelBox) -> list[StoredTile]:
        """Return the stored tiles that `box` touches, row by row."""
        inner = box.within(*self.size)
        if inner.left >= inner.right or inner.top >= inner.bottom:
            return []
        width, height = self.tile
        columns = range(inner.left // width, -(-inner.right // width))
        rows = range(inner.top // height, -(-inner.bottom // height))
        return [(column, row) for row in rows for column in columns]

    def box_of(self, tile: StoredTile) -> PixelBox:
        """Return the pixels of the level that a stored tile covers."""
        x, y = tile[0] * self.tile[0], tile[1] * self.tile[1]
        return PixelBox(x, y, x + self.tile[0], y + self.tile[1]).within(*self.size)


def read_mosaic(
    layout: TileLayout,
    boxes: Sequence[PixelBox],
    load: Load,
    *,
    out: NDArray[np.uint8] | None = None,
) -> Iterator[Pixels | SlideReadError]:
    """Yield the pixels of `boxes`, as :meth:`tiling.readers.base.Reader.read_boxes` does.

    A stored tile is kept decoded until the last box that needs it is done, no longer.

    Parameters
    ----------
    layout, boxes
        Of one level, in its pixels after reduction.
    load
        Decodes stored tiles at that reduction.
    """
    needs = [layout.tiles_under(box) for box in boxes]
    last_use = {tile: place for place, tiles in enumerate(needs) for tile in tiles}
    lot = min(LOADED_TOGETHER, max(LOADED_TOGETHER_PX // (layout.tile[0] * layout.tile[1]), 1))
    kept: dict[StoredTile, Pixels | SlideReadError | None] = {}
    for place, (box, tiles) in enumerate(zip(boxes, needs, strict=True)):
        width, height = box.size
        canvas = np.empty((height, width, 3), np.uint8) if out is None else out[place]
        if box.within(*layout.size) != box:
            canvas[:] = WHITE
        error: SlideReadError | None = None
        for start in range(0, len(tiles), lot):
            together = tiles[start : start + lot]
            missing = [tile for tile in together if tile not in kept]
            is_whole = box.size == layout.tile and box == layout.box_of(tiles[0])
            is_lone = missing == tiles and last_use[tiles[0]] == place
            room = canvas if is_whole and is_lone else None
            kept.update(zip(missing, load(missing, room), strict=True))
            for tile in together:
                found = kept[tile] if last_use[tile] > place else kept.pop(tile)
                if isinstance(found, SlideReadError):
                    error = error or found
                elif found is not canvas:
                    _paste(canvas, box, found, layout.box_of(tile))
        yield error or canvas


def _paste(canvas: Pixels, box: PixelBox, pixels: Pixels | None, at: PixelBox) -> None:
    """Put the pixels of a stored tile, which lies `at`, into the canvas of `box`."""
    left, top = max(at.left, box.left), max(at.top, box.top)
    right, bottom = min(at.right, box.right), min(at.bottom, box.bottom)
    room = canvas[top - box.top : bottom - box.top, left - box.left : right - box.left]
    if pixels is None:
        room[:] = WHITE
    else:
        room[:] = pixels[top - at.top : bottom - at.top, left - at.left : right - at.left]


def shrink(pixels: Pixels, reduction: int) -> Pixels:
    """Return ``(h, w, 3)`` averaged over squares; the last row and column stand for what they lack.

    Examples
    --------
    >>> shrink(np.arange(5, dtype=np.uint8)[None, :, None].repeat(3, 2), 2)[..., 0].tolist()
    [[1, 3, 4]]
    """
    if reduction == 1:
        return pixels
    height, width = pixels.shape[:2]
    down, right = -height % reduction, -width % reduction
    if down or right:
        pixels = np.pad(pixels, ((0, down), (0, right), (0, 0)), mode="edge")
    size = pixels.shape[1] // reduction, pixels.shape[0] // reduction
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
