"""Annotation files: ASAP's XML, the CAMELYON JSON form, QuPath's GeoJSON; read and written."""

from __future__ import annotations

import contextlib
import gc
import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import defusedxml
import defusedxml.ElementTree
import numpy as np

from tiling.annotations import (
    EXCLUDED_GROUPS,
    TUMOUR_GROUPS,
    Annotation,
    AnnotationError,
    Floats,
    Kind,
)
from tiling.atomic import replacing

ASAP_KINDS: dict[str, Kind] = {
    # ASAP fills a spline's own points too when it makes a mask, not the curve that it draws.
    "polygon": "polygon", "spline": "polygon", "rectangle": "polygon",
    "dot": "point", "pointset": "point", "measurement": "line",
}  # fmt: skip
ASAP_TYPES: dict[Kind, str] = {"polygon": "Polygon", "point": "PointSet", "line": "Measurement"}
COLOURS = {True: "#F4FA58", False: "#64FE2E"}
_NAMESPACE = uuid.UUID("0e4cf4a4-6fd1-4a3e-8d33-f0a9b3bf5d52")


def read_annotations(path: str | Path) -> list[Annotation]:
    """Return the annotations of a file, told by its suffix and, of JSON, by what is in it.

    Raises
    ------
    AnnotationError
        The file is not there, is broken, declares entities, or holds what is no annotation.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as err:
        raise AnnotationError(f"{path}: cannot be read: {err}") from err
    if path.suffix.lower() == ".xml":
        return list(_from_asap(path.name, content))
    with _collector_off():
        return _from_json(path.name, content)


def write_annotations(path: str | Path, annotations: Sequence[Annotation]) -> Path:
    """Write annotations as ASAP's .xml, QuPath's .geojson, or the CAMELYON .json; whole or not.

    ASAP knows no holes: those of tumour become outlines of the group Exclusion.

    Raises
    ------
    AnnotationError
        The suffix is none of these, or the form cannot hold an annotation.
    """
    path = Path(path)
    writers = {".xml": _to_asap, ".geojson": _to_geojson, ".json": _to_camelyon_json}
    if path.suffix.lower() not in writers:
        raise AnnotationError(f"{path.name}: use {', '.join(writers)}")
    text = writers[path.suffix.lower()](annotations)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    """Keep Python from looking for cycles among what is parsed: there are none.

    It would look again and again as the lists of vertices pile up: half of the time that 20,000
    outlines take.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _from_json(file: str, content: bytes) -> list[Annotation]:
    try:
        found = json.loads(content)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise AnnotationError(f"{file}: no JSON: {err}") from err
    if isinstance(found, dict) and {"positive", "negative"} & found.keys():
        return list(_from_camelyon_json(file, found))
    if isinstance(found, list) or (isinstance(found, dict) and "type" in found):
        return list(_from_geojson(file, found))
    raise AnnotationError(
        f"{file}: neither GeoJSON nor a JSON of 'positive' and 'negative' outlines"
    )


def _from_asap(file: str, content: bytes) -> Iterator[Annotation]:
    try:
        root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
    except defusedxml.DefusedXmlException as err:
        raise AnnotationError(f"{file}: declares entities or a document type: not read") from err
    except (ET.ParseError, ValueError, LookupError) as err:
        raise AnnotationError(f"{file}: broken XML: {err}") from err
    if root.tag != "ASAP_Annotations":
        raise AnnotationError(f"{file}: <{root.tag}> is no <ASAP_Annotations>")
    for number, node in enumerate(root.findall("Annotations/Annotation")):
        name = node.get("Name", f"Annotation {number}")
        kind = ASAP_KINDS.get(node.get("Type", "").lower())
        if kind is None:
            raise AnnotationError(
                f"{file}: {name}: type {node.get('Type')!r}; known are {', '.join(ASAP_KINDS)}"
            )
        points = [
            (_number(file, name, p.get("Order", place)), p.get("X"), p.get("Y"))
            for place, p in enumerate(node.findall("Coordinates/Coordinate"))
        ]
        points.sort(key=lambda point: point[0])
        vertices = _vertices(file, name, [point[1:] for point in points])
        yield Annotation(name, node.get("PartOfGroup", "None"), kind, vertices)


