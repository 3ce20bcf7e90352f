"""Make the pictures of `napari.md`: the window on the demo's slide, used as a user would.

wsi demo -o demo
xvfb-run -a -s "-screen 0 1920x1200x24" python docs/make_pictures.py demo
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SLIDE = "demo_01"
SIZE = (1500, 940)


def main() -> None:
    """Write every picture to the folder of images beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="output folder of `wsi demo`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)
    slide = given.demo / "slides" / f"{SLIDE}.tif"
    store = given.demo / "stores" / f"{SLIDE}.zarr"

    from viewers.launch import create_viewer

    viewer = create_viewer(slide, store)
    viewer.window.resize(*SIZE)
    docks = {name: _dock(viewer, name) for name in ("Slide view", "Overlays")}
    heat = next(x for x in viewer.layers if x.metadata.get("what") == "attention")

    _settle(viewer)
    viewer.reset_view()
    _save(viewer, given.out / "napari.png")

    docks["Overlays"].threshold.setValue(80)
    docks["Slide view"].magnify(10)
    _look_at_highest(viewer, heat)
    _save(viewer, given.out / "napari-overlay.png")

    docks["Overlays"].toggle_all()
    docks["Slide view"].magnify(20)
    _measure(viewer, docks["Slide view"].measure)
    _save(viewer, given.out / "napari-measure.png")

    docks["Slide view"].show_keys()
    sheet = docks["Slide view"]._sheet
    _settle(viewer)
    sheet.grab().save(str(given.out / "napari-keys.png"))
    sheet.close()
    viewer.close()


def _dock(viewer: Any, name: str) -> Any:
    """Return the widget of a dock that is open."""
    return viewer.window.add_plugin_dock_widget("wsi-pipeline", name)[1]


def _look_at_highest(viewer: Any, heat: Any) -> None:
    values = np.nan_to_num(heat.metadata["raw"], nan=-1.0)
    cell = np.unravel_index(int(values.argmax()), values.shape)
    viewer.scene.camera.center = tuple(heat.data_to_world(cell))


def _measure(viewer: Any, measure: Any) -> None:
    """Draw a line and an outline about the middle of what is looked at."""
    y, x = viewer.scene.camera.center[-2:]
    measure.measure("add_line")
    layer = viewer.layers["measurements"]
    layer.add_lines(np.array([[y - 60, x - 120], [y - 100, x + 90]]))
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([y + 70 + 40 * np.sin(angles), x + 70 * np.cos(angles)], axis=1)
    layer.add_polygons(ring)
    measure.write()
    measure.measure("")


def _settle(viewer: Any, seconds: float = 3.0) -> None:
    """Let the window read and draw until nothing is left to do."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(layer.loaded for layer in viewer.layers):
        QApplication.processEvents()
        time.sleep(0.01)


def _save(viewer: Any, path: Path) -> None:
    _settle(viewer)
    shot = viewer.screenshot(canvas_only=False, flash=False)
    Image.fromarray(shot[..., :3]).quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
