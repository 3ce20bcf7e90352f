"""Where to look: neighbouring tiles of high score as regions, the highest first."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiling.geometry import Region

if TYPE_CHECKING:
    from tiling.slide import Slide
    from tiling.store import SlideStore

TOP_SHARE, LEAST_TILES = 0.05, 10
"""What counts as high: this share of the tiles, but so many at least."""
MOST_TILES = 36
"""Tiles of a region, six by six: what one field of view at 10x shows. Larger ones are divided."""
MOST_REGIONS = 100


@dataclass(frozen=True, slots=True, eq=False)
class RankedRegion:
    """Tiles that touch, all of high score.

    Attributes
    ----------
    rank
        1 is looked at first.
    box
        What the tiles cover, level-0 px; cut at the slide's end.
    tiles
        Indices of the tiles in the store, highest first, int64 ``(K,)``.
    peak, mass
        The highest of their values, and the sum.
    percentile
        Share of the slide's tiles that are not above the peak, 0 to 1.
    """

    rank: int
    box: Region
    tiles: NDArray[np.int64]
    peak: float
    mass: float
    percentile: float


def rank_regions(
    coords: NDArray[np.int64],
    values: NDArray[np.floating],
    *,
    extent: tuple[int, int],
    stride: tuple[int, int],
    slide_size: tuple[int, int],
    share: float = TOP_SHARE,
    most_tiles: int = MOST_TILES,
    most_regions: int = MOST_REGIONS,
) -> list[RankedRegion]:
    """Return the regions of a slide, by their peak, then by their sum.

    High tiles are joined with the high tiles around them, corners included, always the highest
    neighbour next. A region that is full leaves the rest to further regions, so that what is
    joined does not depend on the order of the tiles.

    Parameters
    ----------
    coords
        x0, y0 of the tiles, level 0, shape ``(N, 2)``; multiples of `stride`.
    values
        Score or attention, shape ``(N,)``; NaN is no tile. All alike say nothing of where to
        look: there is no region.
    extent, stride, slide_size
        As :class:`tiling.TileGrid` has them, level-0 px.
    share
        How many tiles are high, 0 to 1; `LEAST_TILES` at least.
    most_tiles, most_regions
        Limits of a region, and of the result.
    """
    real = np.flatnonzero(np.isfinite(values))
    if not len(real) or float(np.ptp(values[real])) == 0:
        return []
    place = np.lexsort((coords[real, 0], coords[real, 1]))
    real = real[place]
    order = real[np.argsort(-values[real], kind="stable")]
    high = order[: max(round(share * len(order)), LEAST_TILES)]
    ascending = np.sort(values[real])
    found = []
    for tiles in _joined(coords[high] // np.asarray(stride), most_tiles):
        own = high[tiles]
        peak = float(values[own[0]])
        below = int(np.searchsorted(ascending, peak, side="right"))
        box = _box_of(coords[own], extent, slide_size)
        found.append((peak, float(values[own].sum()), box, own, below / len(ascending)))
    found.sort(key=lambda region: (-region[0], -region[1], region[2].y0, region[2].x0))
    return [
        RankedRegion(rank, box, own, peak, mass, percentile)
        for rank, (peak, mass, box, own, percentile) in enumerate(found[:most_regions], 1)
    ]


def regions_of(store: SlideStore, values: NDArray[np.floating]) -> list[RankedRegion]:
    """Return the regions of a store's tiles by their `values` ``(N,)``."""
    grid = store.grid
    return rank_regions(
        grid.coords, values, extent=grid.extent, stride=grid.stride, slide_size=grid.slide_size
    )


def region_thumbnail(slide: Slide, box: Region, size_px: int = 96) -> NDArray[np.uint8]:
    """Return a square picture ``(size_px, size_px, 3)`` around a region; white off the slide.

    Raises
    ------
    SlideReadError
        The stored data cannot be decoded.
    """
    side = max(box.width, box.height)
    x0 = box.x0 - (side - box.width) // 2
    y0 = box.y0 - (side - box.height) // 2
    return slide.read_scaled((x0, y0), (side, side), (size_px, size_px))


def _joined(cells: NDArray[np.int64], most_tiles: int) -> list[list[int]]:
    """Return which `cells` ``(K, 2)``, highest first, lie together: lists of indices, in order."""
    left = {(column, row): index for index, (column, row) in enumerate(cells.tolist())}
    regions = []
    for column, row in cells.tolist():
        if (column, row) not in left:
            continue
        waiting, taken = [left.pop((column, row))], list[int]()
        while waiting and len(taken) < most_tiles:
            index = heapq.heappop(waiting)
            taken.append(index)
            x, y = cells[index].tolist()
            for near in ((x + i, y + j) for j in (-1, 0, 1) for i in (-1, 0, 1)):
                if near in left:
                    heapq.heappush(waiting, left.pop(near))
        for index in waiting:  # no room: they begin or join other regions
            left[tuple(cells[index].tolist())] = index
        regions.append(sorted(taken))
    return regions


def _box_of(
    coords: NDArray[np.int64], extent: tuple[int, int], slide_size: tuple[int, int]
) -> Region:
    x0, y0 = coords.min(axis=0).tolist()
    x1, y1 = np.minimum(coords.max(axis=0) + extent, slide_size).tolist()
    return Region(x0, y0, x1 - x0, y1 - y0)
