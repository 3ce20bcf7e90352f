"""Measure the window: first pixels, how long it is blocked, how soon it is sharp, its memory.

Each reader browses the same slide along the same way, in a process of its own. Needs a display:

    xvfb-run -a -s "-screen 0 1920x1080x24" python benchmarks/viewer.py big.svs
    ... python benchmarks/viewer.py big.svs --with napari-wsi   # where that is installed

A step is what a user does once: the camera moves. "Blocked" is the longest time that the window's
thread did nothing else meanwhile, software drawing included; "sharp" is the time until all pixels
of the level that is shown are drawn. On a busy machine look at the CPU times: of the window's
thread for what blocks it, of the whole process for the others. `make_slide.py` makes the slide.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STEPS = 200
JUMPS = 25
POLYGONS = 20_000
CORNERS = 24
MAP_TILES = 100_000
PATIENCE_S = 30.0
GOALS = {
    "first pixels, s": 1.5,
    "blocked per pan or zoom, median, ms": 100,
    "blocked per pan or zoom, worst, ms": 250,
    "sharp after a jump at 40x, median, ms": 500,
    "sharp after a jump at 40x, worst, ms": 500,
    "memory after all steps, MB": 1000,
    "memory grown in the last 100 steps, MB": 50,
    "heatmap of 100,000 tiles, s": 0.5,
    "20,000 polygons of 24 corners, s": 5,
}


class Step(NamedTuple):
    """Times in s: blocked and until sharp, by the clock and in CPU time."""

    blocked: float
    sharp: float
    blocked_cpu: float
    sharp_cpu: float


class Window:
    """A napari window whose event loop is turned by hand and timed."""

    def __init__(self) -> None:
        import napari
        from napari.settings import get_settings
        from qtpy.QtWidgets import QApplication

        import viewers.napari_plugin  # noqa: F401 (its guard against PySide6 6.12.0, for all readers)

        get_settings().experimental.async_ = True
        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(1500, 950)
        self.app = QApplication.instance()
        self.draws = 0
        canvas = self.viewer.window._qt_viewer.canvas._scene_canvas
        canvas.events.draw.connect(self._drawn, position="last")
        self.turn(1.0)

    def _drawn(self, _: Any) -> None:
        self.draws += 1

    def turn(self, seconds: float) -> None:
        """Let the window do what it has to for some time."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.app.processEvents()
            time.sleep(0.005)

    def until_sharp(self, action: Any, layers: list[Any]) -> Step:
        """Do `action` and turn the event loop until all is drawn."""
        start = finished = time.perf_counter()
        process, thread = time.process_time(), time.thread_time()
        action()
        blocked, own = time.perf_counter() - start, time.thread_time() - thread
        cpu = time.process_time() - process
        drawn, idle = -1, 0
        while idle < 3 and time.perf_counter() - start < PATIENCE_S:
            before, thread = time.perf_counter(), time.thread_time()
            self.app.processEvents()
            blocked = max(blocked, time.perf_counter() - before)
            own = max(own, time.thread_time() - thread)
            if self.draws != drawn or not all(layer.loaded for layer in layers):
                drawn, idle = self.draws, 0
                finished, cpu = time.perf_counter(), time.process_time() - process
            else:
                idle += 1
            time.sleep(0.001)
        return Step(blocked, finished - start, own, cpu)


