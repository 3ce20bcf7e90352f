"""What people drew on a slide: outlines and points in level-0 pixels, and the area they enclose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from tiling.errors import WSIError

Floats = NDArray[np.float64]
Kind = Literal["polygon", "line", "point"]

TUMOUR_GROUPS = frozenset({"_0", "_1", "Tumor", "Tumour", "metastases"})
"""Groups of outlines of tumour: CAMELYON16's three, and CAMELYON17's."""
EXCLUDED_GROUPS = frozenset({"_2", "Exclusion", "None", "normal"})
"""Groups of outlines, most inside those of tumour, of what is none."""
IGNORED_GROUPS = frozenset({"Exclusion", "Ignore", "Ignore*"})
"""Groups of outlines that are cut out of a region to look at: ASAP's and QuPath's names."""
MOST_VERTICES = 128
"""Of a piece of an area that tiles are compared with; fewer cost more in cutting."""


class AnnotationError(WSIError, ValueError):
    """An annotation file cannot be read or written, or its groups say nothing known."""


class UnknownGroupError(AnnotationError):
    """An outline's group is neither of tumour nor of what is none; nothing is guessed."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """One drawn object.

    `vertices` float64 ``(N, 2)``, x and y in level-0 pixels, as drawn: an outline is not closed,
    may cross itself or have too few points to enclose anything. `holes` are rings of the same kind.
    """

    name: str
    group: str
    kind: Kind
    vertices: Floats
    holes: tuple[Floats, ...] = ()

    @property
    def area(self) -> MultiPolygon:
        """What the outline encloses; nothing for lines, points and degenerate outlines.

        Of an outline that crosses itself, every point that it winds around, as ASAP fills it.
        """
        inside = _filled(self.vertices) if self.kind == "polygon" else MultiPolygon()
        if self.holes and not inside.is_empty:
            holes = shapely.union_all([_filled(ring) for ring in self.holes])
            inside = _polygons(shapely.difference(inside, holes))
        return inside


def tumour_area(
    annotations: Iterable[Annotation],
    *,
    tumour: Collection[str] = TUMOUR_GROUPS,
    excluded: Collection[str] = EXCLUDED_GROUPS,
) -> MultiPolygon:
    """Return the area of tumour: all outlines of groups in `tumour` less those in `excluded`.

    Raises
    ------
    UnknownGroupError
        An outline's group is in neither.
    """
    parts: dict[bool, list[MultiPolygon]] = {True: [], False: []}
    for annotation in annotations:
        if annotation.kind != "polygon":
            continue
        if annotation.group not in tumour and annotation.group not in excluded:
            known = ", ".join(sorted({*tumour, *excluded}))
            raise UnknownGroupError(
                f"{annotation.name}: group {annotation.group!r} is neither tumour nor excluded; "
                f"known are {known}"
            )
        parts[annotation.group in tumour].append(annotation.area)
    return _polygons(shapely.difference(_united(parts[True]), _united(parts[False])))


def region_area(annotations: Iterable[Annotation]) -> MultiPolygon:
    """Return where to look: all outlines, whatever their group, less those of `IGNORED_GROUPS`.

    Raises
    ------
    AnnotationError
        They enclose nothing.
    """
    parts: dict[bool, list[MultiPolygon]] = {True: [], False: []}
    for annotation in annotations:
        parts[annotation.group in IGNORED_GROUPS].append(annotation.area)
    found = _polygons(shapely.difference(_united(parts[False]), _united(parts[True])))
    if found.is_empty:
        raise AnnotationError("the outlines enclose no area; draw a polygon around what to look at")
    return found


def check_on_slide(area: MultiPolygon, size: tuple[int, int]) -> None:
    """Make sure that every polygon of `area` has a part on a slide of `size` (width, height).

    Raises
    ------
    ValueError
        `size` is not positive.
    AnnotationError
        A polygon has none: it is another slide's, or drawn in another level's pixels.
    """
    if min(size) < 1:
        raise ValueError(f"size={size}: must be positive")
    whole = shapely.box(0, 0, *size)
    outside = [part for part in area.geoms if not part.intersects(whole)]
    if outside:
        bounds = ", ".join(f"{v:.0f}" for v in outside[0].bounds)
        raise AnnotationError(
            f"{len(outside)} of {len(area.geoms)} outlines lie outside the slide, the first at "
            f"({bounds}), the slide is {size[0]} x {size[1]} px; is it another slide's, or drawn "
            "in pixels of another level?"
        )


def area_fractions(
    area: MultiPolygon, coords: NDArray[np.int64], extent: tuple[float, float]
) -> Floats:
    """Return the share of every tile that lies in `area`, exactly, shape ``(N,)``.

    Parameters
    ----------
    area
        Polygons in level-0 px, valid, as :func:`tumour_area` gives.
    coords, extent
        x0, y0 of the tiles ``(N, 2)`` and their (width, height), level-0 px; tiles may overlap.

    Raises
    ------
    ValueError
        `extent` is not positive.
    """
    if not min(extent) > 0:
        raise ValueError(f"extent={extent}: must be positive")
    fractions = np.zeros(len(coords))
    pieces = np.array(area_pieces(area, 4 * max(extent)), dtype=object)
    if not len(pieces) or not len(coords):
        return fractions
    corners = np.asarray(coords, np.float64)
    tiles = np.asarray(shapely.box(*corners.T, *(corners + extent).T), dtype=object)
    # A piece spans a few tiles and has few vertices: what it shares with a tile is soon known.
    tile, piece = shapely.STRtree(pieces).query(tiles, predicate="intersects")
    shared = shapely.area(shapely.intersection(tiles[tile], pieces[piece]))
    fractions += np.bincount(tile, shared, minlength=len(coords)) / (extent[0] * extent[1])
    return np.minimum(fractions, 1.0)


def area_mask(
    area: MultiPolygon, size: tuple[int, int], downsample: float, *, first_row: int = 0
) -> NDArray[np.bool_]:
    """Return which pixels of a level have their centre in `area`, shape ``(height, width)``.

    A centre on an edge that two areas share lies in one of them.

    Parameters
    ----------
    area
        Polygons in level-0 px, valid.
    size
        (width, height) of what is wanted, px of the level.
    downsample
        Level-0 px for one px of the level.
    first_row
        The level's row that is the first of the result: any strip can be had by itself.
    """
    width, height = size
    toggles = np.zeros((height, width + 1), np.uint8)
    for start, end in _edges(area):
        # Rows whose centre lies between the ends, the lower one included: each crossed once.
        low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        top = np.clip(np.ceil(low / downsample - 0.5) - first_row, 0, height).astype(np.int64)
        bottom = np.clip(np.ceil(high / downsample - 0.5) - first_row, 0, height).astype(np.int64)
        rows_of = np.maximum(bottom - top, 0)
        edge = np.repeat(np.arange(len(start)), rows_of)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of) + top[edge]
        centre = (row + first_row + 0.5) * downsample
        slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
        x = start[edge, 0] + (centre - start[edge, 1]) * slope
        column = np.clip(np.ceil(x / downsample - 0.5), 0, width).astype(np.int64)
        np.bitwise_xor.at(toggles, (row, column), 1)
    return np.bitwise_xor.accumulate(toggles, axis=1)[:, :width].astype(bool)


def area_pieces(area: shapely.Geometry, reach: float) -> list[Polygon]:
    """Return `area` cut in halves until a piece has few vertices or is below `reach` px.

    The pieces touch and do not overlap.
    """
    done: list[Polygon] = []
    left = list(shapely.get_parts(area))
    while left:
        part = left.pop()
        x0, y0, x1, y1 = part.bounds
        if shapely.get_num_coordinates(part) <= MOST_VERTICES or max(x1 - x0, y1 - y0) <= reach:
            done.append(part)
            continue
        if x1 - x0 > y1 - y0:
            middle = (x0 + x1) / 2
            halves = shapely.box([x0, middle], y0, [middle, x1], y1)
        else:
            middle = (y0 + y1) / 2
            halves = shapely.box(x0, [y0, middle], x1, [middle, y1])
        left += [p for half in shapely.intersection(part, halves) for p in _polygons(half).geoms]
    return done


def _filled(ring: Floats) -> MultiPolygon:
    if len(ring) < 3:
        return MultiPolygon()
    outline = Polygon(ring)
    if not outline.is_valid:
        # GEOS's method "structure" fills by the winding number; "linework" would leave what is
        # wound around twice.
        return _polygons(shapely.make_valid(outline, method="structure", keep_collapsed=False))
    return MultiPolygon([outline])


def _polygons(found: shapely.Geometry) -> MultiPolygon:
    """Return the polygons of a result, without the lines and points at which areas touch."""
    parts = shapely.get_parts(found)
    return MultiPolygon([p for p in parts if isinstance(p, Polygon) and not p.is_empty])


def _united(areas: Sequence[MultiPolygon]) -> shapely.Geometry:
    return shapely.disjoint_subset_union_all([a for a in areas if not a.is_empty])


def _edges(area: MultiPolygon) -> Iterable[tuple[Floats, Floats]]:
    """Yield both ends ``(N, 2)`` of all edges of every polygon, its holes' included."""
    for polygon in area.geoms:
        rings = [np.asarray(r.coords)[:, :2] for r in (polygon.exterior, *polygon.interiors)]
        yield (np.concatenate([r[:-1] for r in rings]), np.concatenate([r[1:] for r in rings]))
