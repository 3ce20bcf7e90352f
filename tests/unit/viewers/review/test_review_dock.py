"""A review as a reader does it: keys on the real viewer, nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.tiling.test_store import make_store
from tests.unit.viewers.review.conftest import ISLANDS, needs_display
from tiling import SlideStore, TileSpec, open_store
from viewers.review import log
from viewers.review.log import ReviewLog, read_verdicts

pytestmark = needs_display
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="files have no names")


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any]) -> Any:
    return make_napari_viewer(show=True)


@pytest.fixture
def dock(viewer: Any, reviewed_store: SlideStore) -> Any:
    """The dock as the plugin's menu opens it, on a store that is shown."""
    from viewers.napari_plugin import scene

    scene.show_store(viewer, open_store(reviewed_store.path))
    _, widget = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Review regions")
    widget.reader.setText("Dr. A")
    widget.reader.editingFinished.emit()
    yield widget
    widget.close()


def press(viewer: Any, keys: str) -> None:
    """Press keys on the canvas, as they come from the window system; > is Enter."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    for key in keys:
        code = Qt.Key.Key_Return if key == ">" else getattr(Qt.Key, f"Key_{key.upper()}")
        QTest.keyClick(viewer.window._qt_viewer.canvas.native, code)
        QApplication.processEvents()


def centre(viewer: Any) -> tuple[float, float]:
    """Return the level-0 px (x, y) in the middle of the view; the slide has 0.5 µm a px."""
    y, x = viewer.scene.camera.center[-2:]
    return x / 0.5 + 0.5, y / 0.5 + 0.5


def test_ten_regions_by_the_keyboard_alone(viewer: Any, dock: Any) -> None:
    assert len(dock.session.regions) == 10
    for index, (x, y) in enumerate(ISLANDS):
        assert centre(viewer) == (pytest.approx(x + 64), pytest.approx(y + 64))
        box = dock.marker.layer.data[0]
        assert box.min(axis=0).tolist() == [y, x]
        assert box.max(axis=0).tolist() == [y + 128, x + 128]
        press(viewer, "aaduuadaad"[index] + (">" if index % 2 else "j"))
    words = {"a": "agree", "d": "disagree", "u": "unsure"}
    found = read_verdicts(dock.session.log.path)
    assert [v.answer for v in found] == [words[c] for c in "aaduuadaad"]
    assert [(v.box.x0, v.box.y0) for v in found] == ISLANDS
    assert [v.rank for v in found] == list(range(1, 11))
    assert {(v.reader, v.model_id, v.slide_id) for v in found} == {("Dr. A", "m1", "tissue")}
    assert dock.progress.text().startswith("10 of 10 regions read")
    press(viewer, "k")
    assert centre(viewer)[0] == pytest.approx(ISLANDS[8][0] + 64)
    press(viewer, "d")  # another mind: the last word counts, the file keeps both
    assert len(read_verdicts(dock.session.log.path)) == 11
    assert dock.table.item(8, 3).text() == "disagree"


def test_a_note_is_written_without_the_mouse(viewer: Any, dock: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    press(viewer, "an")
    dock.activateWindow()
    QTest.keyClicks(dock.note, "jakd?")  # letters of the review are letters here
    QTest.keyClick(dock.note, Qt.Key.Key_Return)
    last = read_verdicts(dock.session.log.path)[-1]
    assert (last.answer, last.note) == ("agree", "jakd?")
    assert dock.current == 0
    press(viewer, "j")
    assert dock.note.text() == ""
    press(viewer, "k")
    assert dock.note.text() == "jakd?"


def test_keys_work_where_the_table_has_the_focus(viewer: Any, dock: Any) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    for key in (Qt.Key.Key_A, Qt.Key.Key_J, Qt.Key.Key_D, Qt.Key.Key_Return, Qt.Key.Key_U):
        QTest.keyClick(dock.table, key)
    assert [v.answer for v in read_verdicts(dock.session.log.path)] == [
        "agree",
        "disagree",
        "unsure",
    ]
    assert dock.current == 2


def test_a_reader_goes_on_where_the_review_was_killed_and_a_second_sees_nothing(
    viewer: Any, dock: Any
) -> None:
    press(viewer, "ajdju")
    path = dock.session.log.path
    with path.open("ab") as file:
        file.write(path.read_bytes()[:40])  # kill -9 in the middle of a line
    dock.close()
    viewer.window.remove_dock_widget("all")
    _, again = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Review regions")
    again.reader.setText("Dr. A")
    again.reader.editingFinished.emit()
    assert again.current == 3
    assert [again.table.item(r, 3).text() for r in range(4)] == ["agree", "disagree", "unsure", ""]
    again.reader.setText("Dr. B")
    again.reader.editingFinished.emit()
    assert again.current == 0
    assert {again.table.item(r, 3).text() for r in range(10)} == {""}
    press(viewer, "d")
    assert [v.answer for v in read_verdicts(path.with_name("Dr._B.jsonl"))] == ["disagree"]
    again.close()


def test_the_edge_is_as_wide_on_the_screen_at_every_zoom(viewer: Any, dock: Any) -> None:
    for zoom in (0.1, 1.0, 4.0):
        viewer.scene.camera.zoom = zoom
        [width] = dock.marker.layer.edge_width
        assert width * 0.5 * zoom == pytest.approx(3)


def fill(monkeypatch: pytest.MonkeyPatch, *, only: str = "") -> None:
    """Let the disk be full, or only for files whose path holds `only`."""
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if only in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(log.os, "write", full)


def answers(path: Path) -> list[str | None]:
    return [verdict.answer for verdict in read_verdicts(path)]


@needs_proc
def test_what_a_full_disk_does_not_take_is_kept_in_a_second_place_and_goes_home(
    viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    path, spare = dock.session.log.path, dock.session.log.spare
    fill(monkeypatch, only="/reviews/")
    press(viewer, "ajd")
    assert "the disk is full: make room. The verdict is safe in" in told[-1]
    assert "2 not there yet, but safe" in dock.progress.text()
    assert dock.table.item(1, 3).text() == "disagree"
    assert (answers(path), answers(spare)) == ([], ["agree", "disagree"])
    monkeypatch.undo()
    dock.guard.try_again()  # as it does every few seconds
    assert "There is room again: 2 verdicts" in told[-1]
    assert answers(path) == ["agree", "disagree"]
    assert "not there yet" not in dock.progress.text()
    press(viewer, "ju")
    assert answers(path) == ["agree", "disagree", "unsure"]


@needs_proc
def test_without_any_room_the_window_asks_before_it_closes(
    viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch, told: list[str], tmp_path: Path
) -> None:
    from qtpy.QtGui import QCloseEvent

    from viewers.napari_plugin import unsaved

    window, path = viewer.window._qt_window, dock.session.log.path
    asked: list[str] = []
    said = iter([unsaved.STAY, unsaved.TRY_AGAIN, unsaved.SAVE_TO, unsaved.STAY, unsaved.SAVE_TO])

    def ask(_guard: Any, what: str, why: str) -> str:
        asked.append(f"{what} {why}")
        return next(said)

    monkeypatch.setattr(unsaved.UnsavedGuard, "ask", ask)
    monkeypatch.setattr(
        unsaved.QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "stick")
    )
    with monkeypatch.context() as disk:
        fill(disk)
        press(viewer, "ajd")
        assert "NOT SAVED" in told[-1]
        assert "Leave napari open" in told[-1]
        assert "2 NOT SAVED" in dock.progress.text()
        assert not window.close()
        assert "2 verdicts are on no disk yet." in asked[0]
        assert "the disk is full" in asked[0]
        assert not window.close()  # try again, save to a stick that is full too, stay
        assert len(asked) == 4
        assert window.isVisible()
    with monkeypatch.context() as disk:
        fill(disk, only="/reviews/")
        disk.setattr(log, "spare_folder", lambda: Path("/proc/no folder"))
        unsaved.KEEPER.flush()
        assert unsaved.KEEPER.at_risk == 2
        assert unsaved.KEEPER.flush() is not None
        dock.guard.eventFilter(window, QCloseEvent())
    assert answers(tmp_path / "stick" / "tissue" / "Dr._A.jsonl") == ["agree", "disagree"]
    assert answers(path) == []
    dock.guard.try_again()
    assert answers(path) == ["agree", "disagree"]


@needs_proc
def test_a_dock_that_napari_takes_away_loses_nothing_and_gives_the_keys_back(
    viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    """A dock's own cross: napari takes the widget out of the window and sends no close event."""
    path, guard = dock.session.log.path, dock.guard
    with monkeypatch.context() as disk:
        fill(disk)
        press(viewer, "a")
        viewer.window.remove_dock_widget(dock)
        assert not [k for k in viewer.keymap if str(k) in "JKADUN"]
        assert "region in review" not in [layer.name for layer in viewer.layers]
        assert "NOT SAVED" in told[-1]
        _, again = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Review regions")
        again.reader.setText("Dr. A")
        again.reader.editingFinished.emit()
        assert again.table.item(0, 3).text() == "agree"  # though no file has it
        viewer.window.remove_dock_widget(again)
    guard.try_again()
    assert answers(path) == ["agree"]


