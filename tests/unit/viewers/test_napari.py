"""napari's side: layer data, manifest, reader, and that slide and heatmap coincide on screen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import coded_pixels, write_lossless
from tests.unit.tiling.test_store import make_store
from tests.zarr_slides import write_ome_zarr
from tiling import SlideStore
from viewers import attention_layers, level_plan, levels, slide_layers, store_layers
from viewers.napari_plugin.reader import get_reader

napari = pytest.importorskip("napari")
needs_display = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("Xvfb") is None, reason="no Xvfb to draw on"
)


def test_slide_layers_are_lazy_levels_in_micrometres(tissue_path: Path) -> None:
    [(levels, arguments, kind)] = slide_layers(tissue_path)
    assert kind == "image"
    # The file has 1 and 4; the level between them is averaged when it is asked for.
    assert [level.shape for level in levels] == [(1537, 2051, 3), (768, 1026, 3), (384, 512, 3)]
    assert levels[0].chunks == (512, 512, 3)
    assert arguments["scale"] == (0.5, 0.5)
    assert arguments["units"] == ("um", "um")
    assert arguments["rgb"]
    assert arguments["multiscale"]


def test_without_a_believable_pixel_size_the_unit_is_the_pixel(no_mpp_path: Path) -> None:
    [(_, arguments, _)] = slide_layers(no_mpp_path)
    assert (arguments["scale"], arguments["units"]) == ((1.0, 1.0), ("pixel", "pixel"))
    [(_, arguments, _)] = slide_layers(no_mpp_path, mpp=0.25)
    assert (arguments["scale"], arguments["units"]) == ((0.25, 0.25), ("um", "um"))


def test_attention_is_placed_by_pixel_centres(scored_store: SlideStore) -> None:
    [(ranks, arguments, kind)] = attention_layers(scored_store)
    assert kind == "image"
    assert ranks.shape == (7, 9)  # 1537 x 2051 px in cells of 256
    assert arguments["scale"] == (128.0, 128.0)
    assert arguments["translate"] == (63.75, 63.75)
    assert ranks[4, 5] == 1.0
    assert np.isnan(ranks[0, 0])
    raw = arguments["metadata"]["attention"]
    assert np.nansum(raw) == pytest.approx(1)


def test_a_store_without_its_slide_shows_the_heatmap_alone(
    tissue_path: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(tissue_path, tmp_path / "moved.tif"))
    store = make_store(moved, tmp_path / "a.zarr")
    moved.unlink()
    with pytest.warns(UserWarning, match="shown without its slide"):
        layers = store_layers(store.path)
    assert [arguments["name"] for _, arguments, _ in layers] == ["tissue fraction"]


def test_the_reader_takes_slides_and_stores_and_nothing_else(
    tissue_path: Path, scored_store: SlideStore, tmp_path: Path
) -> None:
    read = get_reader(str(tissue_path))
    assert read is not None
    assert len(read(str(tissue_path))) == 1
    read = get_reader([scored_store.path])
    assert read is not None
    assert [arguments["name"] for _, arguments, _ in read([scored_store.path])] == [
        "tissue", "attention abmil-0a0a0a0a", "tissue fraction",
    ]  # fmt: skip
    (tmp_path / "x.tif").write_text("no slide")
    (tmp_path / "y.zarr").mkdir()
    for other in (str(tmp_path / "x.tif"), str(tmp_path / "y.zarr"), str(tmp_path / "none"), []):
        assert get_reader(other) is None


def test_images_in_zarr_are_slides_and_not_stores(tmp_path: Path) -> None:
    """Both are folders called *.zarr: their attributes tell them apart."""
    pixels = coded_pixels(600, 400)
    write_ome_zarr(tmp_path / "image.zarr", [pixels, pixels[::2, ::2]], scale=(0.25, 0.5))
    path = str(tmp_path / "image.zarr")
    read = get_reader(path)
    assert read is not None
    [(levels, arguments, kind)] = read(path)
    assert (kind, arguments["scale"], arguments["rgb"]) == ("image", (0.5, 0.25), True)
    assert np.array_equal(np.asarray(levels[0]), pixels)


def test_the_manifest_is_valid() -> None:
    """One bad field disables the whole plugin with only a warning."""
    found = subprocess.run(
        [sys.executable, "-m", "npe2", "validate", "wsi-pipeline"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("wsi-pipeline")
    for command in manifest.contributions.commands or []:
        assert callable(command.python_name and _import(command.python_name))


def _import(name: str) -> Any:
    import importlib

    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@needs_display
def test_the_viewer_opens_a_slide_by_the_plugin(
    make_napari_viewer: Callable[..., Any], tissue_path: Path, scored_store: SlideStore
) -> None:
    viewer = make_napari_viewer()
    viewer.open(str(tissue_path), plugin="wsi-pipeline")
    viewer.open(scored_store.path, plugin="wsi-pipeline")
    assert [layer.name for layer in viewer.layers] == [
        "tissue", "attention abmil-0a0a0a0a", "tissue fraction",  # the slide was open already
    ]  # fmt: skip
    assert all(str(u) == "micrometer" for layer in viewer.layers for u in layer.units)


@needs_display
def test_wsi_view_opens_slide_heatmap_and_scale_bar(
    make_napari_viewer: Callable[..., Any], tissue_path: Path, scored_store: SlideStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from viewers.launch import create_viewer

    viewer = make_napari_viewer()
    monkeypatch.setattr(napari, "Viewer", lambda **_: viewer)
    attrs = scored_store._group.attrs
    attrs["wsi_pipeline"] = {
        **scored_store.attrs, "slide": {**scored_store.attrs["slide"], "mpp_x": 0.25, "mpp_y": 0.25}
    }  # fmt: skip
    create_viewer(tissue_path, scored_store.path)
    slide, heat, tissue = viewer.layers
    assert (heat.visible, tissue.visible) == (True, False)
    assert slide.scale.tolist() == [0.25, 0.25]  # the store's pixel size, not the slide's 0.5
    assert heat.scale.tolist() == [64.0, 64.0]
    assert viewer.canvas.overlays.scale_bar.visible


ASYNC = """
import os, sys
import napari
from viewers import launch

