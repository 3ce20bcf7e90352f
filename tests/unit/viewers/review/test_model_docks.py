"""The docks that need a model: explain on click, the score without a region, a run of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mil_models import load_model, predict_bag
from tests.unit.viewers.review.conftest import needs_display
from tiling import open_store
from tiling.annotation_files import write_annotations
from tiling.annotations import Annotation
from wsi_pipeline.cli import run_tokens

pytestmark = needs_display
ENCODER = ["--encoder", "resnet10t", "--random-weights", "--device", "cpu"]
SQUARE = np.array([[512, 256], [1024, 256], [1024, 768], [512, 768]], float)


@pytest.fixture(scope="module")
def root(tissue_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides a to c, embedded, a model trained on them, and a scored."""
    root = tmp_path_factory.mktemp("model")
    (root / "slides").mkdir()
    for name in "abc":
        shutil.copy(tissue_path, root / "slides" / f"{name}.tif")
    (root / "labels.csv").write_text("slide_id,patient_id,label\na,p,no\nb,q,yes\nc,r,no\n")

    def wsi(*tokens: object) -> None:
        assert run_tokens([str(token) for token in tokens]) == 0

    quiet = ["--progress", "none"]
    wsi("embed", root / "slides", "-o", root / "out", *ENCODER, "--min-tissue", 0.5, *quiet)
    wsi("train", "--stores", root / "out", "--labels", root / "labels.csv", "-o", root / "model",
        "--folds", 0, "--epochs", 1, "--json")  # fmt: skip
    wsi("predict", "--stores", root / "out", "--model", root / "model", *quiet)
    return root


@pytest.fixture
def viewer(make_napari_viewer: Callable[..., Any], root: Path) -> Any:
    from viewers.napari_plugin.scene import show_store

    viewer = make_napari_viewer(show=True)
    show_store(viewer, open_store(root / "out" / "stores" / "a.zarr"))
    return viewer


def open_dock(viewer: Any, name: str) -> Any:
    return viewer.window.add_plugin_dock_widget("wsi-pipeline", name)[1]


