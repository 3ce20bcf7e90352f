"""Rectangles and tile positions, in level-0 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPE_TOLERANCE = 0.05
"""Relative difference in height up to which two pictures have the same shape."""


@dataclass(frozen=True, slots=True)
class Region:
    """Rectangle in level-0 pixels; `x0`, `y0` is its top left pixel."""

    x0: int
    y0: int
    width: int
    height: int

    def level_slices(self, downsample: float) -> tuple[slice, slice]:
        """Return (rows, columns) into a level's array; edges rounded half up, shared by neighbours.

        Rounded, not floored: pyramids state downsamples such as 4.00012 for 4.

        Examples
        --------
        >>> Region(8, 0, 8, 8).level_slices(4.00012)
        (slice(0, 2, None), slice(2, 4, None))
        """

        def edge(position: int) -> int:
            return math.floor(position / downsample + 0.5)

        rows = slice(edge(self.y0), edge(self.y0 + self.height))
        columns = slice(edge(self.x0), edge(self.x0 + self.width))
        return rows, columns


class PixelBox(NamedTuple):
    """Whole pixels of a level, `right` and `bottom` exclusive; may reach outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.right - self.left, self.bottom - self.top

    def within(self, width: int, height: int) -> PixelBox:
        """Return the part inside a picture of that size."""
        return PixelBox(
            max(self.left, 0), max(self.top, 0), min(self.right, width), min(self.bottom, height)
        )


def true_downsample(length: int, level_length: int) -> float:
    """Return by how much a level shrinks an axis of `length` px to `level_length` px.

    Writers shrink by whole factors and drop (or complete) the last pixel, so that 2967 px become
    741 at a factor of 4, not of 4.004: taken literally, the far end would be shifted.

    Examples
    --------
    >>> true_downsample(2967, 741), true_downsample(60001, 15001), true_downsample(1000, 300)
    (4.0, 4.0, 3.3333333333333335)
    """
    factor = round(length / level_length)
    is_whole = factor >= 1 and abs(factor * level_length - length) < factor
    return float(factor) if is_whole else length / level_length


def is_reduced(size: tuple[int, int], *, base: tuple[int, int], last: tuple[int, int]) -> bool:
    """Whether a picture can be the next level of a pyramid: smaller, and of the base's shape.

    Parameters
    ----------
    size, base, last
        (width, height) of the picture, of level 0 and of the coarsest level so far.

    Examples
    --------
    >>> is_reduced((75, 62), base=(300, 250), last=(150, 125))
    True
    >>> is_reduced((387, 463), base=(2220, 2967), last=(2220, 2967))  # a label
    False
    """
    if not (0 < size[0] < last[0] and 0 < size[1] <= last[1]):
        return False
    expected = base[1] * size[0] / base[0]
    return abs(size[1] - expected) <= max(1.0, SHAPE_TOLERANCE * expected)


def tile_starts(
    length: int, tile: int, stride: int, *, overhang: bool = False
) -> NDArray[np.int64]:
    """Return the start of every tile along one axis.

    Parameters
    ----------
    length
        Axis length, level-0 px; may be smaller than `tile`.
    tile, stride
        Tile edge and step, level-0 px, both > 0.
    overhang
        Also return the starts of tiles that reach over the end, until every pixel is covered.

    Returns
    -------
    Ascending starts, shape ``(n,)``; empty if no whole tile fits and none may overhang.

    Raises
    ------
    ValueError
        `tile` or `stride` is not positive.

    Examples
    --------
    >>> tile_starts(10, tile=4, stride=3).tolist()
    [0, 3, 6]
    >>> tile_starts(11, tile=4, stride=4).tolist()
    [0, 4]
    >>> tile_starts(11, tile=4, stride=4, overhang=True).tolist()
    [0, 4, 8]
    """
    if tile <= 0 or stride <= 0:
        raise ValueError(f"tile={tile}, stride={stride}: both must be positive")
    whole = max((length - tile) // stride + 1, 0)
    covered = (whole - 1) * stride + tile if whole else 0
    extra = math.ceil((length - covered) / stride) if overhang and covered < length else 0
    return np.arange(whole + extra, dtype=np.int64) * stride