napari.run = lambda: None
made = []
create = launch.create_viewer
launch.create_viewer = lambda *a, **k: made.append(create(*a, **k, show=False))
launch.view(sys.argv[1])
settings = napari.settings.get_settings()
print(made[0]._layer_slicer._force_sync, settings._save_dict().get("experimental"))
made[0].close()
sys.stdout.flush()
os._exit(0)
"""


@needs_display
@pytest.mark.parametrize(("wanted", "said"), [(None, "False None"), ("0", "True None")])
def test_wsi_view_reads_off_the_windows_thread_and_leaves_the_users_settings_alone(
    tissue_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None, said: str
) -> None:
    monkeypatch.delenv("NAPARI_ASYNC", raising=False)
    if wanted is not None:
        monkeypatch.setenv("NAPARI_ASYNC", wanted)
    found = subprocess.run(
        [sys.executable, "-c", ASYNC, str(tissue_path)],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == said


@pytest.fixture
def notes() -> Any:
    """What the window tells: messages, by severity."""
    from napari.utils.notifications import notification_manager

    notification_manager.records.clear()
    yield lambda: [(str(n.severity), n.message) for n in notification_manager.records]
    notification_manager.records.clear()


@needs_display
def test_broken_slides_are_told_and_the_window_lives(
    make_napari_viewer: Callable[..., Any], tissue_path: Path, tmp_path: Path, notes: Any
) -> None:
    """What is left of a truncated slide is shown; what is no slide at all is refused."""
    whole = tissue_path.read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "noise.svs").write_bytes(whole[7:5000])
    viewer = make_napari_viewer()
    assert viewer.open(str(tmp_path / "noise.svs"), plugin="wsi-pipeline") == []
    viewer.open(str(tmp_path / "cut.svs"), plugin="wsi-pipeline")
    [(refused, why), (shown, how)] = notes()
    assert (refused, shown) == ("error", "warning")
    assert "noise.svs was not opened" in why
    assert "check that the file is whole, or copy it again" in why
    assert "cut.svs: parts cannot be decoded" in how
    viewer.open(str(tissue_path), plugin="wsi-pipeline")
    assert [layer.name for layer in viewer.layers] == ["cut", "tissue"]


@needs_display
def test_a_slide_without_pyramid_is_shown_as_it_is_read(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, notes: Any, qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It is said; grey gives way to pixels in window and overview; a slide let go is not read."""
    from viewers.napari_plugin import preview_progress

    monkeypatch.setattr(level_plan, "SMALL_PX", 64)
    monkeypatch.setattr(levels, "PREVIEW_SOURCE_PX", 1)
    path = write_lossless(tmp_path / "flat.tif", [np.full((1500, 2100, 3), 201, np.uint8)], 0.5)
    viewer = make_napari_viewer(show=True)
    overview = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Slide view")[1].overview
    [slide] = viewer.open(str(path), plugin="wsi-pipeline")
    viewer.reset_view()
    [(severity, said)] = notes()
    assert (severity, said[:40]) == ("info", "flat.tif stores no smaller picture of it")
    qtbot.waitUntil(lambda: not preview_progress._followed, timeout=30_000)
    qtbot.waitUntil(lambda: not overview._is_partial, timeout=30_000)
    assert np.unique(np.asarray(slide.data[-1])).tolist() == [201]

    def middle() -> list[int]:
        shot = viewer.screenshot(flash=False)
        return shot[shot.shape[0] // 2, shot.shape[1] // 2, :3].tolist()

    qtbot.waitUntil(lambda: middle() == [201] * 3, timeout=30_000)
    colour = overview._picture.toImage().pixelColor(100, 100)
    seen = np.array([colour.red(), colour.green(), colour.blue()])
    assert np.abs(seen - 201).max() <= 8  # some screens have 16 bits a pixel

    pyramid = slide_layers(path)[0][0][0].pyramid
    preview = pyramid.start_preview()
    preview.stop()
    followed = preview_progress.Following(pyramid, preview)
    preview_progress._followed.append(followed)
    followed._was_shown = True  # and is no longer in the window
    followed.look()
    assert preview_progress._followed == []
    assert preview._is_stopped


@needs_display
def test_a_missing_pixel_size_is_asked_for_once(
    make_napari_viewer: Callable[..., Any], no_mpp_path: Path, tmp_path: Path, qtbot: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import platformdirs

    from viewers.napari_plugin import pixel_size_dialog

    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / name)
    viewer = make_napari_viewer()
    [layer] = viewer.open(str(no_mpp_path), plugin="wsi-pipeline")
    assert layer.units[0] == "pixel"
    qtbot.waitUntil(lambda: bool(pixel_size_dialog._open), timeout=3000)
    [dialog] = pixel_size_dialog._open
    dialog.size_um.setValue(0.5)
    dialog.accept()
    assert layer.scale.tolist() == [0.5, 0.5]
    assert str(layer.units[0]) == "micrometer"
    viewer.layers.clear()
    [again] = viewer.open(str(no_mpp_path), plugin="wsi-pipeline")
    qtbot.wait(50)
    assert not pixel_size_dialog._open
    assert again.scale.tolist() == [0.5, 0.5]
    assert again.metadata["mpp"] == (0.5, 0.5)


def test_a_store_whose_slide_is_another_file_now_is_shown_without_it(
    tissue_path: Path, blank_path: Path, tmp_path: Path
) -> None:
    slide = Path(shutil.copy(tissue_path, tmp_path / "s.tif"))
    store = make_store(slide, tmp_path / "a.zarr")
    shutil.copy(blank_path, slide)
    with pytest.warns(UserWarning, match="is not the file the store was made from"):
        layers = store_layers(store.path)
    assert not any(a["metadata"].get("kind") == "slide" for _, a, _ in layers)