def _from_camelyon_json(file: str, found: Mapping[str, Any]) -> Iterator[Annotation]:
    for key, group in (("positive", "Tumor"), ("negative", "Exclusion")):
        for number, shape in enumerate(_list(file, key, found.get(key, []))):
            if not isinstance(shape, dict) or "vertices" not in shape:
                raise AnnotationError(f"{file}: {key}[{number}] has no vertices")
            name = str(shape.get("name", f"{key} {number}"))
            yield Annotation(name, group, "polygon", _vertices(file, name, shape["vertices"]))


def _from_geojson(file: str, found: Any) -> Iterator[Annotation]:
    kind = found.get("type") if isinstance(found, dict) else "FeatureCollection"
    if kind == "FeatureCollection":
        features = found if isinstance(found, list) else found.get("features")
    else:
        features = [found if kind == "Feature" else {"geometry": found}]
    for number, feature in enumerate(_list(file, "features", features)):
        if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
            raise AnnotationError(f"{file}: features[{number}] has no geometry")
        properties = feature.get("properties") or {}
        group = _classification(file, number, properties)
        name = str(properties.get("name") or feature.get("id") or f"Annotation {number}")
        yield from _from_geometry(file, name, group, feature["geometry"])


def _classification(file: str, number: int, properties: Any) -> str:
    """Return the name of a feature's class; some tools write it as JSON in a string."""
    found = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except json.JSONDecodeError:
            return found
    if found is None:
        return "None"
    if isinstance(found, dict) and isinstance(found.get("name"), str):
        return str(found["name"])
    raise AnnotationError(f"{file}: features[{number}]: classification {found!r} has no name")


def _from_geometry(
    file: str, name: str, group: str, geometry: Mapping[str, Any]
) -> Iterator[Annotation]:
    kind, found = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        for part in _list(file, name, geometry.get("geometries")):
            yield from _from_geometry(file, name, group, part)
    elif kind in ("Polygon", "MultiPolygon"):
        for rings in [found] if kind == "Polygon" else _list(file, name, found):
            outline, *holes = [_ring(file, name, r) for r in _list(file, name, rings)] or [
                np.zeros((0, 2))
            ]
            yield Annotation(name, group, "polygon", outline, tuple(holes))
    elif kind in ("LineString", "MultiLineString"):
        for line in [found] if kind == "LineString" else _list(file, name, found):
            yield Annotation(name, group, "line", _vertices(file, name, line))
    elif kind in ("Point", "MultiPoint"):
        points = [found] if kind == "Point" else found
        yield Annotation(name, group, "point", _vertices(file, name, points))
    else:
        raise AnnotationError(f"{file}: {name}: geometry {kind!r} is none of GeoJSON's")


def _ring(file: str, name: str, points: Any) -> Floats:
    """Return a ring without the last point, which GeoJSON repeats."""
    ring = _vertices(file, name, points)
    return ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring


def _vertices(file: str, name: str, points: Any) -> Floats:
    try:
        flat = [float(v) for x, y, *_ in points for v in (x, y)]
        found = np.array(flat, np.float64).reshape(-1, 2)
    except (TypeError, ValueError, IndexError, KeyError) as err:
        raise AnnotationError(f"{file}: {name}: a vertex is not x and y: {err}") from err
    if not np.isfinite(found).all():
        raise AnnotationError(f"{file}: {name}: a vertex is NaN or infinite")
    return found


def _number(file: str, name: str, text: str | int) -> float:
    try:
        return float(text)
    except ValueError as err:
        raise AnnotationError(f"{file}: {name}: Order is {text!r}, no number") from err