def browse(path: Path, reader: str, count: int) -> dict[str, float]:
    """Return what one reader's window took on one slide."""
    import psutil

    process = psutil.Process()
    window = Window()
    viewer = window.viewer
    found: dict[str, float] = {"memory before, MB": process.memory_info().rss / 1e6}
    layers: list[Any] = []

    def load() -> None:
        layers.extend(viewer.open(str(path), plugin=reader))
        viewer.reset_view()

    first = window.until_sharp(load, layers)
    found["first pixels, s"], found["first pixels, CPU s"] = first.sharp, first.sharp_cpu
    slide = layers[0]
    unit = float(slide.scale[-1])  # world units per level-0 px
    height, width = (n * unit for n in slide.data.shape[:2])
    camera = viewer.scene.camera
    rng = np.random.default_rng(7)
    steps: list[Step] = []
    memory: list[float] = []
    levels = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # screen px per level-0 px: 2.5x to 40x

    def move(zoom: float, center: tuple[float, float]) -> None:
        camera.zoom = zoom / unit
        camera.center = center

    center = np.array([height, width]) / 2
    for step in range(count):
        zoom = levels[(step // 10) % len(levels)]
        if step % 10 == 0:  # another magnification, elsewhere
            center = rng.uniform(0.3, 0.7, 2) * (height, width)
        else:
            center = center + rng.uniform(-200, 200, 2) / zoom * unit
        steps.append(window.until_sharp(lambda z=zoom, c=center: move(z, tuple(c)), layers))
        memory.append(process.memory_info().rss / 1e6)
    table = 1000 * np.array(steps)
    for column, kind in ((0, "ms"), (2, "CPU ms")):
        found[f"blocked per pan or zoom, median, {kind}"] = float(np.median(table[:, column]))
        found[f"blocked per pan or zoom, worst, {kind}"] = float(table[:, column].max())
    found["sharp after a pan or zoom, median, ms"] = float(np.median(table[:, 1]))
    jumps = []
    for _ in range(JUMPS):
        place = tuple(rng.uniform(0.1, 0.9, 2) * (height, width))
        jumps.append(window.until_sharp(lambda p=place: move(1.0, p), layers))
    table = 1000 * np.array(jumps)
    for column, kind in ((1, "ms"), (3, "CPU ms")):
        found[f"sharp after a jump at 40x, median, {kind}"] = float(np.median(table[:, column]))
        found[f"sharp after a jump at 40x, worst, {kind}"] = float(table[:, column].max())
    found["memory after all steps, MB"] = memory[-1]
    found["memory grown in the last 100 steps, MB"] = memory[-1] - memory[-101]
    viewer.close()
    return found


def overlay(slide: Path, store: Path) -> dict[str, float]:
    """Return the time to show the map of a big store over a slide, and many polygons."""
    from napari.layers import Layer

    window = Window()
    viewer = window.viewer
    found = {}
    slides: list[Any] = []
    window.until_sharp(lambda: slides.extend(viewer.open(slide, plugin="wsi-pipeline")), slides)
    layers: list[Any] = []

    def load() -> None:  # the first store of the window: what it imports is part of the time
        from viewers.overlays import overlay_layers

        layers.append(viewer.add_layer(Layer.create(*overlay_layers(store, "m-00000000")[0])))

    step = window.until_sharp(load, layers)
    found["heatmap of 100,000 tiles, s"] = step.sharp
    found["heatmap of 100,000 tiles, CPU s"] = step.sharp_cpu
    viewer.layers.remove(layers.pop())
    outlines = [outline[:, ::-1] for outline in _outlines()]
    shapes: list[Any] = []

    def draw() -> None:
        shapes.append(viewer.add_shapes(outlines, shape_type="polygon", edge_width=1))

    step = window.until_sharp(draw, shapes)
    found["20,000 polygons of 24 corners, s"] = step.sharp
    found["20,000 polygons of 24 corners, CPU s"] = step.sharp_cpu
    viewer.close()
    return found


def imported(slide: Path, annotations: Path) -> dict[str, float]:
    """Return the time to read many outlines from a file into the dock where they are edited."""
    window = Window()
    viewer = window.viewer
    found = {}
    layers: list[Any] = []
    window.until_sharp(lambda: layers.extend(viewer.open(slide, plugin="wsi-pipeline")), layers)
    dock = viewer.window.add_plugin_dock_widget("wsi-pipeline", "Annotate")[1]
    window.turn(0.5)
    step = window.until_sharp(lambda: dock.import_file(annotations), layers)
    found["the same read from GeoJSON into the Annotate dock, s"] = step.sharp
    found["the same read from GeoJSON into the Annotate dock, CPU s"] = step.sharp_cpu
    viewer.close()
    return found


def _outlines() -> NDArray[np.float64]:
    """Return outlines like those of cells, (x, y) in level-0 px, shape ``(n, corners, 2)``."""
    rng = np.random.default_rng(3)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = rng.uniform(4, 12, (POLYGONS, CORNERS, 1))
    return circle * radii + rng.uniform(0, 15_000, (POLYGONS, 1, 2))


def _slide_and_store(folder: Path) -> tuple[Path, Path]:
    """Write a small slide, and a store that says it is 80,896 px a side, all tiles with attention.

    The slide itself is small: what is measured over it is the map.
    """
    from tiling import TileSpec, open_slide
    from tiling.grid import tile_grid
    from tiling.store import create_store
    from tiling.tissue import TissueMask
    from tiling.write import write_slide

    side = 256 * 317  # 100,489 tiles
    small = write_slide(folder / "s.tif", np.full((317, 317, 3), 200, np.uint8), mpp=0.25)
    with open_slide(small) as slide:
        mask = TissueMask(np.ones((64, 64), bool), (side, side), (0.25, 0.25), {})
        stretched = _Stretched(slide, side)
        grid = tile_grid(stretched, TileSpec(256, 0.25, min_tissue=0.0), mask)  # type: ignore[arg-type]
        store = create_store(folder / "s.zarr", stretched, grid, mask, slide_id="s")  # type: ignore[arg-type]
    if len(store) < MAP_TILES:
        raise RuntimeError(f"{len(store)} tiles")
    attention = np.random.default_rng(0).gamma(0.3, 1, len(store)).astype(np.float32)
    store.write_prediction(
        "m-00000000", scores={"a": 0.5, "b": 0.5}, attention=attention / attention.sum(), attrs={}
    )
    return small, Path(store.path)


class _Stretched:
    """A small slide that says it is large: a grid needs its size, not its pixels."""

    def __init__(self, slide: Any, side: int) -> None:
        self._slide = slide
        self.size = (side, side)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._slide, name)


def run_apart(arguments: list[str]) -> dict[str, float]:
    """Return what a process of its own measured."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    from tiling.annotation_files import write_annotations
    from tiling.annotations import Annotation

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path, nargs="?")
    parser.add_argument("--with", dest="others", action="append", default=[])
    parser.add_argument("--reader", default="", help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--annotations", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.json:
        if given.reader:
            found = browse(given.slide, given.reader, given.steps)
        elif given.store:
            found = overlay(given.slide, given.store)
        else:
            found = imported(given.slide, given.annotations)
        print(json.dumps(found))
        return
    names = ["wsi-pipeline", *given.others]
    columns = {
        name: run_apart([str(given.slide), "--reader", name, "--steps", str(given.steps)])
        for name in names
    }
    with tempfile.TemporaryDirectory() as folder:
        slide, store = _slide_and_store(Path(folder))
        outlines = [Annotation(str(n), "Tumor", "polygon", o) for n, o in enumerate(_outlines())]
        annotations = write_annotations(Path(folder) / "cells.geojson", outlines)
        columns["wsi-pipeline"] |= run_apart([str(slide), "--store", str(store)])
        columns["wsi-pipeline"] |= run_apart([str(slide), "--annotations", str(annotations)])
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    print(f"| | goal | {' | '.join(names)} |")
    print(f"|---|---|{'---|' * len(names)}")
    for row in rows:
        cells = [f"{columns[n][row]:.3g}" if row in columns[n] else "" for n in names]
        print(f"| {row} | {GOALS.get(row, '')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
