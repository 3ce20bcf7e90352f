"""ASAP's XML, the CAMELYON JSON form and QuPath's GeoJSON: read, written, and refused."""

from __future__ import annotations

import contextlib
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiling.annotation_files import read_annotations, write_annotations
from tiling.annotations import Annotation, AnnotationError, tumour_area

SQUARE = np.array([[0.0, 0.0], [10.5, 0.0], [10.5, 10.0], [0.0, 10.0]])
HOLE = np.array([[2.0, 2.0], [4.0, 2.0], [4.0, 4.0]])


def asap(*annotations: str) -> str:
    return f"<ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations></ASAP_Annotations>"


def drawn(points: str, kind: str = "Polygon", group: str = "Tumor") -> str:
    coordinates = "".join(
        f'<Coordinate Order="{p.split(",")[2]}" X="{p.split(",")[0]}" Y="{p.split(",")[1]}"/>'
        for p in points.split()
    )
    return (
        f'<Annotation Name="n" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def test_a_file_as_the_challenge_ships_it(shared_data: Path) -> None:
    found = read_annotations(shared_data / "camelyon17_annotations" / "patient_004_node_4.xml")
    assert [len(a.vertices) for a in found] == [8, 15, 12]
    assert {(a.group, a.kind) for a in found} == {("Tumor", "polygon")}
    assert found[0].vertices[0].tolist() == [12711.2998, 88778.1016]


def test_asap_types_and_the_order_of_vertices(tmp_path: Path) -> None:
    """A vertex stands where its Order says, 10 after 9; a spline is its own points."""
    path = tmp_path / "a.xml"
    path.write_text(asap(
        drawn("4,4,2 0,0,0 4,0,1", kind="Spline"), drawn("1,2,0", kind="Dot"),
        drawn("1,2,0 3,4,1", kind="PointSet"), drawn("0,0,0 5,5,1", kind="Measurement"),
        drawn("0,0,0 5,5,1", kind="Rectangle", group="_2"), drawn("", group="metastases"),
        drawn("9,9,9 10,10,10 8,8,8"),
    ))  # fmt: skip
    found = read_annotations(path)
    kinds = ["polygon", "point", "point", "line", "polygon", "polygon", "polygon"]
    assert [a.kind for a in found] == kinds
    assert found[0].vertices.tolist() == [[0, 0], [4, 0], [4, 4]]
    assert found[6].vertices[:, 0].tolist() == [8, 9, 10]
    assert found[5].vertices.shape == (0, 2)
    assert tumour_area(found).area == 8


def same(a: Annotation, b: Annotation) -> bool:
    return (
        (a.name, a.group, a.kind, len(a.holes)) == (b.name, b.group, b.kind, len(b.holes))
        and np.array_equal(a.vertices, b.vertices)
        and all(np.array_equal(x, y) for x, y in zip(a.holes, b.holes, strict=True))
    )


PLAIN = [
    Annotation("one", "Tumor", "polygon", SQUARE),
    Annotation('two "<&>" µ', "Exclusion", "polygon", HOLE + 0.1),
]
OTHERS = [
    Annotation("three", "Immune cells", "point", SQUARE[:1]),
    Annotation("four", "Stroma", "point", SQUARE),
    Annotation("five", "None", "line", SQUARE[:2]),
]


@pytest.mark.parametrize(
    ("suffix", "annotations"),
    [
        ("xml", PLAIN + OTHERS),
        ("geojson", [*PLAIN, *OTHERS, Annotation("six", "Tumor", "polygon", SQUARE, (HOLE,))]),
        ("json", PLAIN),
        ("xml", []),
        ("geojson", []),
        ("json", []),
    ],
)
def test_what_is_written_comes_back(
    tmp_path: Path, suffix: str, annotations: list[Annotation]
) -> None:
    path = write_annotations(tmp_path / f"a.{suffix}", annotations)
    found = read_annotations(path)
    assert len(found) == len(annotations)
    assert all(same(a, b) for a, b in zip(found, annotations, strict=True))
    first = path.read_bytes()
    assert write_annotations(path, found).read_bytes() == first


@pytest.mark.parametrize("suffix", ["xml", "json"])
def test_forms_without_holes_exclude_them(tmp_path: Path, suffix: str) -> None:
    holed = Annotation("h", "Tumor", "polygon", SQUARE, (HOLE,))
    found = read_annotations(write_annotations(tmp_path / f"a.{suffix}", [holed]))
    assert [a.group for a in found] == ["Tumor", "Exclusion"]
    assert tumour_area(found).area == tumour_area([holed]).area == 103
    stroma = Annotation("h", "Stroma", "polygon", SQUARE, (HOLE,))
    with pytest.raises(AnnotationError, match="knows no holes"):
        write_annotations(tmp_path / "b.xml", [stroma])


def test_what_a_form_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="a point of group 'Immune cells'"):
        write_annotations(tmp_path / "a.json", OTHERS)
    with pytest.raises(AnnotationError, match=r"a\.kml: use \.xml, \.geojson, \.json"):
        write_annotations(tmp_path / "a.kml", PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_geojson_as_qupath_and_others_write_it(tmp_path: Path) -> None:
    """A bare list (QuPath before 0.4), a class as JSON in a string (LazySlide), many polygons."""
    ring = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    inner = [[1, 1], [2, 1], [2, 2], [1, 2], [1, 1]]
    features: list[dict[str, Any]] = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring, inner]},
         "properties": {"classification": {"name": "Tumor", "color": [1, 2, 3]}}},
        {"type": "Feature", "id": "x", "geometry": {"type": "MultiPolygon", "coordinates":
         [[ring], [inner]]}, "properties": {"classification": '{"name": "_2"}'}},
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []},
         "properties": {"classification": "normal"}},
        {"type": "Feature", "geometry": {"type": "GeometryCollection", "geometries":
         [{"type": "LineString", "coordinates": inner}]}, "properties": None},
    ]  # fmt: skip
    path = tmp_path / "a.geojson"
    for written in (features, {"type": "FeatureCollection", "features": features}):
        path.write_text(json.dumps(written))
        found = read_annotations(path)
        assert [(a.group, a.kind, len(a.vertices), len(a.holes)) for a in found] == [
            ("Tumor", "polygon", 4, 1), ("_2", "polygon", 4, 0), ("_2", "polygon", 4, 0),
            ("None", "point", 1, 0), ("normal", "polygon", 0, 0), ("None", "line", 5, 0),
        ]  # fmt: skip
        assert found[0].area.area == 15
    path.write_text(json.dumps(features[0]["geometry"]))
    assert read_annotations(path)[0].area.area == 15


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb">]><ASAP_Annotations>&b;</ASAP_Annotations>'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", BOMB, "a.xml: declares entities or a document type"),
        ("a.xml", "<ASAP_Annotations><Annotations>", "a.xml: broken XML: no element found"),
        ("a.xml", "", "broken XML"),
        ("a.xml", "<Annotations/>", "<Annotations> is no <ASAP_Annotations>"),
        ("a.xml", asap(drawn("1,1,0", kind="Ellipse")), "type 'Ellipse'; known are polygon"),
        ("a.xml", asap(drawn("1,nan,0")), "n: a vertex is NaN or infinite"),
        ("a.xml", asap(drawn("1,x,0")), "n: a vertex is not x and y"),
        ("a.xml", asap(drawn("1,1,first")), "n: Order is 'first', no number"),
        ("a.xml", asap('<Annotation Type="Dot"><Coordinates><Coordinate X="1"/></Coordinates>'
                       "</Annotation>"), "a vertex is not x and y"),
        ("a.json", "{", "a.json: no JSON"),
        ("a.json", "{}", "neither GeoJSON nor a JSON of 'positive' and 'negative'"),
        ("a.json", '{"positive": 3}', "positive is no list"),
        ("a.json", '{"positive": [{"name": "x"}]}', "positive[0] has no vertices"),
        ("a.json", '{"positive": [{"vertices": [[1]]}]}', "a vertex is"),
        ("a.json", '{"positive": [{"vertices": [[1], [2]]}]}', "a vertex is not x and y"),
        ("a.json", '{"positive": [{"vertices": [[1, NaN]]}]}', "a vertex is NaN"),
        ("a.geojson", '{"type": "FeatureCollection"}', "features is no list"),
        ("a.geojson", '[{"type": "Feature", "geometry": null}]', "features[0] has no geometry"),
        ("a.geojson", '{"type": "Circle", "coordinates": []}', "geometry 'Circle' is none"),
        ("a.geojson", '{"type": "Polygon", "coordinates": 5}', "is no list"),
        ("a.geojson", '[{"geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": '
                      '{"classification": {"colour": 1}}}]', "has no name"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path)
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "none.xml")


def test_the_garbage_collector_is_as_before_whatever_was_read(tmp_path: Path) -> None:
    """It is off while JSON is parsed: also a broken file leaves it as it was."""
    path = tmp_path / "a.geojson"
    for content in ("[]", "{", "3"):
        path.write_text(content)
        with contextlib.suppress(AnnotationError):
            read_annotations(path)
        assert gc.isenabled()