def _list(file: str, what: str, found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise AnnotationError(f"{file}: {what} is no list")
    return found


def _to_asap(annotations: Sequence[Annotation]) -> str:
    root = ET.Element("ASAP_Annotations")
    shapes, groups = ET.SubElement(root, "Annotations"), ET.SubElement(root, "AnnotationGroups")
    flat = [flat for whole in annotations for flat in _without_holes(whole)]
    for a in flat:
        colour = COLOURS[a.group in TUMOUR_GROUPS]
        shape = ET.SubElement(
            shapes, "Annotation", Name=a.name, Type=_asap_type(a), PartOfGroup=a.group,
            Color=colour,
        )  # fmt: skip
        points = ET.SubElement(shape, "Coordinates")
        for order, (x, y) in enumerate(a.vertices.tolist()):
            ET.SubElement(points, "Coordinate", Order=str(order), X=f"{x!r}", Y=f"{y!r}")
    for group in dict.fromkeys(a.group for a in flat if a.group != "None"):
        colour = COLOURS[group in TUMOUR_GROUPS]
        node = ET.SubElement(groups, "Group", Name=group, PartOfGroup="None", Color=colour)
        ET.SubElement(node, "Attributes")
    ET.indent(root, "\t")
    return '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _asap_type(annotation: Annotation) -> str:
    single = annotation.kind == "point" and len(annotation.vertices) == 1
    return "Dot" if single else ASAP_TYPES[annotation.kind]


def _without_holes(annotation: Annotation) -> Iterator[Annotation]:
    if annotation.holes and annotation.group not in TUMOUR_GROUPS:
        raise AnnotationError(
            f"{annotation.name}: this form knows no holes, and group {annotation.group!r} has none "
            "that takes its place; write .geojson"
        )
    yield Annotation(annotation.name, annotation.group, annotation.kind, annotation.vertices)
    for number, ring in enumerate(annotation.holes):
        yield Annotation(f"{annotation.name} hole {number}", "Exclusion", "polygon", ring)


def _to_camelyon_json(annotations: Sequence[Annotation]) -> str:
    found: dict[str, list[dict[str, Any]]] = {"positive": [], "negative": []}
    for a in (flat for whole in annotations for flat in _without_holes(whole)):
        if a.kind != "polygon" or a.group not in TUMOUR_GROUPS | EXCLUDED_GROUPS:
            raise AnnotationError(
                f"{a.name}: this form holds outlines of tumour and of what is none; this is a "
                f"{a.kind} of group {a.group!r}"
            )
        key = "positive" if a.group in TUMOUR_GROUPS else "negative"
        found[key].append({"name": a.name, "vertices": a.vertices.tolist()})
    return json.dumps(found, allow_nan=False)


def _to_geojson(annotations: Sequence[Annotation]) -> str:
    features = []
    for number, a in enumerate(annotations):
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"{number}/{a.name}/{a.vertices.tolist()}")),
                "geometry": _geometry(a),
                "properties": {
                    "objectType": "annotation",
                    "name": a.name,
                    "isLocked": False,
                    "classification": {
                        "name": a.group,
                        "color": [int(COLOURS[a.group in TUMOUR_GROUPS][i : i + 2], 16)
                                  for i in (1, 3, 5)],
                    },
                },
            }
        )  # fmt: skip
    return json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False)


def _geometry(annotation: Annotation) -> dict[str, Any]:
    points = annotation.vertices.tolist()
    if annotation.kind == "line":
        return {"type": "LineString", "coordinates": points}
    if annotation.kind == "point":
        single = len(points) == 1
        return {
            "type": "Point" if single else "MultiPoint",
            "coordinates": points[0] if single else points,
        }
    rings = [[*r, *r[:1]] for r in (points, *(h.tolist() for h in annotation.holes))]
    return {"type": "Polygon", "coordinates": rings}