def click(viewer: Any, x: float, y: float) -> None:
    """Click at a level-0 place in the middle of the view."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QApplication

    viewer.scene.camera.center = ((y - 0.5) * 0.5, (x - 0.5) * 0.5)
    viewer.scene.camera.zoom = 2.0
    canvas = viewer.window._qt_viewer.canvas.native
    middle = QPoint(canvas.width() // 2, canvas.height() // 2)
    QTest.mouseMove(canvas, middle)
    QTest.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
    QApplication.processEvents()


def test_a_click_draws_what_in_the_tile_speaks_for_the_answer(
    viewer: Any, root: Path, qtbot: Any, told: list[str]
) -> None:
    dock = open_dock(viewer, "Explain a tile")
    store = open_store(root / "out" / "stores" / "a.zarr")
    click(viewer, 1100, 700)  # the button is not down: nothing happens
    dock.click_button.setChecked(True)
    click(viewer, 1100, 700)
    assert "no model is chosen" in told[-1]
    dock.model.setText(str(root / "model"))
    click(viewer, 1100, 700)
    qtbot.waitUntil(lambda: "Tile" in dock.answer.text(), timeout=120_000)
    index = store.grid.coords.tolist().index([1024, 512])
    [layer] = [v for v in viewer.layers if v.metadata.get("kind") == "explanation"]
    assert layer.metadata["index"] == index
    assert layer.data.shape == (256, 256)
    low, high = layer.contrast_limits
    assert (low, high) == (-high, pytest.approx(np.abs(layer.data).max()))
    # A px of it is one of the slide's, 0.5 µm; the tile's first is (1024, 512).
    assert layer.translate.tolist() == [512 * 0.5, 1024 * 0.5]
    assert layer.scale.tolist() == [0.5, 0.5]
    began = time.perf_counter()
    click(viewer, 600, 300)
    qtbot.waitUntil(lambda: "Tile 0" in dock.answer.text(), timeout=120_000)
    assert time.perf_counter() - began < 20
    maps = [v for v in viewer.layers if v.metadata.get("kind") == "explanation"]
    assert len({tuple(v.contrast_limits) for v in maps}) == 1  # one scale: they can be compared
    click(viewer, 50, 50)
    assert "no tile at level-0 (50, 50)" in told[-1]
    dock.close()


def test_the_score_without_the_region_in_review(viewer: Any, root: Path, qtbot: Any) -> None:
    dock, review = open_dock(viewer, "Explain a tile"), open_dock(viewer, "Review regions")
    dock.model.setText(str(root / "model"))
    dock.without_button.click()
    qtbot.waitUntil(lambda: "without region 1" in dock.answer.text(), timeout=120_000)
    store, model = open_store(root / "out" / "stores" / "a.zarr"), load_model(root / "model")
    left = np.delete(np.arange(len(store)), review.session.regions[0].tiles)
    embeddings = store.embeddings().data[:]
    expected = predict_bag(model, embeddings[left], store.grid.coords[left]).scores[-1]
    whole = store.prediction().scores["yes"]
    assert f"yes {whole:.3f} → {expected:.3f}" in dock.answer.text()
    review.close()
    dock.close()


def test_a_checkpoint_of_another_encoder_is_refused_with_the_remedy(
    viewer: Any, root: Path, qtbot: Any, told: list[str], tmp_path: Path
) -> None:
    shutil.copytree(root / "model", tmp_path / "other")
    card = (tmp_path / "other" / "card.json").read_text().replace('"random:0"', '"random:7"')
    (tmp_path / "other" / "card.json").write_text(card)
    dock = open_dock(viewer, "Explain a tile")
    dock.model.setText(str(tmp_path / "other"))
    dock.click_button.setChecked(True)
    click(viewer, 1100, 700)
    qtbot.waitUntil(lambda: bool(told), timeout=120_000)
    assert "the embeddings do not fit the model" in told[-1]
    assert "embed as the model's card says" in told[-1]
    dock.model.setText(str(tmp_path))
    click(viewer, 1100, 700)
    qtbot.waitUntil(lambda: "not a model folder" in told[-1], timeout=120_000)
    dock.close()


def wait_for(dock: Any, seconds: float = 300) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while dock._timer.isActive() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)


def test_a_run_fills_the_store_and_the_heatmap_grows(
    make_napari_viewer: Callable[..., Any], root: Path, tmp_path: Path, qtbot: Any
) -> None:
    viewer = make_napari_viewer(show=True)
    slide = Path(shutil.copy(root / "slides" / "a.tif", tmp_path / "new.tif"))
    viewer.open(str(slide), plugin="wsi-pipeline")
    dock = open_dock(viewer, "Run a model")
    dock.model.setText(str(root / "model"))
    dock.out.setText(str(tmp_path / "out"))
    dock.more.setText("--random-weights --device cpu --min-tissue 0.5")
    dock.run_button.click()
    assert "--live" in dock.process.arguments
    assert not dock.run_button.isEnabled()
    qtbot.waitUntil(lambda: dock.state.text().startswith("finished: no "), timeout=300_000)
    store = open_store(tmp_path / "out" / "stores" / "new.zarr")
    assert len(store.prediction_names()) == 1
    heat = [v for v in viewer.layers if v.metadata.get("store")]
    assert [v.metadata["prediction"] for v in heat] == store.prediction_names()
    assert (dock.run_progress.finished, dock.run_progress.done) == (1, 16)
    assert not {"tiles done", "attention so far"} & {v.name for v in viewer.layers}
    dock.close()


def test_the_map_of_a_run_at_work_grows_in_place(
    viewer: Any, root: Path, qtbot: Any, tmp_path: Path
) -> None:
    from viewers.run_watch import RunWatch

    out = tmp_path / "out"
    shutil.copytree(root / "out", out)
    store = open_store(out / "stores" / "a.zarr")
    [name] = store.prediction_names()
    said = store.prediction(name)
    dock = open_dock(viewer, "Run a model")
    dock.watch = RunWatch(str(out), str(root / "slides" / "a.tif"))

    def write(tiles: int) -> None:
        attention = np.where(np.arange(16) < tiles, said.attention, np.nan)
        store.write_growing_prediction(
            name, scores=said.scores, attention=attention, attrs={"tiles": tiles}
        )
        dock._look()

    def cells() -> int:
        found = [v for v in viewer.layers if v.name == "attention so far"]
        return int(np.isfinite(found[0].data).sum()) if found else 0

    write(4)
    qtbot.waitUntil(lambda: cells() == 4, timeout=60_000)
    layer = viewer.layers["attention so far"]
    layer.metadata["threshold"] = 0.5  # as the dock Overlays sets it: it stays
    write(16)
    qtbot.waitUntil(lambda: cells() == 16, timeout=60_000)
    assert viewer.layers["attention so far"] is layer
    assert layer.metadata["threshold"] == 0.5
    assert "from 16 tiles so far" in dock._score
    [final] = [v for v in viewer.layers if v.metadata.get("prediction") == name and v != layer]
    assert np.array_equal(layer.data, final.data, equal_nan=True)  # all tiles: the final map
    assert layer.translate.tolist() == final.translate.tolist()
    assert layer.scale.tolist() == final.scale.tolist()
    dock.close()


def test_only_inside_the_outlines_from_the_embeddings_that_are_there(
    viewer: Any, root: Path, tmp_path: Path, told: list[str], qtbot: Any
) -> None:
    dock, annotate = open_dock(viewer, "Run a model"), open_dock(viewer, "Annotate")
    assert dock.out.text() == str(root / "out")
    dock.model.setText(str(root / "model"))
    dock.inside.setChecked(True)
    dock.run_button.click()
    assert "nothing is drawn" in told[-1]
    annotate.import_file(
        write_annotations(tmp_path / "x.geojson", [Annotation("r", "Region", "polygon", SQUARE)])
    )
    dock.run_button.click()
    qtbot.waitUntil(lambda: "inside the outlines (4 tiles)" in dock.state.text(), timeout=300_000)
    store = open_store(root / "out" / "stores" / "a.zarr")
    [part] = set(store.prediction_names()) - set(store.whole_slide_predictions())
    assert part in [v.metadata.get("prediction") for v in viewer.layers]
    annotate.close()
    dock.close()


def test_a_cancelled_run_is_gone_within_a_second(viewer: Any, root: Path, tmp_path: Path) -> None:
    dock = open_dock(viewer, "Run a model")
    dock.out.setText(str(tmp_path / "out"))
    dock.more.setText(" ".join([*ENCODER, "--min-tissue", "0.5"]))
    dock.run_button.click()
    time.sleep(0.5)
    assert dock.process.is_running
    family = psutil.Process(dock.process._process.pid).children(recursive=True)
    began = time.monotonic()
    dock.cancel_button.click()
    wait_for(dock, 5)
    assert time.monotonic() - began < 1.5
    assert not dock.process.is_running
    assert dock.state.text() == "cancelled; Run goes on where it stopped"
    assert dock.run_button.isEnabled()
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    dock.close()


def test_a_run_ends_with_its_dock_and_with_the_window(
    viewer: Any, root: Path, tmp_path: Path
) -> None:
    """napari sends docks no close event, neither by their own cross nor by the window's."""
    from qtpy.QtWidgets import QApplication

    for way in (viewer.window.remove_dock_widget, lambda _dock: viewer.close()):
        dock = open_dock(viewer, "Run a model")
        dock.out.setText(str(tmp_path / "out"))
        dock.more.setText(" ".join([*ENCODER, "--min-tissue", "0.5"]))
        dock.run_button.click()
        QApplication.processEvents()
        assert dock.process.is_running
        way(dock)
        assert not dock.process.is_running


def test_a_run_that_is_refused_says_why(
    viewer: Any, root: Path, tmp_path: Path, told: list[str]
) -> None:
    dock = open_dock(viewer, "Run a model")
    dock.out.setText("")
    dock.run_button.click()
    assert "no output folder" in told[-1]
    dock.out.setText(str(tmp_path / "out"))
    dock.model.setText(str(tmp_path / "none"))
    dock.run_button.click()
    wait_for(dock)
    assert "not a model folder" in told[-1]
    assert dock.state.text() == "failed"
    dock.close()
