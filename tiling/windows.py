"""Overlapping windows over a slide, and what a network says of them blended into one map.

Nothing but the part that a row of windows shares with the next is kept, so a map is written strip
by strip in memory that does not grow with the slide's height, and little with its width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MOST_PARTS = 16
"""Of a window's edge, in which the step from one to the next is counted."""


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Windows of `tile_px` map pixels, `stride_px` apart; those at the end reach over the slide.

    A cell is the square of `stride_px` that begins where a window does: what one window adds to
    its neighbours, and what is written at once. A strip is a row of cells.

    Attributes
    ----------
    extent, stride
        (x, y) of a window and of the step to the next, level-0 px, whole: windows lie exactly on
        the map's pixels.
    size
        (width, height) of the map, px.
    slide_size, slide_mpp
        (width, height) in px and pixel size (x, y) in µm, level 0.
    """

    tile_px: int
    stride_px: int
    extent: tuple[int, int]
    stride: tuple[int, int]
    size: tuple[int, int]
    slide_size: tuple[int, int]
    slide_mpp: tuple[float, float]

    @property
    def overlap_px(self) -> int:
        """Pixels that neighbouring windows share."""
        return self.tile_px - self.stride_px

    @property
    def pixel(self) -> tuple[float, float]:
        """Size (x, y) of a map pixel, level-0 px."""
        return self.extent[0] / self.tile_px, self.extent[1] / self.tile_px

    @property
    def mpp(self) -> tuple[float, float]:
        """Size (x, y) of a map pixel, µm: what was asked for, up to whole level-0 pixels."""
        return self.pixel[0] * self.slide_mpp[0], self.pixel[1] * self.slide_mpp[1]

    @property
    def windows(self) -> tuple[int, int]:
        """(columns, rows) of windows that cover the map."""
        columns, rows = (
            max(-(-(length - self.tile_px) // self.stride_px), 0) + 1 for length in self.size
        )
        return columns, rows

    @property
    def cells(self) -> tuple[int, int]:
        """(columns, rows) of cells that cover the map."""
        return -(-self.size[0] // self.stride_px), -(-self.size[1] // self.stride_px)

    def coords(self, row: int) -> NDArray[np.int64]:
        """Return x0, y0 of a row's windows, level-0 px, shape ``(columns, 2)``."""
        x = np.arange(self.windows[0], dtype=np.int64) * self.stride[0]
        return np.stack([x, np.full_like(x, row * self.stride[1])], axis=1)


def window_grid(
    slide_size: tuple[int, int],
    slide_mpp: tuple[float, float],
    *,
    tile_px: int,
    mpp: float,
    overlap_px: int,
) -> WindowGrid:
    """Lay windows of `tile_px` at `mpp` µm over a slide, `overlap_px` of them shared.

    Raises
    ------
    ValueError
        `overlap_px` is no multiple of a sixteenth of `tile_px`, or more than half of it.

    Examples
    --------
    >>> grid = window_grid((5000, 3000), (0.243, 0.243), tile_px=256, mpp=0.5, overlap_px=64)
    >>> grid.extent, grid.stride, grid.size, grid.windows, grid.cells
    ((528, 528), (396, 396), (2425, 1455), (13, 8), (13, 8))
    """
    stride_px = tile_px - overlap_px
    parts = tile_px // math.gcd(tile_px, stride_px) if stride_px > 0 else 0
    if not 0 <= 2 * overlap_px <= tile_px or parts > MOST_PARTS:
        raise ValueError(
            f"overlap_px={overlap_px}: must be 0 to half of {tile_px} px and a multiple of "
            f"{tile_px / MOST_PARTS:g}"
        )
    extent = [max(round(tile_px * mpp / m / parts), 1) * parts for m in slide_mpp]
    stride = [e // parts * (stride_px * parts // tile_px) for e in extent]
    size = [-(-n * tile_px // e) for n, e in zip(slide_size, extent, strict=True)]
    return WindowGrid(
        tile_px, stride_px, (extent[0], extent[1]), (stride[0], stride[1]), (size[0], size[1]),
        slide_size, slide_mpp,
    )  # fmt: skip


def ramp(tile_px: int, overlap_px: int) -> Floats:
    """Return a window's weights along an axis: 1, rising and falling as sin² over the overlap.

    Where two windows overlap their weights sum to 1. With half of a window shared it is Hann's.

    Examples
    --------
    >>> [round(float(w), 3) for w in ramp(8, 4)]
    [0.038, 0.309, 0.691, 0.962, 0.962, 0.691, 0.309, 0.038]
    """
    weights = np.ones(tile_px)
    rising = np.sin(np.pi / 2 * (np.arange(overlap_px) + 0.5) / max(overlap_px, 1)) ** 2
    weights[:overlap_px] = rising
    weights[tile_px - overlap_px :] *= rising[::-1]
    return weights.astype(np.float32)


class Blender:
    """Windows in, one row after the other; cells of the map out, strip by strip.

    Where a window is missing (no tissue, not readable), its neighbours alone count; where there is
    none at all, no cell is given or its pixels are 0.
    """

    def __init__(self, grid: WindowGrid) -> None:
        along = ramp(grid.tile_px, grid.overlap_px)
        self._grid = grid
        self._weights = np.outer(along, along)
        self._above: dict[int, Floats] = {}
        """What the row above adds to this strip, by its windows' columns, weighted."""

    def strip(
        self, windows: Iterable[tuple[int, Floats]]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (column, pixels) of the cells of the next strip, in order.

        Parameters
        ----------
        windows
            (column, probabilities ``(tile_px, tile_px)``) of the strip's own windows, columns
            ascending.

        Returns
        -------
        Pixels are uint8 ``(stride_px, stride_px)``: probability times 255, rounded.
        """
        step = self._grid.stride_px
        here: dict[int, Floats] = {}
        below: dict[int, Floats] = {}
        done = 0
        for column, probabilities in windows:
            weighted = probabilities * self._weights
            here[column] = weighted[:step]
            below[column] = weighted[step:]
            # A cell takes from its own window and from the one before: all up to here are final.
            for cell in range(done, column + 1):
                yield from self._cell(cell, here)
            done = column + 1
            here = {column: here[column]}
        for cell in range(done, self._grid.cells[0]):
            yield from self._cell(cell, here)
        self._above = below

    def _cell(self, cell: int, here: dict[int, Floats]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        step, shared = self._grid.stride_px, self._grid.overlap_px
        parts = [
            (source[column], row, left)
            for source, row in ((here, 0), (self._above, step))
            for column, left in ((cell, 0), (cell - 1, step))
            if column in source
        ]
        if not parts or cell >= self._grid.cells[0]:
            return
        total = np.zeros((step, step), np.float32)
        weight = np.zeros((step, step), np.float32)
        for weighted, top, left in parts:
            high, wide = (step if top == 0 else shared), (step if left == 0 else shared)
            total[:high, :wide] += weighted[:high, left : left + wide]
            weight[:high, :wide] += self._weights[top : top + high, left : left + wide]
        share = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        yield cell, np.rint(255 * share).clip(0, 255).astype(np.uint8)
