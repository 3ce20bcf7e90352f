"""From a mask to polygons: block by block, so that the mask need never be held as a whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from skimage.measure import find_contours

from tiling.probability_map import SCALE, ProbabilityMap, blocks

BLOCK_PX = 2048
ReadMask = Callable[[slice, slice], NDArray[np.bool_]]
"""Returns the rows and columns of a mask."""


def mask_outlines(read: ReadMask, shape: tuple[int, int]) -> MultiPolygon:
    """Return what a mask holds as polygons, holes kept, in its pixels: (0, 0) is a corner.

    Lines run half-way between the centres of pixels inside and outside (marching squares [1]_), so
    that corners are cut by an eighth of a pixel; regions that touch at a corner are apart.

    Parameters
    ----------
    read
        Returns bool ``(rows, columns)``; asked for blocks that share one line with their
        neighbours.
    shape
        (height, width) of the mask.

    References
    ----------
    .. [1] Lorensen and Cline, "Marching cubes", SIGGRAPH 1987, in two dimensions.
    """
    parts: list[shapely.Geometry] = []
    for rows, columns in blocks(shape, BLOCK_PX):
        wider = (
            slice(rows.start, min(rows.stop + 1, shape[0])),
            slice(columns.start, min(columns.stop + 1, shape[1])),
        )
        mask = read(*wider)
        if mask.any():
            parts += _block(mask, wider[1].start, wider[0].start)
    # A block shows less beyond its edge than there is, never more: together they are the whole.
    whole = shapely.disjoint_subset_union_all(parts) if parts else MultiPolygon()
    return MultiPolygon([p for p in shapely.get_parts(whole) if isinstance(p, Polygon)])


def map_outlines(
    found: ProbabilityMap, threshold: float, *, simplify_px: float = 0.5, level: int = 0
) -> list[Polygon]:
    """Return where a map's probability is at least `threshold`, in level-0 px of the slide.

    Parameters
    ----------
    simplify_px
        How far a line may leave out points, px of the level; 0 keeps all of them.
    level
        Of the map.

    Returns
    -------
    Polygons, the largest first.
    """
    limit = threshold_value(threshold)

    def read(rows: slice, columns: slice) -> NDArray[np.bool_]:
        return found.read(level, rows, columns) >= limit

    area = mask_outlines(read, found.shape(level))
    polygons = [p.simplify(simplify_px) if simplify_px else p for p in area.geoms]
    scaled = shapely.transform(np.array(polygons, dtype=object), lambda xy: xy * found.pixel(level))
    return sorted(scaled.tolist(), key=lambda p: (-p.area, p.bounds))


def threshold_value(threshold: float) -> int:
    """Return the least stored value that is a probability of at least `threshold`.

    Raises
    ------
    ValueError
        `threshold` is not above 0 and at most 1.

    Examples
    --------
    >>> threshold_value(0.5), threshold_value(1.0), threshold_value(1e-9)
    (128, 255, 1)
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be above 0 and at most 1")
    return max(int(np.ceil(threshold * SCALE)), 1)


def _block(mask: NDArray[np.bool_], left: int, top: int) -> list[Polygon]:
    """Return the polygons of a block, as if nothing lay around it."""
    # Of the padded block: pixel (0, 0) of the mask has its centre at (1, 1).
    lines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    rings = [line[:, ::-1] + (left - 0.5, top - 0.5) for line in lines]
    # skimage has what is inside on one side of the line: rings of holes run the other way round.
    turns = [_signed_area(ring) for ring in rings]
    outer = [Polygon(ring) for ring, turn in zip(rings, turns, strict=True) if turn > 0]
    holes = [ring for ring, turn in zip(rings, turns, strict=True) if turn < 0]
    if not holes:
        return outer
    places = shapely.points(np.array([ring[0] for ring in holes]))
    hole, around = shapely.STRtree(outer).query(places, predicate="within")
    sizes = shapely.area(outer)
    inside: dict[int, list[NDArray[np.float64]]] = {}
    for index in range(len(holes)):
        candidates = around[hole == index]
        inside.setdefault(int(candidates[np.argmin(sizes[candidates])]), []).append(holes[index])
    return [Polygon(p.exterior, inside.get(index)) for index, p in enumerate(outer)]


def _signed_area(ring: NDArray[np.float64]) -> float:
    """Return twice the area that a closed ring (x, y) goes round, negative for one direction."""
    (x, y), (next_x, next_y) = ring[:-1].T, ring[1:].T
    return float((x * next_y - next_x * y).sum())
