"""The docks to find one's way, driven by keys and clicks as a user would."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.viewers.test_colour_profile import swapped_profile, write_with_profile
from tiling import open_slide
from tiling.geometry import Region
from viewers import slide_layers
from viewers.slide_properties import slide_properties

pytest.importorskip("napari")
needs_display = pytest.mark.skipif(
    sys.platform == "linux" and shutil.which("Xvfb") is None, reason="no Xvfb to draw on"
)


def test_properties_say_how_a_slide_was_scanned_and_not_whom_it_is_from(tmp_path: Path) -> None:
    """Aperio writes who, when and which case into the description: none of it comes through."""
    import tifffile

    said = (
        "Aperio Image Library v12\r\n600x500 (256x256) JPEG/RGB Q=70|AppMag = 40|MPP = 0.25|"
        "Patient = Jane Roe|Barcode = 4711|Date = 01/02/24|Time = 10:00|User = dr-who|"
        "Title = CaseX|Filename = S24-99|ScanScope ID = SS1234"
    )
    tifffile.imwrite(
        tmp_path / "s.svs", np.full((500, 600, 3), 9, np.uint8), tile=(256, 256),
        photometric="rgb", description=said, metadata=None, datetime="2024:01:02 10:00:00",
        extratags=[(315, 2, 0, "Jane Roe", True)],
    )  # fmt: skip
    with open_slide(tmp_path / "s.svs") as slide:
        rows = dict(slide_properties(slide))
    assert rows["Pixel size"] == "0.25 µm (aperio.MPP)"
    assert rows["Scanned area"] == "150 µm x 125 µm"
    assert rows["Objective"] == "40"
    assert rows["Scanner model"] == "SS1234"
    text = " ".join([*rows, *rows.values()])
    for secret in ("Jane", "4711", "2024", "01/02", "10:00", "dr-who", "CaseX", "S24-99"):
        assert secret not in text


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], tissue_path: Path) -> tuple[Any, Any, Any]:
    from napari.layers import Layer

    viewer = make_napari_viewer(show=True)
    slide = viewer.add_layer(Layer.create(*slide_layers(tissue_path)[0]))
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Slide view")
    return viewer, slide, dock


@needs_display
def test_magnification_overview_and_rotation(window: tuple[Any, Any, Any], qtbot: Any) -> None:
    from qtpy.QtCore import QPoint, Qt

    from viewers.napari_plugin.looking import field_of_view, look_at
    from viewers.napari_plugin.scene import jump_to, shown_slide

    viewer, slide, dock = window
    canvas = viewer.window._qt_viewer.canvas.native
    camera = viewer.scene.camera

    # 0.5 µm is 20x: one slide pixel is one screen pixel. Keys 1 to 5; on an image 1 and 2 are
    # napari's own else.
    for key, wanted in zip("12345", (2.5, 5, 10, 20, 40), strict=True):
        qtbot.keyClick(canvas, key)
        assert camera.zoom == pytest.approx(wanted / 20 / 0.5)
        assert dock.magnification.text().startswith(f"{wanted:g}x, ")
    assert str(slide.mode) == "pan_zoom"
    dock.presets[3].click()
    assert dock.magnification.text() == "20x, 0.5 µm per screen pixel"

    # The field that is looked at, in level-0 px: at 20x as many as the canvas has.
    look_at(viewer, slide, (1000, 700), 20)
    height, width = viewer.canvas.size
    corners = field_of_view(viewer, slide)
    assert np.ptp(corners, axis=0) == pytest.approx([width, height])
    assert corners.mean(axis=0) == pytest.approx([1000, 700])

    # A click into the overview goes there: 240 px wide for 2051.
    overview = dock.overview
    overview.resize(240, 240)
    scale = overview.scale()
    assert scale == pytest.approx(240 / 2051)
    qtbot.mouseClick(overview, Qt.MouseButton.LeftButton, pos=QPoint(60, 90))
    assert camera.center[-2:] == pytest.approx((90 / scale * 0.5, 60 / scale * 0.5))
    assert overview.field().mean(axis=0) == pytest.approx([60, 90])
    shot = overview.grab().toImage()
    colours = [[shot.pixelColor(x, y).getRgb()[:3] for x in range(240)] for y in range(180)]
    drawn = np.argwhere((np.array(colours) == (0, 0, 255)).all(axis=-1))
    expected = overview.field()[:, ::-1].clip(0, (179, 239))
    assert np.abs(drawn.min(axis=0) - expected.min(axis=0)).max() <= 2
    assert np.abs(drawn.max(axis=0) - expected.max(axis=0)).max() <= 2
    qtbot.keyClick(canvas, "o")
    assert not overview.isVisible()
    qtbot.keyClick(canvas, "o")

    # Turned by 90°: the same place stays in the middle, and what is added is turned too.
    look_at(viewer, slide, (1000, 700), 10)
    dock.right.click()
    assert dock.angle.value() == 90
    corners = field_of_view(viewer, slide)
    assert corners.mean(axis=0) == pytest.approx([1000, 700])
    assert np.ptp(corners, axis=0) == pytest.approx([2 * height, 2 * width])
    added = viewer.add_image(np.zeros((4, 4)), units=("um", "um"))
    assert np.array_equal(added.affine.affine_matrix, slide.affine.affine_matrix)
    # Clockwise on screen: what was right of the middle is below it.
    middle, right = (slide.data_to_world(p) for p in ((700, 1000), (700, 1100)))
    assert np.array(right) - middle == pytest.approx([50, 0], abs=1e-9)
    jump_to(viewer, shown_slide(viewer), Region(900, 600, 100, 50))
    corners = field_of_view(viewer, slide)
    assert corners.mean(axis=0) == pytest.approx([949.5, 624.5])
    dock.left.click()
    assert np.allclose(slide.affine.affine_matrix, np.eye(3))

    dock.keys.click()
    from qtpy.QtWidgets import QLabel

    texts = [label.text() for label in dock._sheet.findChildren(QLabel)]
    assert "<code>H</code>" in texts
    assert "hide or show all overlays" in texts
    dock._sheet.close()


@needs_display
def test_lengths_and_areas_are_measured_in_micrometres(
    window: tuple[Any, Any, Any], qtbot: Any
) -> None:
    viewer, slide, dock = window
    canvas = viewer.window._qt_viewer.canvas.native
    measure = dock.measure
    dock.right.click()  # however the slide is turned
    qtbot.keyClick(canvas, "m")
    assert measure.length.isChecked()
    layer = viewer.layers["measurements"]
    assert str(layer.mode) == "add_line"
    layer.add_lines(np.array([[0.0, 0.0], [30.0, 40.0]]))
    qtbot.waitUntil(lambda: measure.last.text() == "50 µm", timeout=2000)
    qtbot.keyClick(canvas, "m")
    assert measure.area.isChecked()
    assert str(layer.mode) == "add_polygon"
    layer.add_polygons(np.array([[0.0, 0.0], [0.0, 400.0], [300.0, 400.0], [300.0, 0.0]]))
    qtbot.waitUntil(lambda: measure.last.text() == "0.12 mm²", timeout=2000)
    assert list(layer.features["size"]) == ["50 µm", "0.12 mm²"]
    assert list(layer.text.values) == ["50 µm", "0.12 mm²"]
    qtbot.keyClick(canvas, "m")
    assert not measure.area.isChecked()
    assert viewer.layers.selection.active == slide
    layer.selected_data = {0}
    layer.remove_selected()
    qtbot.waitUntil(lambda: list(layer.features["size"]) == ["0.12 mm²"], timeout=2000)


@needs_display
def test_colours_by_profile_and_images_beside_the_slide(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, real_slides: Path
) -> None:
    from napari.layers import Layer

    viewer = make_napari_viewer(show=True)
    path = write_with_profile(tmp_path / "red.tif", swapped_profile())
    slide = viewer.add_layer(Layer.create(*slide_layers(path)[0]))
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Slide view")
    _, properties = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Slide properties")

    def middle() -> list[int]:
        shot = viewer.screenshot(canvas_only=True, flash=False)
        return [int(v) for v in shot[shot.shape[0] // 2, shot.shape[1] // 2, :3]]

    assert middle() == [255, 0, 0]
    assert dock.srgb.isEnabled()
    dock.srgb.click()
    assert np.abs(np.array(middle()) - (0, 0, 255)).max() <= 2
    dock.srgb.click()
    assert middle() == [255, 0, 0]
    assert not properties.show_image.isEnabled()

    viewer.layers.clear()
    viewer.add_layer(Layer.create(*slide_layers(real_slides / "CMU-1-Small-Region.svs")[0]))
    assert len(viewer.layers) == 1  # neither label nor macro unless asked for
    assert not dock.srgb.isEnabled()
    assert (
        "patient" in properties.findChildren(type(properties.layout().itemAt(2).widget()))[1].text()
    )
    properties.images.setCurrentText("macro")
    properties.show_image.click()
    slide, macro = viewer.layers
    assert macro.extent.world[1, 1] < slide.extent.world[0, 1]  # beside, not over it
    assert str(macro.units[0]) == "micrometer"
    texts = {properties.table.item(row, 0).text(): properties.table.item(row, 1).text()
             for row in range(properties.table.rowCount())}  # fmt: skip
    assert texts["Objective"] == "20"
    assert texts["Colour profile"] == "none"


@needs_display
def test_without_a_pixel_size_the_docks_say_so(
    make_napari_viewer: Callable[..., Any], no_mpp_path: Path
) -> None:
    from napari.layers import Layer
    from napari.utils.notifications import notification_manager

    viewer = make_napari_viewer()
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Slide view")
    assert dock.magnification.text() == "no slide"
    viewer.add_layer(Layer.create(*slide_layers(no_mpp_path)[0]))
    assert "unknown" in dock.magnification.text()
    notification_manager.records.clear()
    dock.presets[0].click()
    dock.measure.area.click()
    assert [str(n.severity) for n in notification_manager.records] == ["warning", "warning"]
    assert not dock.measure.area.isChecked()
    assert len(viewer.layers) == 1


def test_every_key_of_the_table_is_there_once() -> None:
    from viewers.napari_plugin.keys import KEYS

    keys = [entry.key for entry in KEYS]
    assert len(keys) == len(set(keys))
    assert {"1", "5", "H", "O", "M"} <= set(keys)


@pytest.mark.parametrize("constant", [None, True, False])
def test_constants_outlive_a_binding_that_lets_go_of_them(constant: bool | None) -> None:
    """Before Python 3.12, PySide6 6.12.0 takes a reference with calls and signals."""
    import viewers.napari_plugin as plugin

    plugin.hold_constants()
    assert sys.version_info >= (3, 12) or sys.getrefcount(constant) > 1 << 38
    before = sys.getrefcount(constant)
    plugin.hold_constants()  # once is enough
    assert abs(sys.getrefcount(constant) - before) < 1000


def test_the_sheet_lists_the_keys_of_the_review() -> None:
    from viewers.napari_plugin.keys import KEYS
    from viewers.napari_plugin.review_dock import KEYS as REVIEW_KEYS

    assert set(REVIEW_KEYS) <= {k.key for k in KEYS if k.group == "Review"}


@needs_display
def test_the_tissue_is_outlined_where_it_lies(window: tuple[Any, Any, Any], qtbot: Any) -> None:
    """The tissue is the rectangle from (512, 256) to (1536, 1280), at 0.5 µm."""
    viewer, slide, _ = window
    _, dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Overlays")
    dock.tissue.click()
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=60_000)
    layer = viewer.layers["tissue outline"]
    corners = [layer.data[0].min(axis=0), layer.data[0].max(axis=0)]
    places = [slide.world_to_data(layer.data_to_world(corner)) for corner in corners]
    assert np.abs(np.array(places) - ((256, 512), (1280, 1536))).max() < 24
    assert viewer.layers.selection.active is slide  # whose keys they stay
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "h")
    assert not layer.visible
    qtbot.keyClick(viewer.window._qt_viewer.canvas.native, "h")
    assert layer.visible
    dock.tissue.click()
    assert list(viewer.layers) == [slide]
