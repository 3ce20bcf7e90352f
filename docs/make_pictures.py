"""Make the pictures of the window's guides from what `wsi demo` writes, used as a user would.

wsi demo -o demo
xvfb-run -a -s "-screen 0 1920x1200x24" python docs/make_pictures.py demo
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

with contextlib.suppress(ImportError):
    # Mesa's software OpenGL and triton (torch brings it) both carry LLVM: triton must be first.
    import triton._C.libtriton  # noqa: F401

SLIDE = "demo_01"
SIZE = (1500, 940)
PATIENCE_S = 60.0
OUT = Path(__file__).parent / "images"


def main() -> None:
    """Write every picture to the folder of images beside this file, or to another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demo", type=Path, help="output folder of `wsi demo`")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.mkdir(exist_ok=True)

    from viewers.launch import create_viewer

    store = given.demo / "stores" / f"{SLIDE}.zarr"
    viewer = create_viewer(given.demo / "slides" / f"{SLIDE}.tif", store)
    viewer.window.resize(*SIZE)
    show_viewing(viewer, given.out)
    show_review(viewer, given.out)
    show_annotating(viewer, given.out)
    show_explaining(viewer, given.demo, given.out)
    viewer.close()


def show_viewing(viewer: Any, out: Path) -> None:
    """Slide, heatmap, threshold, measures and keys."""
    docks = {name: _dock(viewer, name) for name in ("Slide view", "Overlays")}
    heat = next(x for x in viewer.layers if x.metadata.get("what") == "attention")
    _settle(viewer)
    viewer.reset_view()
    _save(viewer, out / "napari.png")

    docks["Overlays"].threshold.setValue(80)
    docks["Slide view"].magnify(10)
    _look_at_highest(viewer, heat)
    _save(viewer, out / "napari-overlay.png")

    docks["Overlays"].toggle_all()
    docks["Slide view"].magnify(20)
    measure = docks["Slide view"].measure
    _measure(viewer, measure)
    _save(viewer, out / "napari-measure.png")
    viewer.layers.remove("measurements")

    docks["Slide view"].show_keys()
    sheet = docks["Slide view"]._sheet
    _settle(viewer)
    sheet.grab().save(str(out / "napari-keys.png"))
    sheet.close()
    docks["Overlays"].threshold.setValue(0)
    docks["Overlays"].toggle_all()


def show_review(viewer: Any, out: Path) -> None:
    """Two verdicts, and the list of slides."""
    dock = _only_dock(viewer, "Review regions")
    dock.reader.setText("AB")
    dock.reader.editingFinished.emit()
    _settle(viewer)
    dock.say("agree")
    dock.step(1)
    dock.say("unsure")
    _save(viewer, out / "napari-review.png")

    _only_dock(viewer, "Worklist")
    _settle(viewer)
    viewer.reset_view()
    _save(viewer, out / "napari-worklist.png")


def show_annotating(viewer: Any, out: Path) -> None:
    """Read an outline with a hole from a file."""
    from tiling.annotation_files import write_annotations
    from tiling.annotations import Annotation

    dock = _only_dock(viewer, "Annotate")
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    slide = next(x for x in viewer.layers if x.metadata.get("kind") == "slide")
    middle = np.array(slide.data.shape[1::-1]) / 2
    outline = Annotation("a", "Tumor", "polygon", middle + 900 * circle, (middle + 300 * circle,))
    with tempfile.TemporaryDirectory() as folder:
        dock.import_file(write_annotations(Path(folder) / "a.geojson", [outline]))
    _save(viewer, out / "napari-annotate.png")
    for layer in [x for x in viewer.layers if x.metadata.get("kind") == "annotations"]:
        viewer.layers.remove(layer)


def show_explaining(viewer: Any, demo: Path, out: Path) -> None:
    """Grad-CAM of the three tiles of the highest attention."""
    from tiling import open_store

    store = open_store(demo / "stores" / f"{SLIDE}.zarr")
    dock = _only_dock(viewer, "Explain a tile")
    dock.model.setText(str(demo / "model"))
    best = np.argsort(-np.nan_to_num(store.prediction().attention))[:3]
    for index in best[::-1].tolist():
        x, y = (store.grid.coords[index] + np.array(store.grid.extent) / 2).tolist()
        place = (y * store.slide_mpp[1], x * store.slide_mpp[0])
        dock.explain_at(*place)
        end = time.monotonic() + PATIENCE_S
        while f"Tile {index}<" not in dock.answer.text() and time.monotonic() < end:
            _settle(viewer, 0.1)
    for layer in viewer.layers:
        if layer.metadata.get("kind") == "overlay":
            layer.visible = False
    viewer.scene.camera.center = place
    viewer.scene.camera.zoom = 2.0
    _save(viewer, out / "napari-explain.png")


def _dock(viewer: Any, name: str) -> Any:
    """Return the widget of a dock, opened if it is not."""
    return viewer.window.add_plugin_dock_widget("wsi-pipeline", name)[1]


def _only_dock(viewer: Any, name: str) -> Any:
    """Open a dock in place of all others."""
    viewer.window.remove_dock_widget("all")
    return _dock(viewer, name)


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
