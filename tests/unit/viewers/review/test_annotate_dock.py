"""Outlines on the real viewer: drawn with the mouse, classified, cut, read and written."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.viewers.review.conftest import needs_display
from tiling import SlideStore, open_store
from tiling.annotation_files import read_annotations, write_annotations
from tiling.annotations import Annotation

pytestmark = needs_display

SQUARE = np.array([[512, 256], [1024, 256], [1024, 768], [512, 768]], float)
HOLE = np.array([[600, 300], [728, 300], [728, 428], [600, 428]], float)


@pytest.fixture
def dock(make_napari_viewer: Callable[..., Any], reviewed_store: SlideStore) -> Any:
    from viewers.napari_plugin.scene import show_store

    viewer = make_napari_viewer(show=True)
    show_store(viewer, open_store(reviewed_store.path))
    _, widget = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Annotate")
    yield widget
    widget.close()


def click(dock: Any, x: float, y: float, *, double: bool = False) -> None:
    """Click at a level-0 place; the slide has 0.5 µm a px, the canvas's middle is the camera's."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    camera = dock.viewer.scene.camera
    height, width = dock.viewer.canvas.size
    column = width / 2 + ((x - 0.5) * 0.5 - camera.center[-1]) * camera.zoom
    row = height / 2 + ((y - 0.5) * 0.5 - camera.center[-2]) * camera.zoom
    canvas = canvas_of(dock)
    place = QPoint(round(column), round(row))
    QTest.mouseMove(canvas, place)
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=place)
    if double:
        QTest.mouseDClick(canvas, Qt.MouseButton.LeftButton, pos=place)
    QApplication.processEvents()


def canvas_of(dock: Any) -> Any:
    return dock.window()._qt_viewer.canvas.native


def test_a_polygon_drawn_with_the_mouse_is_where_it_was_drawn(dock: Any, tmp_path: Path) -> None:
    dock.classes.setCurrentText("Tumor")
    dock.buttons["Draw"].click()
    viewer = dock.viewer
    viewer.scene.camera.center = (256.0, 384.0)
    viewer.scene.camera.zoom = 1.0
    for index, (x, y) in enumerate(SQUARE.tolist()):
        click(dock, x, y, double=index == 3)
    dock.export_file(tmp_path / "a.geojson")
    [found] = read_annotations(tmp_path / "a.geojson")
    assert (found.group, found.name) == ("Tumor", "Annotation")
    assert np.abs(np.array(found.area.bounds) - (512, 256, 1024, 768)).max() <= 2  # a screen px
    dock.classes.setCurrentText("Mitosis")
    dock.layer.mode = "select"
    dock.layer.selected_data = {0}
    dock.buttons["Set class"].click()
    assert [a.group for a in dock.annotations()] == ["Mitosis"]


def test_files_come_in_and_go_out_without_a_change(dock: Any, tmp_path: Path) -> None:
    before = [
        Annotation("a", "Tumor", "polygon", SQUARE, (HOLE,)),
        Annotation("b", "Region", "polygon", SQUARE + 0.25),
        Annotation("l", "None", "line", HOLE[:3]),
        Annotation("p", "Mitosis", "point", HOLE[:1]),
    ]
    dock.import_file(write_annotations(tmp_path / "in.geojson", before))
    dock.import_file(write_annotations(tmp_path / "more.geojson", before[1:2]))
    assert list(dock.layer.features["group"]) == ["Tumor", "Region", "None", "Region"]
    assert dock.layer.edge_color[0].tolist() != dock.layer.edge_color[1].tolist()
    dock.export_file(tmp_path / "out.geojson")
    after = read_annotations(tmp_path / "out.geojson")
    assert [(a.name, a.group, a.kind) for a in after] == [
        ("a", "Tumor", "polygon"), ("b", "Region", "polygon"), ("l", "None", "line"),
        ("b", "Region", "polygon"), ("p", "Mitosis", "point"),
    ]  # fmt: skip
    assert after[0].area.equals(before[0].area)
    assert after[1].vertices.tolist() == before[1].vertices.tolist()
    assert after[4].vertices.tolist() == HOLE[:1].tolist()


def test_a_hole_is_cut_by_a_button(dock: Any, tmp_path: Path, told: list[str]) -> None:
    path = write_annotations(
        tmp_path / "a.geojson",
        [
            Annotation("hole", "None", "polygon", HOLE),
            Annotation("a", "Tumor", "polygon", SQUARE),
        ],
    )
    dock.import_file(path)
    dock.buttons["Cut hole"].click()
    assert "0 outlines are chosen: choose two" in told[-1]
    dock.layer.selected_data = {0, 1}
    dock.buttons["Cut hole"].click()
    [found] = dock.annotations()
    assert (found.name, found.group, found.area.area) == ("a", "Tumor", 512 * 512 - 128 * 128)


def test_annotations_become_labels_to_train_by(dock: Any, tmp_path: Path) -> None:
    dock.import_file(
        write_annotations(tmp_path / "a.xml", [Annotation("a", "Tumor", "polygon", SQUARE)])
    )
    dock.buttons["Label tiles"].click()
    end = time.monotonic() + 300
    while dock._timer.isActive() and time.monotonic() < end:
        dock._follow()
        time.sleep(0.05)
    out = tmp_path / "out"
    assert (out / "annotations" / "tissue.geojson").exists()
    with (out / "labels" / "tissue.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    inside = [r for r in rows if float(r["tumour_fraction"]) == 1]
    assert (len(rows), len(inside)) == (64, 16)
    assert min(int(r["x0"]) for r in inside) == 512
    assert f"labels in {out}" in dock.state.text()


def test_broken_files_are_told_and_nothing_is_lost(
    dock: Any, tmp_path: Path, told: list[str]
) -> None:
    good = write_annotations(tmp_path / "a.geojson", [Annotation("a", "T", "polygon", SQUARE)])
    dock.import_file(good)
    for name, text, said in (
        ("b.geojson", '{"type": "FeatureCollection", "features": [{"geometry": {"type": "Polygon",'
         ' "coordinates": [[[1, 2], ["x", 3]]]}}]}', "a vertex is not x and y"),
        ("c.geojson", "{", "no JSON"),
        ("d.xml", "<ASAP_Annotations><x></ASAP_Annotations>", "broken XML"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        dock.import_file(tmp_path / name)
        assert said in told[-1]
    flat = Annotation("flat", "T", "polygon", np.array([[0, 0], [5, 5], [9, 9]], float))
    dock.import_file(write_annotations(tmp_path / "e.geojson", [flat]))
    assert "1 outline left out, to be repaired where drawn: flat" in told[-1]
    dock.export_file(tmp_path / "none" / "x.txt")
    assert "use .xml, .geojson, .json" in told[-1]
    assert [a.name for a in dock.annotations()] == ["a"]


def test_an_empty_sheet_says_what_to_do(dock: Any, tmp_path: Path, told: list[str]) -> None:
    dock.export_file(tmp_path / "x.geojson")
    assert "nothing is drawn: press Draw" in told[-1]
    dock.buttons["Set class"].click()
    assert "no outline is chosen" in told[-1]
    dock.viewer.layers.clear()
    dock.buttons["Draw"].click()
    assert "no slide is open" in told[-1]
