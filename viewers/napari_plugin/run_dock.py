"""The dock that runs a model on the slide that is shown, as a process of its own."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.layers import Layer
from napari.qt.threading import thread_worker
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
)

from tiling.errors import WSIError
from tiling.store import Prediction, open_store
from viewers.errors import ReviewError
from viewers.layers import LayerData
from viewers.napari_plugin.annotate_dock import AnnotateDock
from viewers.napari_plugin.dock import Dock
from viewers.napari_plugin.scene import run_folder, shown_slide, shown_stores, told
from viewers.overlays import shown
from viewers.run_process import RunProcess, RunProgress
from viewers.run_watch import DONE, Growth, RunWatch

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

POLL_MS = 100
LOOK_S = 1.0
"""Seconds between looks at the store that is being filled."""
Finished = tuple[Prediction, list[LayerData]]


class RunDock(Dock):
    """Tiles, embeddings and score of the slide that is shown; napari stays live meanwhile.

    A run that was cancelled or killed goes on where it stopped when it is started again.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.process: RunProcess | None = None
        self.run_progress = RunProgress()
        self.watch: RunWatch | None = None
        self.done = 0
        self._score = ""
        self._slide_path = ""
        self._is_looking = False
        self._looked = 0.0
        self._has_shown_end = False
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

    def end_work(self) -> None:
        """End a run that goes on: nobody would see it."""
        self._timer.stop()
        self.watch = None
        if self.process is not None and self.process.is_running:
            self.process.cancel()
            end = time.monotonic() + 1
            while self.process.is_running and time.monotonic() < end:
                self.process.poll()
                time.sleep(0.02)

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
            arguments += (
                ["--live", *self.more.text().split()] if model else self.more.text().split()
            )
        for layer in self._growing():
            self.viewer.layers.remove(layer)
        self.run_progress, self.watch = RunProgress(), RunWatch(out, slide.path)
        self.done, self._score, self._has_shown_end = 0, "", False
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
                parts = (self.run_progress.text, self._score)
                self.state.setText("\n".join(part for part in parts if part))
                self.bar.setRange(0, max(self.run_progress.total, 1))
                self.bar.setValue(self.run_progress.done)
            if time.monotonic() - self._looked > LOOK_S:
                self._look()
            return
        self._timer.stop()
        self.run_button.setEnabled(True)
        self.cancel_button.setEnabled(False)
        self.bar.setRange(0, 1)
        self._finish(process)

    def _finish(self, process: RunProcess) -> None:
        for event in process.poll():
            self.run_progress.feed(event, time.monotonic())
        if process.cancelled:
            self._look()
            self.state.setText("cancelled; Run goes on where it stopped")
            return
        if process.returncode:
            failed = next(iter(self.run_progress.failed.values()), "")
            why = failed or process.complaints or f"wsi ended with code {process.returncode}"
            self.state.setText("failed")
            show_error(f"The run failed: {why}")
            return
        self.bar.setValue(1)
        self._show_end()

    def _look(self) -> None:
        """Let a thread look at what is there, if none is looking."""
        if self.watch is not None and not self._is_looking:
            self._is_looking, self._looked = True, time.monotonic()
            worker = thread_worker(self.watch.look)()
            worker.returned.connect(partial(self._show_growth, self.watch))
            worker.finished.connect(self._looked_up)
            worker.start()

    def _looked_up(self) -> None:
        self._is_looking = False

    def _show_growth(self, watch: RunWatch, found: Growth | None) -> None:
        """Show the tiles that are done and the map so far, as long as the run is the same."""
        if found is None or watch is not self.watch or self._has_shown_end:
            return
        self.done, self._score = found.done, found.text
        for data in found.layers:
            self._put(data)
        names = {data[1]["name"] for data in found.layers}
        for layer in [v for v in self._growing() if v.name not in names]:
            self.viewer.layers.remove(layer)

    def _put(self, data: LayerData) -> None:
        """Add a layer, or let the one that is there grow; the reader's settings of it stay."""
        values, arguments, _ = data
        old = [v for v in self._growing() if v.name == arguments["name"]]
        if not old:
            active = self.viewer.layers.selection.active
            self.viewer.add_layer(Layer.create(*data))
            self.viewer.layers.selection.active = active
            return
        said = old[-1].metadata
        kept = {key: said[key] for key in ("scale", "threshold", "colours") if key in said}
        said.update({**arguments["metadata"], **kept})
        old[-1].data = values if said["kind"] == DONE else shown(said)[0]

    def _growing(self) -> list[Layer]:
        layers = self.viewer.layers
        return [v for v in layers if v.metadata.get("kind") == DONE or v.metadata.get("is_growing")]

    def _show_end(self) -> None:
        """Let a thread read the finished maps."""
        if self.watch is None:
            return
        known = {
            str(v.metadata["prediction"]) for v in self.viewer.layers
            if v.metadata.get("prediction") and not v.metadata.get("is_growing")
        }  # fmt: skip
        worker = thread_worker(_finished)(self.watch, known)
        worker.returned.connect(partial(self._show_scores, self.watch))
        worker.start()

    def _show_scores(self, watch: RunWatch, found: Finished | str | None) -> None:
        """Add the heatmaps that are new, in place of what grew."""
        if watch is not self.watch:
            return
        self._has_shown_end = True
        for layer in self._growing():
            self.viewer.layers.remove(layer)
        self.state.setText("finished")
        if isinstance(found, str):
            show_error(found)
        elif found is None:
            show_info("The run is finished; it holds no new score.")
        else:
            said, layers = found
            for layer in self.viewer.layers:  # or two maps would be seen one through the other
                layer.visible &= layer.metadata.get("kind") != "overlay"
            active = self.viewer.layers.selection.active
            for data in layers:
                self.viewer.add_layer(Layer.create(*data))
            self.viewer.layers.selection.active = active
            scores = " · ".join(f"{n} {v:.3f}" for n, v in said.scores.items())
            part = said.attrs.get("within")
            where = f" inside the outlines ({part['tiles']} tiles)" if part else ""
            self.state.setText(f"finished: {scores}{where}")
            show_info(f"{Path(self._slide_path).name}: {scores}{where}. Research use only.")


def _finished(watch: RunWatch, known: set[str]) -> Finished | str | None:
    """Return what is new, or in words why it cannot be read."""
    try:
        return watch.finished(known)
    except (WSIError, OSError) as err:
        return str(err)
