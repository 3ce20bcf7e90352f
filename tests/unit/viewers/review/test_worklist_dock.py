"""The worklist as the plugin opens it: sorted, filtered, and the next unread slide by a key."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.tiling.test_store import make_store
from tests.unit.viewers.review.conftest import needs_display
from tiling import TileSpec
from tiling.geometry import Region
from viewers.review.log import ReviewLog, Verdict

pytestmark = needs_display


@pytest.fixture(scope="module")
def run(tissue_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides a (0.2), b (0.9), c (0.5); operating point 0.4."""
    out = tmp_path_factory.mktemp("run")
    (out / "stores").mkdir()
    for name, tumor in (("a", 0.2), ("b", 0.9), ("c", 0.5)):
        path = Path(shutil.copy(tissue_path, out / f"{name}.tif"))
        spec = TileSpec(256, 0.5, min_tissue=0.5)
        store = make_store(path, out / "stores" / f"{name}.zarr", spec, name)
        attention = np.arange(1, len(store) + 1, dtype=np.float32)
        store.write_prediction(
            "abmil-0a0a0a0a", scores={"normal": 1 - tumor, "tumor": tumor},
            attention=attention / attention.sum(),
            attrs={"model_id": "m1", "positive": "tumor", "operating_point": 0.4},
        )  # fmt: skip
    return out


@pytest.fixture
def dock(make_napari_viewer: Callable[..., Any], run: Path, qtbot: Any) -> Any:
    viewer = make_napari_viewer(show=True)
    _, widget = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Worklist")
    widget.reader.setText("me")
    widget.folder.setText(str(run))
    widget.folder.returnPressed.emit()
    qtbot.waitUntil(lambda: len(widget.rows) == 3, timeout=60_000)
    yield widget
    widget.close()
    shutil.rmtree(run / "reviews", ignore_errors=True)


def shown(dock: Any) -> list[str]:
    return [dock.table.item(row, 0).text() for row in range(dock.table.rowCount())]


def press_next(dock: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    window = dock.window()
    QTest.keyClick(window, Qt.Key.Key_J, Qt.KeyboardModifier.ControlModifier)


def test_sorted_by_urgency_and_filtered(dock: Any) -> None:
    assert shown(dock) == ["b", "c", "a"]
    assert [dock.table.item(0, c).text() for c in range(1, 5)] == ["0.900", "2.25", "tumor", ""]
    dock.positive.setChecked(True)
    assert shown(dock) == ["b", "c"]
    dock.search.setText("C")
    assert shown(dock) == ["c"]
    assert dock.count.text().startswith("1 of 3 slides shown, 0 begun")


def test_the_next_unread_slide_by_a_key(dock: Any, run: Path, told: list[str]) -> None:
    viewer = dock.viewer
    for name in ("b", "c", "a"):
        press_next(dock)
        slides = [
            v.metadata["slide_id"] for v in viewer.layers if v.metadata.get("kind") == "slide"
        ]
        assert slides == [name]  # in place of the last one, not over it
        assert viewer.title.startswith(name)
        review = ReviewLog.open(run / "stores" / f"{name}.zarr", name, "me")
        review.add(Verdict(name, "p", "m1", "1", 1, Region(0, 0, 9, 9), 0.5, "", "agree"))
    press_next(dock)
    assert told[-1] == "Every slide of the list has been begun."
    assert [dock.table.item(row, 4).text() for row in range(3)] == ["1", "1", "1"]
    dock.unread.setChecked(True)
    assert shown(dock) == []


def test_enter_on_a_row_shows_it_and_the_review_dock_follows(dock: Any, qtbot: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    _, review = dock.viewer.window.add_plugin_dock_widget("wsi-pipeline", "Review regions")
    dock.table.setCurrentCell(1, 0)
    QTest.keyClick(dock.table, Qt.Key.Key_Return)
    assert dock.current == "c"
    qtbot.waitUntil(lambda: review.store is not None and review.store.slide_id == "c")
    QTest.keyClick(dock.table, Qt.Key.Key_Up)
    QTest.keyClick(dock.table, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: review.store is not None and review.store.slide_id == "b")
    assert "<b>tumor 0.900</b>" in review.score.text()
    tabs = dock.window().tabifiedDockWidgets(review.parentWidget())
    assert [tab.widget() for tab in tabs] == [dock]  # tabs: one above the other none has room
    review.close()


def test_a_folder_that_is_no_run_is_said_so(
    dock: Any, tmp_path: Path, told: list[str], qtbot: Any
) -> None:
    dock.folder.setText(str(tmp_path))
    dock.folder.returnPressed.emit()
    qtbot.waitUntil(lambda: bool(told), timeout=60_000)
    assert "neither a run (slide stores) nor a slide here" in told[-1]
    assert shown(dock) == []


def test_a_folder_of_slides_one_after_the_other_past_a_broken_one(
    dock: Any, tissue_path: Path, tmp_path: Path, told: list[str], qtbot: Any
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("x", "z"):
        shutil.copy(tissue_path, folder / f"{name}.tif")
    (folder / "y.tif").write_bytes(tissue_path.read_bytes()[:200])
    dock.folder.setText(str(folder))
    dock.folder.returnPressed.emit()
    qtbot.waitUntil(lambda: shown(dock) == ["x", "y", "z"], timeout=60_000)
    assert [dock.table.item(0, c).text() for c in range(1, 5)] == ["", "", "not scored yet", ""]
    seen = []
    for _ in range(3):
        press_next(dock)
        slides = [v for v in dock.viewer.layers if v.metadata.get("kind") == "slide"]
        seen.append([v.metadata["slide_id"] for v in slides])
    assert seen == [["x"], ["x"], ["z"]]  # what was shown stays where the next cannot be
    assert "y.tif" in told[0]
    dock.read()
    qtbot.waitUntil(
        lambda: [dock.table.item(r, 4).text() for r in range(3)] == ["1", "", "1"], timeout=60_000
    )
