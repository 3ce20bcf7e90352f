"""Make the pictures of docs/napari-review.md: a demo run, its docks, screenshots.

xvfb-run -a -s "-screen 0 1920x1080x24" python docs/make_review_pictures.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Layer
from napari.qt import get_qapp
from PIL import Image

from tiling import open_store
from tiling.annotation_files import write_annotations
from tiling.annotations import Annotation
from tiling.samples import sample_label, write_sample_slide
from viewers.napari_plugin.scene import show_store
from wsi_pipeline.cli import run_tokens

IMAGES = Path(__file__).parent / "images"
SIZE = (1400, 860)


def demo_run(root: Path) -> Path:
    """Tile, embed, train and score six sample slides; what is there already is kept."""
    slides = [Path(write_sample_slide(root / "slides", i)) for i in range(6)]
    lines = [f"{s.stem},{s.stem},{sample_label(i)}" for i, s in enumerate(slides)]
    labels = root / "labels.csv"
    labels.write_text("\n".join(["slide_id,patient_id,label", *lines]) + "\n")
    out, model = root / "out", root / "model"
    quiet = ("--progress", "none")
    wsi("embed", root / "slides", "-o", out, *quiet)
    if not model.exists():
        wsi("train", "--stores", out, "--labels", labels, "-o", model, "--folds", 0,
            "--epochs", 60)  # fmt: skip
    wsi("predict", "--stores", out, "--model", model, *quiet)
    return out


def wsi(*tokens: object) -> None:
    """Run the command line in this process."""
    if run_tokens([str(token) for token in tokens]):
        raise SystemExit(f"wsi {tokens[0]} failed")


def wait(seconds: float) -> None:
    """Let the window work."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        get_qapp().processEvents()
        time.sleep(0.01)


def shoot(viewer: Any, name: str) -> None:
    """Keep a picture of the whole window."""
    wait(1.5)
    picture = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    path = IMAGES / f"napari-{name}.png"
    Image.fromarray(picture).quantize(256).save(path, optimize=True)


def open_dock(viewer: Any, name: str) -> Any:
    """Open a dock in place of the one before."""
    viewer.window.remove_dock_widget("all")
    return viewer.window.add_plugin_dock_widget("wsi-pipeline", name)[1]


def main(root: Path) -> None:
    """Make all pictures."""
    out = demo_run(root)
    stores = sorted((out / "stores").glob("*.zarr"))
    store = open_store(stores[1])
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    show_store(viewer, store)
    dock = open_dock(viewer, "Review regions")
    dock.reader.setText("AB")
    dock.reader.editingFinished.emit()
    wait(3)
    dock.say("agree")
    dock.step(1)
    dock.say("unsure")
    shoot(viewer, "review")
    dock.close()
    dock = open_dock(viewer, "Worklist")
    wait(2)
    viewer.reset_view()
    shoot(viewer, "worklist")
    dock.close()
    dock = open_dock(viewer, "Annotate")
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)[:, None]
    circle = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    middle = np.array(store.slide_size) / 2
    outline = Annotation("a", "Tumor", "polygon", middle + 900 * circle, (middle + 300 * circle,))
    with tempfile.TemporaryDirectory() as folder:
        dock.import_file(write_annotations(Path(folder) / "a.geojson", [outline]))
    shoot(viewer, "annotate")
    dock.close()
    for layer in list(viewer.layers):
        if layer.metadata.get("kind") == "annotations":
            viewer.layers.remove(layer)
    dock = open_dock(viewer, "Explain a tile")
    dock.model.setText(str(root / "model"))
    best = np.argsort(-np.nan_to_num(store.prediction().attention))[:3]
    for index in best[::-1].tolist():
        x, y = (store.grid.coords[index] + np.array(store.grid.extent) / 2).tolist()
        dock.explain_at(y * store.slide_mpp[1], x * store.slide_mpp[0])
        end = time.monotonic() + 60
        while f"Tile {index}<" not in dock.answer.text() and time.monotonic() < end:
            wait(0.1)
    heat: list[Layer] = [v for v in viewer.layers if v.metadata.get("kind") == "overlay"]
    for layer in heat:
        layer.visible = False
    viewer.scene.camera.center = (y * store.slide_mpp[1], x * store.slide_mpp[0])
    viewer.scene.camera.zoom = 2.0
    shoot(viewer, "explain")
    dock.close()
    viewer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
