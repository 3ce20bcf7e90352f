"""Outlines go into napari and back without a change, holes included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

from tiling.annotation_files import read_annotations, write_annotations
from tiling.annotations import Annotation, AnnotationError
from viewers.review.annotations import (
    ShapeData,
    ellipse,
    from_shapes,
    keyhole,
    to_shapes,
    without_hole,
)

SQUARE = np.array([[0, 0], [100, 0], [100, 80], [0, 80]], float)
HOLE = np.array([[10, 10], [20, 10], [20, 30]], float)
OTHER = np.array([[50, 50], [60, 60], [70, 50]], float)


def back(data: ShapeData) -> list[Annotation]:
    return from_shapes(
        data.paths, data.kinds, data.names, data.groups,
        data.points, data.point_names, data.point_groups,
    )  # fmt: skip


def test_napari_has_rows_first() -> None:
    data, left_out = to_shapes([Annotation("a", "Tumor", "polygon", SQUARE)])
    assert data.paths[0].tolist() == [[0, 0], [0, 100], [80, 100], [80, 0]]
    assert (data.kinds, data.names, data.groups, left_out) == (["polygon"], ["a"], ["Tumor"], [])


def test_holes_lines_and_points_come_back_exactly() -> None:
    before = [
        Annotation("a", "Tumor", "polygon", SQUARE, (HOLE, OTHER[::-1])),
        Annotation("l", "None", "line", HOLE),
        Annotation("p", "Mitosis", "point", np.array([[3.25, 4.5]])),
    ]
    after = back(to_shapes(before)[0])
    assert [(a.name, a.group, a.kind) for a in after] == [(b.name, b.group, b.kind) for b in before]
    assert after[0].area.equals(before[0].area)
    assert after[0].area.area == 100 * 80 - 100 - 100
    assert len(after[0].holes) == 2
    for a, b in zip(after, before, strict=True):
        assert a.vertices.tolist() == b.vertices.tolist()


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=0, max_size=4, unique=True),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_any_number_of_holes_any_way_round(
    cells: list[tuple[int, int]], outer: bool, inner: bool
) -> None:
    holes = tuple(
        np.asarray(box(x - 4, y - 4, x + 4, y + 4, ccw=inner).exterior.coords)[:-1]
        for x, y in 10 * np.array(cells, int).reshape(-1, 2)
    )
    annotation = Annotation("a", "g", "polygon", SQUARE[:: 1 if outer else -1], holes)
    [after] = back(to_shapes([annotation])[0])
    assert after.area.equals(annotation.area)
    assert after.area.area == 8000 - 64 * len(cells)


def test_a_path_pulled_apart_by_hand_still_has_its_hole() -> None:
    """napari moves one of two vertices that lie on each other: the outline's first, here."""
    path = keyhole([SQUARE, HOLE]).copy()
    path[0] = (-5, -5)
    [after] = from_shapes([path[:, ::-1]], ["polygon"], ["a"], ["g"])
    assert len(after.holes) >= 1 or after.area.area < 8100
    assert not after.area.contains(box(17, 12, 19, 14))
    assert after.area.contains(box(60, 30, 90, 60))


def test_files_come_back_through_napari(tmp_path: Path) -> None:
    """QuPath's form keeps the hole as a hole, ASAP's as an outline of Exclusion."""
    before = [Annotation("a", "Tumor", "polygon", SQUARE, (HOLE,))]
    first = write_annotations(tmp_path / "a.geojson", before)
    again = back(to_shapes(read_annotations(first))[0])
    second = write_annotations(tmp_path / "b.geojson", again)
    [found] = read_annotations(second)
    assert found.area.equals(before[0].area)
    assert found.group == "Tumor"
    xml = read_annotations(write_annotations(tmp_path / "a.xml", again))
    assert [(a.group, a.area.area) for a in xml] == [("Tumor", 8000.0), ("Exclusion", 100.0)]


def test_what_encloses_nothing_is_named_and_left_out() -> None:
    flat = np.array([[0, 0], [5, 5], [9, 9]], float)
    bow_tie = np.array([[0, 0], [9, 9], [9, 0], [0, 9]], float)
    around = SQUARE * 1.5 - 10
    rings = {"dot": SQUARE[:2], "flat": flat, "far": flat / 7 + 90_000.7, "bow tie": bow_tie}
    annotations = [Annotation(name, "g", "polygon", ring) for name, ring in rings.items()]
    annotations.append(Annotation("all hole", "g", "polygon", SQUARE, (around,)))
    data, left_out = to_shapes(annotations)
    assert data.names == ["bow tie"]
    wanted = {"dot": 2, "flat": 3, "far": 3, "all hole": 4}
    assert left_out == [f"{name}: {n} points enclose nothing" for name, n in wanted.items()]


def test_a_drawn_ellipse_has_the_ellipses_area() -> None:
    corners = np.array([[0, 0], [40, 0], [40, 20], [0, 20]], float)
    [found] = from_shapes([corners[:, ::-1]], ["ellipse"], ["e"], ["g"])
    assert found.area.area == pytest.approx(np.pi * 20 * 10, rel=1e-3)
    assert ellipse(corners).mean(axis=0).tolist() == [pytest.approx(20), pytest.approx(10)]


def test_a_hole_is_cut_where_the_inner_outline_lies() -> None:
    outer = Annotation("a", "Tumor", "polygon", SQUARE)
    inner = Annotation("b", "None", "polygon", HOLE)
    [cut] = without_hole(outer, inner)
    assert (cut.name, cut.group, cut.area.area) == ("a", "Tumor", 7900.0)
    assert len(cut.holes) == 1
    with pytest.raises(AnnotationError, match="does not lie on a"):
        without_hole(outer, Annotation("b", "None", "polygon", HOLE + 500))
    with pytest.raises(AnnotationError, match="a covers all of b"):
        without_hole(inner, outer)
    middle = np.array([[40, -1], [60, -1], [60, 99], [40, 99]], float)
    assert len(without_hole(outer, Annotation("b", "None", "polygon", middle))) == 2