@needs_proc
def test_what_a_full_disk_did_not_take_outlives_a_change_of_reader(
    viewer: Any, dock: Any, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    path = dock.session.log.path
    fill(monkeypatch)
    press(viewer, "a")
    for name, answer in (("Dr. B", ""), ("Dr. A", "agree"), ("Dr. B", "")):
        dock.reader.setText(name)
        dock.reader.editingFinished.emit()
        assert dock.table.item(0, 3).text() == answer
    assert "1 NOT SAVED" in dock.progress.text()
    monkeypatch.undo()
    dock.close()
    assert answers(path) == ["agree"]
    assert "disk is full" in told[-1]


def test_leaving_the_readers_name_as_it_is_keeps_the_place(viewer: Any, dock: Any) -> None:
    press(viewer, "ajjj")
    dock.reader.editingFinished.emit()  # the focus went in and out
    assert dock.current == 3


def test_a_score_that_a_run_adds_is_offered(
    viewer: Any, dock: Any, reviewed_store: SlideStore, qtbot: Any
) -> None:
    old = reviewed_store.prediction()
    reviewed_store.write_prediction(
        "other-0b0b0b0b", scores=old.scores, attention=old.attention[::-1],
        attrs={**old.attrs, "model_id": "m2"},
    )  # fmt: skip
    press(viewer, "jj")
    viewer.add_points([[0, 0]])  # any new layer is a reason to look
    qtbot.waitUntil(lambda: dock.predictions.count() == 2, timeout=60_000)
    assert dock.current == 2
    dock.predictions.setCurrentText("other-0b0b0b0b")
    assert dock.session.prediction.name == "other-0b0b0b0b"
    assert dock.current == 0


def test_a_store_of_another_slide_is_refused_with_the_remedy(
    viewer: Any, dock: Any, blank_path: Path, tmp_path: Path, told: list[str]
) -> None:
    other = make_store(blank_path, tmp_path / "blank.zarr", TileSpec(128, 0.5, min_tissue=0))
    before = list(viewer.layers)
    dock.open_path(other.path)
    assert "blank.zarr is the store of blank.tif, not of tissue.tif" in told[-1]
    assert list(viewer.layers) == before
    dock.open_path(str(tmp_path))
    assert "no slide store here" in told[-1]


def test_without_a_reader_nothing_is_said_and_the_reader_is_asked_for(
    viewer: Any, dock: Any, told: list[str]
) -> None:
    dock.reader.setText(" ")
    dock.reader.editingFinished.emit()
    assert "type a name" in told[-1]
    press(viewer, "a")
    assert len(told) == 2
    assert not dock.store.path.startswith("none")
    assert list(Path(dock.store.path).parents[1].glob("reviews/*/*")) == []


def test_the_score_the_point_and_the_thumbnails_are_shown(
    viewer: Any, dock: Any, qtbot: Any
) -> None:
    assert "<b>tumor 0.750</b> (calibrated probability)" in dock.score.text()
    assert "positive: at or above the operating point 0.400" in dock.score.text()
    qtbot.waitUntil(lambda: not dock.table.item(9, 0).icon().isNull(), timeout=60_000)
    image = dock.table.item(0, 0).icon().pixmap(72, 72).toImage()
    assert image.pixelColor(36, 36).red() > image.pixelColor(36, 36).green() + 20  # pink tissue
    for button, key in zip(dock.buttons.values(), "KJADUN", strict=True):
        assert f"(key {key})" in button.toolTip()


def test_without_a_store_it_says_what_to_open(viewer: Any, told: list[str]) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Review regions")
    assert "No heatmap is open" in widget.score.text()
    press(viewer, "a")
    assert "no region to judge" in told[-1]
    widget.close()


def test_closing_gives_the_keys_back(viewer: Any, dock: Any) -> None:
    dock.close()
    assert not [k for k in viewer.keymap if str(k) in "JKADUN"]
    assert "region in review" not in [layer.name for layer in viewer.layers]


def test_a_resumed_log_is_the_same_file(reviewed_store: SlideStore) -> None:
    assert ReviewLog.open(reviewed_store.path, "tissue", "x").path.parts[-3:] == (
        "reviews", "tissue", "x.jsonl",
    )  # fmt: skip
    assert np.isfinite(reviewed_store.prediction().attention).all()
