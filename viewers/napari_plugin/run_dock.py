"""The dock that runs a model on the slide that is shown, as a process of its own."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from tiling.errors import WSIError
from tiling.heatmap import score_map
from tiling.store import SlideStore, iter_stores, open_store
from tiling.tiles import TileStatus
from viewers.errors import ReviewError
from viewers.layers import attention_layers
from viewers.napari_plugin.annotate_dock import AnnotateDock
from viewers.napari_plugin.scene import run_folder, shown_slide, shown_stores, told
from viewers.run_process import RunProcess, RunProgress

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

POLL_MS = 100
LOOK_S = 1.0
"""Seconds between looks at the store that is being filled."""
DONE_LAYER = "tiles done"


class RunDock(QWidget):
    """Tiles, embeddings and score of the slide that is shown; napari stays live meanwhile.

    A run that was cancelled or killed goes on where it stopped when it is started again.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.process: RunProcess | None = None
        self.run_progress = RunProgress()
        self.store: SlideStore | None = None
        self._slide_path = ""
        self._looked = 0.0
        self._done = -1
        self.model, self.out = QLineEdit(), QLineEdit()
        self.model.setPlaceholderText("Model folder made by `wsi train`")
        self.out.setPlaceholderText("Output folder; what is there already is kept")
        self.more = QLineEdit()
        self.more.setPlaceholderText("e.g. --weights encoder.safetensors --device cuda")
        self.more.setToolTip("Further options of `wsi run`, such as the encoder's weights")
        form = QFormLayout()
        for name, line in (("Model", self.model), ("Output", self.out)):
            row = QHBoxLayout()
            row.addWidget(line, 1)
            button = QPushButton("Choose…")
            button.clicked.connect(lambda _=False, to=line, of=name: self._choose(to, of))
            row.addWidget(button)
            form.addRow(name, row)
        form.addRow("Options", self.more)
        self.inside = QCheckBox("Score only inside the outlines")
        self.inside.setToolTip(
            "The slide's outlines (dock Annotate) are saved and their tiles scored by themselves, "
            "from the embeddings that are there: seconds once the slide is embedded"
        )
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.setToolTip("Tile, embed and score the slide that is shown")
        self.cancel_button.setToolTip("End the run; what is finished is kept")
        self.cancel_button.setEnabled(False)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.bar = QProgressBar()
        self.bar.setValue(0)
        self.state = QLabel("The slide that is shown is run.")
        self.state.setWordWrap(True)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button)
        buttons.addWidget(self.cancel_button)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.inside)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.state)
        layout.addStretch(1)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._follow)
        stores = shown_stores(viewer)
        if stores and "://" not in stores[0]:
            self.out.setText(str(run_folder(open_store(stores[0]))))

    def closeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """End a run that goes on: nobody would see it."""
        self._timer.stop()
        if self.process is not None and self.process.is_running:
            self.process.cancel()
            end = time.monotonic() + 1
            while self.process.is_running and time.monotonic() < end:
                self.process.poll()
                time.sleep(0.02)
        super().closeEvent(event)

    def _choose(self, line: QLineEdit, name: str) -> None:
        folder = QFileDialog.getExistingDirectory(self, name, line.text())
        if folder:
            line.setText(folder)

    @told
    def run(self, *_: object) -> None:
        """Start, with what the dock says."""
        if self.process is not None and self.process.is_running:
            raise ReviewError("a run is going on: wait for it, or cancel it")
        slide = shown_slide(self.viewer)
        out, model = self.out.text().strip(), self.model.text().strip()
        if not out:
            raise ReviewError("no output folder: choose where the run's stores are to be kept")
        self._slide_path = slide.path
        if self.inside.isChecked():
            arguments = self._within_arguments(out, model)
        else:
            arguments = ["run", slide.path, "-o", out, *(["--model", model] if model else [])]
            if slide.layer.metadata.get("mpp_source") == "user" and slide.mpp is not None:
                arguments += ["--slide-mpp", f"{slide.mpp[0]!r}"]
            arguments += self.more.text().split()
        self.run_progress, self.store, self._done = RunProgress(), None, -1
        self.process = RunProcess([*arguments, "--progress", "json"])
        self.state.setText("starting…")
        self.bar.setRange(0, 0)
        self.run_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        self._timer.start()

    def _within_arguments(self, out: str, model: str) -> list[str]:
        if not model:
            raise ReviewError("no model is chosen: choose the folder that `wsi train` made")
        annotations = AnnotateDock(self.viewer)
        try:
            outlines = annotations.save_beside_run()
        finally:
            annotations.close()
            annotations.deleteLater()
        return ["predict", "--stores", out, "--model", model, "--within", str(outlines)]

    def cancel(self, *_: object) -> None:
        """End the run within a second, with all that it started."""
        if self.process is not None:
            self.process.cancel()
            self.state.setText("ending…")

    @told
    def _follow(self) -> None:
        process = self.process
        if process is None:
            return
        events = process.poll()
        for event in events:
            self.run_progress.feed(event, time.monotonic())
        if process.is_running:
            if events:
                self.state.setText(self.run_progress.text)
                self.bar.setRange(0, max(self.run_progress.total, 1))
                self.bar.setValue(self.run_progress.done)
            if time.monotonic() - self._looked > LOOK_S:
                self.show_done()
            return
        self._timer.stop()
        self.run_button.setEnabled(True)
        self.cancel_button.setEnabled(False)
        self.bar.setRange(0, 1)
        self._finish(process)

    def _finish(self, process: RunProcess) -> None:
        for event in process.poll():
            self.run_progress.feed(event, time.monotonic())
        self.show_done()
        if process.cancelled:
            self.state.setText("cancelled; Run goes on where it stopped")
            return
        if process.returncode:
            failed = next(iter(self.run_progress.failed.values()), "")
            why = failed or process.complaints or f"wsi ended with code {process.returncode}"
            self.state.setText("failed")
            show_error(f"The run failed: {why}")
            return
        self.bar.setValue(1)
        self.state.setText("finished")
        self._show_scores()

    def show_done(self) -> None:
        """Show which tiles are embedded so far, a pixel each."""
        self._looked = time.monotonic()
        store = self._find_store()
        if store is None:
            return
        names = store.embedding_names(finished=False)
        if not names:
            return
        done = np.asarray(store.rows(f"embeddings/{names[-1]}").status[:]) != TileStatus.NOT_DONE
        if int(done.sum()) == self._done:
            return
        self._done = int(done.sum())
        grid = store.grid
        found = score_map(
            grid.coords, done.astype(float), extent=grid.extent, stride=grid.stride,
            slide_size=grid.slide_size,
        )  # fmt: skip
        old = [v for v in self.viewer.layers if v.metadata.get("kind") == DONE_LAYER]
        if old:
            old[-1].data = found.values
            return
        from napari.layers import Image

        colours = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 1.0, 0.35]]
        made = Image(
            found.values, name=DONE_LAYER, scale=found.cell_um(store.slide_mpp),
            translate=found.center_um(store.slide_mpp), units=("um", "um"),
            colormap={"name": DONE_LAYER, "colors": colours, "nan_color": (0.0, 0.0, 0.0, 0.0)},
            contrast_limits=(0.0, 1.0), blending="translucent", interpolation2d="nearest",
            metadata={"kind": DONE_LAYER},
        )  # fmt: skip
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(made)
        self.viewer.layers.selection.active = active

    def _find_store(self) -> SlideStore | None:
        """Return the store of the slide that is run, as soon as there is one."""
        if self.store is None:
            from tiling.slide import read_source

            wanted = read_source(self._slide_path).quick_hash
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one that is just being made
                try:
                    for store in iter_stores(self.out.text().strip()):
                        if store.source.quick_hash == wanted:
                            self.store = store
                            break
                except WSIError:
                    return None
        return self.store

    def _show_scores(self) -> None:
        """Add the heatmaps that are new, and take away the tiles done."""
        from napari.layers import Layer

        self.store = None
        store = self._find_store()
        if store is None:
            return
        store = open_store(store.path)
        shown = {
            v.metadata.get("prediction") for v in self.viewer.layers
            if v.metadata.get("store") == store.path
        }  # fmt: skip
        new = [name for name in store.prediction_names() if name not in shown]
        if not new:
            show_info("The run is finished; it holds no new score.")
            return
        for layer in [v for v in self.viewer.layers if v.metadata.get("kind") == DONE_LAYER]:
            self.viewer.layers.remove(layer)
        for name in new:
            for data in attention_layers(store, name):
                layer = Layer.create(*data)
                layer.metadata.setdefault("store", store.path)
                layer.metadata.setdefault("prediction", name)
                layer.metadata.setdefault("kind", "overlay")
                self.viewer.add_layer(layer)
        said = store.prediction(new[-1])
        scores = " · ".join(f"{n} {v:.3f}" for n, v in said.scores.items())
        part = said.attrs.get("within")
        where = f" inside the outlines ({part['tiles']} tiles)" if part else ""
        self.state.setText(f"finished: {scores}{where}")
        show_info(f"{Path(self._slide_path).name}: {scores}{where}. Research use only.")
