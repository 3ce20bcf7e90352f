"""Overlays: values, ranks, colours, where they lie on screen, and the dock that rules them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import write_lossless
from tests.unit.tiling.test_probability_map import GRID, NAME, values_of, write
from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, TileSpec
from tiling.probability_map import create_map
from viewers import slide_layers
from viewers.colours import colours, colours_from
from viewers.overlays import colour_names, overlay_layers, shown, store_overlays, tile_box_um

needs_display = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("Xvfb") is None, reason="no Xvfb to draw on"
)


@pytest.fixture
def two_models(scored_store: SlideStore) -> SlideStore:
    """A second model whose attention falls with the index, and what each tile adds."""
    attention = np.arange(len(scored_store), 0, -1, dtype=np.float32)
    scored_store.write_prediction(
        "additive-0b0b0b0b",
        scores={"normal": 0.9, "tumor": 0.1},
        attention=attention / attention.sum(),
        attrs={},
        others={"contribution": np.linspace(-2, 1, len(scored_store)).astype(np.float32)},
    )
    return scored_store


def test_all_that_a_store_says_of_its_tiles_is_a_map(two_models: SlideStore) -> None:
    found = list(store_overlays(two_models))
    assert [(o.what, o.prediction) for o in found] == [
        ("attention", "abmil-0a0a0a0a"), ("attention", "additive-0b0b0b0b"),
        ("contribution", "additive-0b0b0b0b"), ("tissue_fraction", ""),
    ]  # fmt: skip
    contribution = found[2].values
    assert np.nanmin(contribution) == -2
    assert np.nanmax(contribution) == 1
    assert [o.what for o in store_overlays(two_models, "additive")] == ["attention", "contribution"]


def test_a_value_lies_in_the_cell_of_its_tile(two_models: SlideStore) -> None:
    """Tiles of 256 px: the tile at x0 1280, y0 768 is row 3, column 5."""
    *_, tissue = store_overlays(two_models)
    index = two_models.grid.coords.tolist().index([1280, 768])
    assert tissue.values[3, 5] == two_models.grid.tissue_fraction[index]
    assert (tissue.cell_um, tissue.center_um) == ((128.0, 128.0), (63.75, 63.75))


def test_only_the_first_map_is_shown_and_signed_values_span_both_sides(
    two_models: SlideStore,
) -> None:
    layers = [arguments for _, arguments, _ in overlay_layers(two_models)]
    assert [a["visible"] for a in layers] == [True, False, False, False]
    assert [a["contrast_limits"] for a in layers] == [(0, 1), (0, 1), (-2, 2), (0, 1)]
    assert {a["metadata"]["kind"] for a in layers} == {"overlay"}
    attention = layers[0]["metadata"]
    assert attention["scores"] == {"normal": 0.25, "tumor": 0.75}
    assert np.nansum(attention["attention"]) == pytest.approx(1)


def test_raw_attention_spans_zero_to_its_highest(two_models: SlideStore) -> None:
    (_, arguments, _), *_ = overlay_layers(two_models)
    metadata = arguments["metadata"]
    metadata["scale"] = "raw"
    values, limits = shown(metadata)
    assert limits == (0.0, np.nanmax(values))
    assert np.nansum(values) == pytest.approx(1)


def test_a_store_without_tiles_has_maps_without_values(blank_path: Path, tmp_path: Path) -> None:
    store = make_store(blank_path, tmp_path / "blank.zarr")
    assert len(store) == 0
    [(values, arguments, _)] = overlay_layers(store)
    assert np.isnan(values).all()
    assert arguments["contrast_limits"] == (0.0, 1.0)


@pytest.mark.parametrize("name", colour_names())
def test_colours_are_clear_below_the_threshold_and_else_the_same(name: str) -> None:
    plain = colours(name)
    found = colours_from(plain, 0.75)
    assert plain.shape == (256, 4)
    assert plain[:, 3].max() <= 0.75  # tissue stays to be seen under the highest
    assert (found[:192, 3] == 0).all()
    assert np.array_equal(found[192:], plain[192:])
    assert np.array_equal(found[:, :3], plain[:, :3])


@needs_display
@pytest.mark.parametrize("mpp", [0.5, 0.2527])
def test_pixels_heat_cell_and_tile_box_coincide_on_screen(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, mpp: float
) -> None:
    """An odd slide with two blue tiles, the last one overhanging: seen at three magnifications.

    Levels 0, 2 (averaged by the window) and 4. To one pixel of level 0, or of the screen where
    that is coarser.
    """
    from napari.layers import Layer

    pixels = np.full((823, 1079, 3), 255, np.uint8)
    pixels[256:384, 384:512] = pixels[768:, 1024:] = (0, 0, 255)
    path = write_lossless(
        tmp_path / "s.tif", [pixels, np.ascontiguousarray(pixels[2::4, 2::4])], mpp
    )
    spec = TileSpec(128, mpp, min_tissue=0.0, edge="pad")
    store = make_store(path, tmp_path / "s.zarr", spec)
    attention = np.zeros(len(store), np.float32)
    hot = [store.grid.coords.tolist().index(c) for c in ([384, 256], [1024, 768])]
    attention[hot] = 0.5
    store.write_prediction("m-00000000", scores={"a": 0.0, "b": 1.0}, attention=attention, attrs={})
    viewer = make_napari_viewer(show=True)
    slide = viewer.add_layer(Layer.create(*slide_layers(path)[0]))
    heat = viewer.add_layer(Layer.create(*overlay_layers(store, "m")[0]))
    boxes = viewer.add_shapes(
        [tile_box_um(x0, y0, (128, 128), (mpp, mpp)) for x0, y0 in ([384, 256], [1024, 768])],
        shape_type="polygon", face_color="lime", edge_width=0, units=("um", "um"),
    )  # fmt: skip

    def seen(layer: Any, at: tuple[float, float], zoom: float) -> np.ndarray:
        for one in (slide, heat, boxes):
            one.visible = one is layer
        viewer.scene.camera.center = at
        viewer.scene.camera.zoom = zoom / mpp
        viewer.screenshot(canvas_only=True, flash=False)
        shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
        coloured = shot.max(axis=-1) - shot.min(axis=-1) > 60
        assert coloured.sum() > 50
        return np.argwhere(coloured)

    levels = set()
    for zoom in (3.0, 0.42, 0.22):
        at = (319.5 * mpp, 447.5 * mpp)  # the middle of the first tile
        allowed = max(zoom, 1)
        window = 64 * zoom + 8
        found = []
        for layer in (slide, heat, boxes):
            hits = seen(layer, at, zoom)
            middle = np.array(viewer.canvas.size) / 2
            near = hits[(np.abs(hits - middle) < window).all(axis=1)]
            found.append(np.concatenate([near.min(axis=0), near.max(axis=0)]))
        levels.add(slide.data_level)
        assert np.abs(found[1] - found[0]).max() <= allowed, (zoom, found)
        assert np.abs(found[2] - found[0]).max() <= allowed, (zoom, found)
        assert found[0][2] - found[0][0] == pytest.approx(128 * zoom, abs=2)
        # The last tile: where it begins. It ends with the slide, its cell and box after it.
        at = (768 * mpp, 1024 * mpp)
        starts = []
        for layer in (slide, heat, boxes):
            hits = seen(layer, at, zoom)
            near = hits[(hits > np.array(viewer.canvas.size) / 2 - 8).all(axis=1)]
            starts.append(near.min(axis=0))
        assert np.abs(np.array(starts) - starts[0]).max() <= allowed, (zoom, starts)
    assert levels == {0, 1, 2}


@needs_display
def test_the_dock_rules_overlays_by_click_and_key(
    make_napari_viewer: Callable[..., Any], two_models: SlideStore, qtbot: Any
) -> None:
    from napari.layers import Layer

    from viewers import store_layers

    viewer = make_napari_viewer()
    for layer in store_layers(two_models.path):
        viewer.add_layer(Layer.create(*layer))
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Overlays")
    slide, first, second, _, tissue = viewer.layers
    assert dock.which.currentText() == first.name
    assert dock.score.text() == "normal 0.250, tumor 0.750"
    assert (dock.low.text(), dock.high.text()) == ("0 %", "100 %")

    dock.threshold.setValue(75)
    assert (first.colormap.colors[:192, 3] == 0).all()
    assert first.colormap.colors[255, 3] > 0.5
    assert (second.colormap.colors[191, 3]) > 0  # its own
    dock.opacity.setValue(40)
    assert first.opacity == 0.4
    dock.scale.setCurrentText("raw")
    dock.scale.activated.emit(1)
    assert first.contrast_limits[1] == pytest.approx(np.nanmax(first.metadata["attention"]))
    assert np.nansum(first.data) == pytest.approx(1)
    dock.colours.setCurrentText("magma")
    dock.colours.activated.emit(dock.colours.currentIndex())
    assert first.colormap.name.startswith("wsi-magma")

    # The cursor over the tile at x0 1280, y0 768: what is stored, and its rank.
    row, column = 3, 5
    place = np.array([(row + 0.5) * 128, (column + 0.5) * 128])
    raw, rank = first.metadata["raw"][row, column], first.metadata["ranks"][row, column]
    text = f"attention abmil-0a0a0a0a {raw:.3g}, rank {100 * rank:.1f} %"
    event = type("Event", (), {"position": place})()
    for callback in viewer.mouse_move_callbacks:
        callback(viewer, event)
    assert dock.value.text() == text
    assert first.get_status(place, world=True)["value"] == text
    assert first.get_status(np.array([1.0, 1.0]), world=True)["value"] == "no tile"

    from qtpy.QtCore import Qt

    canvas = viewer.window._qt_viewer.canvas.native
    viewer.layers.selection.active = slide
    tissue.visible = True
    qtbot.keyClick(canvas, Qt.Key.Key_H)
    assert [x.visible for x in (slide, first, second, tissue)] == [True, False, False, False]
    qtbot.keyClick(canvas, Qt.Key.Key_H)
    assert [x.visible for x in (slide, first, second, tissue)] == [True, True, False, True]

    dock.side_by_side.click()
    grid = viewer.canvas.grid
    assert grid.enabled
    copy = next(x for x in viewer.layers if x.name.endswith("beside"))
    assert copy.data[0] is slide.data[0]
    place_of = {x: grid.position(viewer.layers.index(x), viewer.layers) for x in
                (slide, first, copy, second)}  # fmt: skip
    assert place_of[slide] == place_of[first] != place_of[second] == place_of[copy]
    dock.side_by_side.click()
    assert not grid.enabled
    assert copy not in viewer.layers


@needs_display
def test_a_segmentation_is_an_overlay_of_its_own_pixels(
    make_napari_viewer: Callable[..., Any], scored_store: SlideStore
) -> None:
    """A map of 1 µm on a slide of 0.5: its first pixel's centre lies a quarter of a µm late."""
    from napari.layers import Layer

    values = values_of(GRID)
    found = create_map(scored_store, NAME, GRID, {"model_id": "m"})
    write(found, values, range(9))
    found.finish(windows=7)
    *_, (levels, arguments, kind) = overlay_layers(scored_store)
    assert kind == "image"
    assert [level.shape for level in levels] == [(769, 1026), (385, 513), (193, 257)]
    assert np.array_equal(levels[0][:], values)
    assert (arguments["scale"], arguments["translate"]) == ((1.0, 1.0), (0.25, 0.25))
    assert arguments["name"] == f"segmentation {NAME}"
    viewer = make_napari_viewer(show=True)
    layer = viewer.add_layer(Layer.create(levels, arguments, kind))
    layer.visible = True
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Overlays")
    assert not dock.scale.isEnabled()  # probabilities are not ranked
    assert (dock.low.text(), dock.high.text()) == ("0", "1")
    dock.threshold.setValue(50)
    assert (layer.colormap.colors[:128, 3] == 0).all()
    viewer.scene.camera.center = (100.25, 200.25)
    viewer.scene.camera.zoom = 1.0
    viewer.screenshot(flash=False)
    text = layer.get_status(np.array([100.25, 200.25]), world=True)["value"]
    assert text == f"segmentation {NAME} {values[100, 200] / 255:.3g}"


@needs_display
def test_one_model_is_not_put_beside_itself(
    make_napari_viewer: Callable[..., Any], scored_store: SlideStore
) -> None:
    from napari.layers import Layer
    from napari.utils.notifications import notification_manager

    viewer = make_napari_viewer()
    viewer.add_layer(Layer.create(*overlay_layers(scored_store)[0]))
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Overlays")
    notification_manager.records.clear()
    dock.side_by_side.click()
    [note] = notification_manager.records
    assert "two models" in note.message
    assert not dock.side_by_side.isChecked()
