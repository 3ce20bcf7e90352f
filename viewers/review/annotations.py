"""Outlines between files (level-0 pixels, x then y) and napari's shapes (row, then column).

A polygon with holes is one path in napari: outline, first point again, hole, its first point again,
back to the outline's first point, and so on. Holes wind the other way round, so that even a path
that was pulled apart by hand encloses no hole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon, difference

from tiling.annotations import Annotation, AnnotationError, Floats

UNCLASSIFIED = "None"
ELLIPSE_POINTS = 96


CLEAR_AREA = 1e-3
"""Square pixels that no rounding of coordinates makes of nothing."""


@dataclass(frozen=True, slots=True)
class ShapeData:
    """What napari's Shapes and Points layers take; frame: level-0 px as in files, (y, x).

    Attributes
    ----------
    paths, kinds, names, groups
        A shape each: vertices float64 ``(N, 2)``; ``"polygon"`` or ``"path"``; name; class.
    points, point_names, point_groups
        A point each, ``(y, x)``.
    """

    paths: list[Floats] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    points: list[Floats] = field(default_factory=list)
    point_names: list[str] = field(default_factory=list)
    point_groups: list[str] = field(default_factory=list)


def to_shapes(annotations: Iterable[Annotation]) -> tuple[ShapeData, list[str]]:
    """Return annotations as napari takes them, and what was left out and why.

    An outline of fewer than three points, or without area, cannot be drawn or edited.
    """
    found, left_out = ShapeData(), []
    for annotation in annotations:
        if annotation.kind == "point":
            for x, y in annotation.vertices.tolist():
                found.points.append(np.array([y, x]))
                found.point_names.append(annotation.name)
                found.point_groups.append(annotation.group)
            continue
        rings = [annotation.vertices, *annotation.holes]
        least = 3 if annotation.kind == "polygon" else 2
        if len(annotation.vertices) < least or (
            annotation.kind == "polygon" and not _encloses(annotation)
        ):
            left_out.append(f"{annotation.name}: {len(annotation.vertices)} points enclose nothing")
            continue
        path = keyhole(rings) if annotation.kind == "polygon" else annotation.vertices
        found.paths.append(np.ascontiguousarray(path[:, ::-1]))
        found.kinds.append("polygon" if annotation.kind == "polygon" else "path")
        found.names.append(annotation.name)
        found.groups.append(annotation.group)
    return found, left_out


def from_shapes(
    paths: Sequence[Floats],
    kinds: Sequence[str],
    names: Sequence[str],
    groups: Sequence[str],
    points: Sequence[Floats] = (),
    point_names: Sequence[str] = (),
    point_groups: Sequence[str] = (),
) -> list[Annotation]:
    """Return what is drawn as annotations, level-0 px.

    Parameters
    ----------
    paths, kinds
        Vertices ``(N, 2)`` as (y, x) and napari's shape types; rectangles and ellipses become
        polygons.
    points, point_names, point_groups
        Of a Points layer.
    """
    found = []
    for path, kind, name, group in zip(paths, kinds, names, groups, strict=True):
        vertices = np.asarray(path, np.float64)[:, ::-1]
        if kind in ("path", "line"):
            found.append(Annotation(name, group, "line", vertices))
        elif kind == "ellipse":
            found.append(Annotation(name, group, "polygon", ellipse(vertices)))
        else:
            found += _from_keyhole(name, group, vertices)
    for point, name, group in zip(points, point_names, point_groups, strict=True):
        vertices = np.asarray(point, np.float64)[None, ::-1]
        found.append(Annotation(name, group, "point", vertices))
    return found


def keyhole(rings: Sequence[Floats]) -> Floats:
    """Return an outline and its holes as one path; an outline without holes as it is.

    Examples
    --------
    >>> keyhole([np.array([[0, 0], [9, 0], [9, 9]]), np.array([[5, 1], [6, 1], [6, 2]])]).tolist()
    [[0, 0], [9, 0], [9, 9], [0, 0], [5, 1], [6, 2], [6, 1], [5, 1], [0, 0]]
    """
    outline, *holes = rings
    if not holes:
        return outline
    turn = _turn(outline)
    parts = [outline, outline[:1]]
    for hole in holes:
        ring = hole if _turn(hole) != turn else np.concatenate([hole[:1], hole[:0:-1]])
        parts += [ring, ring[:1], outline[:1]]
    return np.concatenate(parts)


def _encloses(annotation: Annotation) -> bool:
    """Whether an outline encloses anything; its exact area is found only where that is unclear."""
    is_clear = not annotation.holes and abs(_signed_area(annotation.vertices)) > CLEAR_AREA
    return is_clear or not annotation.area.is_empty


def without_hole(outer: Annotation, inner: Annotation) -> list[Annotation]:
    """Return `outer` less the area of `inner`, as one annotation or several.

    Raises
    ------
    AnnotationError
        They do not overlap, or nothing would be left.
    """
    rest = difference(outer.area, inner.area)
    if not rest.area < outer.area.area:
        raise AnnotationError(f"{inner.name} does not lie on {outer.name}: move it there first")
    if rest.is_empty:
        raise AnnotationError(f"{inner.name} covers all of {outer.name}: delete that instead")
    polygons = rest.geoms if isinstance(rest, MultiPolygon) else [rest]
    return [_annotation(outer.name, outer.group, p) for p in polygons if isinstance(p, Polygon)]


def ellipse(corners: Floats) -> Floats:
    """Return the ellipse ``(ELLIPSE_POINTS, 2)`` in a box of four `corners`, in their order."""
    centre = corners.mean(axis=0)
    first, second = (corners[1] - corners[0]) / 2, (corners[2] - corners[1]) / 2
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * first + np.sin(angle) * second)


def _from_keyhole(name: str, group: str, path: Floats) -> list[Annotation]:
    """Return the polygons of a path; several only where it was pulled apart by hand."""
    rings = _rings(path)
    if rings is not None:
        return [Annotation(name, group, "polygon", rings[0], tuple(rings[1:]))]
    if len(np.unique(path, axis=0)) == len(path):  # an outline as drawn, whatever its shape
        return [Annotation(name, group, "polygon", path)]
    area = Annotation(name, group, "polygon", path).area
    return [_annotation(name, group, polygon) for polygon in area.geoms]


def _rings(path: Floats) -> list[Floats] | None:
    """Return outline and holes of a whole keyhole path; None if it is none."""
    again = np.flatnonzero((path == path[0]).all(axis=1))
    if len(again) < 2 or again[-1] != len(path) - 1:
        return None
    rings: list[NDArray[np.float64]] = [path[: again[1]]]
    for start, stop in itertools.pairwise(again[1:]):
        ring = path[start + 1 : stop]
        if len(ring) < 4 or not (ring[0] == ring[-1]).all():
            return None
        rings.append(ring[:-1])
    return rings


def _annotation(name: str, group: str, polygon: Polygon) -> Annotation:
    outline = np.asarray(polygon.exterior.coords)[:-1, :2]
    holes = tuple(np.asarray(ring.coords)[:-1, :2] for ring in polygon.interiors)
    return Annotation(name, group, "polygon", outline, holes)


def _turn(ring: Floats) -> bool:
    """Return whether a ring winds clockwise on the screen, by the sign of its area."""
    return _signed_area(ring) > 0


def _signed_area(ring: Floats) -> float:
    x, y = (ring - ring[0]).T  # from its own corner, so that far from the origin no digits are lost
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2
