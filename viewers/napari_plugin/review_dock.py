"""The dock in which a reader walks a model's regions and agrees or not, all by the keyboard."""

from __future__ import annotations

import getpass
import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_warning
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from tiling.errors import WSIError
from tiling.store import Prediction, SlideStore, open_store
from viewers.napari_plugin.keys import tooltip
from viewers.napari_plugin.scene import (
    ShownSlide,
    check_same_slide,
    jump_to,
    show_store,
    shown_slide,
    shown_stores,
    told,
)
from viewers.review.log import Answer, ReviewLog, Verdict
from viewers.review.regions import RankedRegion, region_thumbnail, regions_of
from viewers.review.worklist import positive_score

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name
    from napari.layers import Shapes

KEYS = ("Enter", "J", "K", "A", "D", "U", "N")
"""Of the table of keys, those that this dock binds."""
COLUMNS = ("", "score", "rank in slide", "verdict", "note")
THUMBNAIL_PX, MINIMUM_WIDTH = 72, 420
EDGE_PX = 3
"""Width of the marked region's edge on the screen, whatever the zoom."""
MARKER = "region in review"
MARKER_COLOUR = "#00e5ff"
ANSWER_COLOURS = {"agree": "#2e7d32", "disagree": "#c62828", "unsure": "#ef6c00"}


class ReviewDock(QWidget):
    """Regions of the slide that is shown, the highest first, and what the reader says of each.

    Verdicts are on the disk before the next key is taken. A reader who comes back goes on at the
    first region that is open; what others said is not shown.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.store: SlideStore | None = None
        self.prediction: Prediction | None = None
        self.slide: ShownSlide | None = None
        self.regions: list[RankedRegion] = []
        self.log: ReviewLog | None = None
        self.current = -1
        self._marker: Shapes | None = None
        self._worker: Any = None
        self._build()
        self._bind_keys()
        viewer.layers.events.inserted.connect(self._layers_changed)
        viewer.layers.events.removed.connect(self._layers_changed)
        viewer.scene.camera.events.zoom.connect(self._fit_edge)
        self._waiting = QTimer(self)  # layers come several at a time
        self._waiting.setSingleShot(True)
        self._waiting.setInterval(0)
        self._waiting.timeout.connect(self.refresh)
        self.refresh()

    def _build(self) -> None:
        self.reader = QLineEdit(_user_name())
        self.reader.setToolTip("Whose verdicts these are; a second reader sees nothing of them")
        self.reader.editingFinished.connect(self._reader_changed)
        self.predictions = QComboBox()
        self.predictions.setToolTip("Which model's regions to review")
        self.predictions.currentTextChanged.connect(self._prediction_changed)
        self.open_button = QPushButton("Open store…")
        self.open_button.setToolTip("A slide's store in the output folder of `wsi run`")
        self.open_button.clicked.connect(self._choose_store)
        form = QFormLayout()
        form.addRow("Reader", self.reader)
        form.addRow("Model", self.predictions)
        form.addRow("", self.open_button)
        self.score = QLabel()
        self.score.setWordWrap(True)
        self.setMinimumWidth(MINIMUM_WIDTH)
        self.score.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.table.verticalHeader().setDefaultSectionSize(THUMBNAIL_PX + 4)
        self.table.setColumnWidth(0, THUMBNAIL_PX + 8)
        self.table.horizontalHeader().setSectionResizeMode(4, QHeaderView.ResizeMode.Stretch)
        self.table.setToolTip("Click a region, or walk by Enter, J and K")
        self.table.currentCellChanged.connect(lambda row, *_: self._go_to(row))
        self.table.installEventFilter(self)
        self.advance = QCheckBox("Go on after a verdict")
        self.advance.setToolTip("A, D and U also go to the next region that is open")
        self.note = QLineEdit()
        self.note.setPlaceholderText("Note (N); Enter keeps it")
        self.note.setToolTip("A note on this region; N goes here, Enter keeps it and goes back")
        self.note.installEventFilter(self)
        self.progress = QLabel()
        self.progress.setWordWrap(True)
        self.progress.setMinimumHeight(3 * self.fontMetrics().height())
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.score)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.note)
        layout.addLayout(self._buttons())
        layout.addWidget(self.advance)
        layout.addWidget(self.progress)

    def _buttons(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.buttons: dict[str, QPushButton] = {}
        for key, name in (("K", "Previous"), ("J", "Next"), ("A", "Agree"), ("D", "Disagree"),
                          ("U", "Unsure"), ("N", "Note")):  # fmt: skip
            button = QPushButton(name)
            button.setToolTip(tooltip(key))
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys stay with the slide
            button.clicked.connect(partial(self._act, key))
            self.buttons[key] = button
            row.addWidget(button)
        return row

    def _bind_keys(self) -> None:
        for key in KEYS:
            self.viewer.bind_key(key, self._on_key(key), overwrite=True)

    def _on_key(self, key: str) -> Callable[[object], None]:
        def pressed(_viewer: object) -> None:
            self._act(key)

        return pressed

    def _act(self, key: str, *_: object) -> None:
        if key in ("Enter", "J"):
            self.step(1)
        elif key == "K":
            self.step(-1)
        elif key == "N":
            self.note.setFocus()
            self.note.selectAll()
        else:
            self.say({"A": "agree", "D": "disagree", "U": "unsure"}[key])  # type: ignore[arg-type]

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """Take the review's keys where the table has the focus, and Enter where the note has it."""
        if event.type() == QEvent.Type.KeyPress:
            key = _key_name(event)
            if watched is self.table and key in KEYS:
                self._act(key)
                return True
            if watched is self.note and key == "Enter":  # which the line would also pass on
                self.keep_note()
                return True
        return bool(super().eventFilter(watched, event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Take the review's keys where the dock itself has the focus, such as when it floats."""
        key = _key_name(event)
        if key in KEYS:
            self._act(key)
        else:
            super().keyPressEvent(event)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Let go of the viewer: its keys, its events, the mark."""
        for key in KEYS:
            self.viewer.bind_key(key, None)
        self.viewer.layers.events.inserted.disconnect(self._layers_changed)
        self.viewer.layers.events.removed.disconnect(self._layers_changed)
        self.viewer.scene.camera.events.zoom.disconnect(self._fit_edge)
        self._stop_worker()
        self._remove_marker()
        super().closeEvent(event)

    def _layers_changed(self, event: Any) -> None:
        if getattr(event, "value", None) is not self._marker:
            self._waiting.start()

    @told
    def refresh(self) -> None:
        """Take up the store that is shown, if it is another one than before."""
        stores = shown_stores(self.viewer)
        if not stores:
            self._clear("No heatmap is open: open a store (output folder of `wsi run`, stores/…).")
            return
        if self.store is None or self.store.path not in stores:
            self._take(open_store(stores[0]))
        self._show_slide()

    @told
    def _choose_store(self, *_: object) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Store of a slide", "")
        if folder:
            self.open_path(folder)

    @told
    def open_path(self, path: str) -> None:
        """Show the store at `path`: over its slide if that is open, by itself if none is.

        A store of another slide than the one that is shown is refused with a notification.
        """
        store = open_store(path)
        try:
            slide = shown_slide(self.viewer)
        except WSIError:
            pass
        else:
            check_same_slide(slide, store)
        show_store(self.viewer, store)
        self.refresh()

    def _take(self, store: SlideStore) -> None:
        self.store = store
        names = store.prediction_names()
        self.predictions.blockSignals(True)
        self.predictions.clear()
        self.predictions.addItems(names)
        self.predictions.blockSignals(False)
        whole = store.whole_slide_predictions()
        if not names:
            self._clear(f"{store.slide_id}: not scored yet; run a model (dock Run a model).")
            return
        self.predictions.setCurrentText((whole or names)[0])
        self._prediction_changed((whole or names)[0])

    @told
    def _prediction_changed(self, name: str) -> None:
        if self.store is None or not name:
            return
        self.prediction = self.store.prediction(name)
        self.regions = regions_of(self.store, self.prediction.attention)
        self.score.setText(_score_text(self.prediction))
        self._open_log()
        self._show_slide()
        self._fill()
        self._load_thumbnails()
        if not self.regions:
            self.progress.setText("This model's attention is the same everywhere: no regions.")

    def _show_slide(self) -> None:
        try:
            self.slide = shown_slide(self.viewer)
        except WSIError:
            self.slide = None

    @told
    def _reader_changed(self) -> None:
        self._open_log()
        self._fill()

    def _open_log(self) -> None:
        """Take up this reader's file; without one (no name) nothing can be said."""
        unsaved = [] if self.log is None else list(self.log.unsaved)
        self.log = None
        if self.store is None:
            return
        name = self.reader.text()
        self.log = ReviewLog.open(self.store.path, self.store.slide_id, name)
        for verdict in unsaved:  # of a full disk: they go with the next, if the file is the same
            if verdict.reader == self.log.reader and verdict.slide_id == self.store.slide_id:
                self.log.unsaved.append(verdict)
                self.log.said[verdict.key] = verdict

    def _clear(self, why: str) -> None:
        self._stop_worker()
        self.store, self.prediction, self.log, self.regions = None, None, None, []
        self.current = -1
        self.table.setRowCount(0)
        self.score.setText(why)
        self.progress.setText("")
        self._remove_marker()

    def _fill(self) -> None:
        """Fill the table and go to the first region that is open."""
        self.table.blockSignals(True)
        self.table.setRowCount(len(self.regions))
        for row, region in enumerate(self.regions):
            score = QTableWidgetItem(f"{region.peak:.3g}")
            place = QTableWidgetItem(f"P{100 * region.percentile:.1f}")
            picture = self.table.item(row, 0) or QTableWidgetItem()
            picture.setToolTip(
                f"Region {region.rank}: {len(region.tiles)} tiles, sum {region.mass:.3g}, level-0 "
                f"x {region.box.x0}, y {region.box.y0}"
            )
            for column, item in enumerate((picture, score, place)):
                if item.tableWidget() is None:
                    self.table.setItem(row, column, item)
            self._show_verdict(row)
        self.table.blockSignals(False)
        self.current = -1
        open_rows = [r for r in range(len(self.regions)) if self._answer(r) is None]
        if self.regions:
            self.table.setCurrentCell(open_rows[0] if open_rows else 0, 1)
            self._go_to(self.table.currentRow())
        self._show_progress()

    def _said(self, row: int) -> Verdict | None:
        return None if self.log is None else self.log.of(self._verdict(row, None).key)

    def _answer(self, row: int) -> Answer | None:
        said = self._said(row)
        return None if said is None else said.answer

    def _show_verdict(self, row: int) -> None:
        said = self._said(row)
        answer = QTableWidgetItem("" if said is None else said.answer or "")
        if said is not None and said.answer:
            answer.setBackground(_colour(ANSWER_COLOURS[said.answer]))
        self.table.setItem(row, 3, answer)
        self.table.setItem(row, 4, QTableWidgetItem("" if said is None else said.note))

    def _show_progress(self) -> None:
        done = sum(self._answer(row) is not None for row in range(len(self.regions)))
        where = "" if self.log is None else f"\nkept in {self.log.path}"
        unsaved = "" if self.log is None or not self.log.unsaved else (
            f"\n{len(self.log.unsaved)} NOT WRITTEN YET: make room on the disk"
        )  # fmt: skip
        self.progress.setText(f"{done} of {len(self.regions)} regions read{where}{unsaved}")

    def step(self, by: int) -> None:
        """Go `by` regions on; stays at the ends."""
        if self.regions:
            row = min(max(self.current + by, 0), len(self.regions) - 1)
            self.table.setCurrentCell(row, 1)
            self._go_to(row)

    @told
    def _go_to(self, row: int) -> None:
        if not 0 <= row < len(self.regions):
            return
        if row != self.current:
            said = self._said(row)
            self.note.setText("" if said is None else said.note)
        self.current = row
        if self.slide is not None:
            jump_to(self.viewer, self.slide, self.regions[row].box)
            self._mark(self.regions[row])

    @told
    def say(self, answer: Answer) -> None:
        """Keep a verdict on the region that is marked."""
        if self.prediction is None or self.current < 0:
            show_warning("There is no region to judge: open a store that a model has scored.")
            return
        if self.log is None:
            self._open_log()  # raises, and says, what is missing
        row = self.current
        try:
            self._keep(self._verdict(row, answer))
        finally:
            self._show_verdict(row)
            self._show_progress()
        if self.advance.isChecked():
            later = [r for r in range(row + 1, len(self.regions)) if self._answer(r) is None]
            if later:
                self.table.setCurrentCell(later[0], 1)

    @told
    def keep_note(self) -> None:
        """Keep the note with the verdict that stands, and give the keys back to the slide."""
        self.window().setFocus()  # napari's window hands its keys to the slide
        if self.prediction is None or self.current < 0:
            return
        if self.log is None:
            self._open_log()
        try:
            self._keep(self._verdict(self.current, self._answer(self.current)))
        finally:
            self._show_verdict(self.current)
            self._show_progress()

    def _keep(self, verdict: Verdict) -> None:
        if self.log is not None:
            self.log.add(verdict)

    def _verdict(self, row: int, answer: Answer | None) -> Verdict:
        if self.store is None or self.prediction is None:
            raise RuntimeError("no store")
        region = self.regions[row]
        return Verdict(
            slide_id=self.store.slide_id,
            prediction=self.prediction.name,
            model_id=str(self.prediction.attrs.get("model_id", self.prediction.name)),
            version=importlib.metadata.version("wsi-pipeline"),
            rank=region.rank,
            box=region.box,
            score=region.peak,
            reader="",
            answer=answer,
            note=self.note.text().strip(),
        )

    def _mark(self, region: RankedRegion) -> None:
        """Draw one box around the region, its edge the same on the screen at every zoom."""
        slide = self.slide
        if slide is None:
            return
        box = region.box
        y0, x0, y1, x1 = box.y0, box.x0, box.y0 + box.height, box.x0 + box.width
        corners = np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)
        if self._marker is None or self._marker not in self.viewer.layers:
            active = self.viewer.layers.selection.active
            from napari.layers import Shapes

            self._marker = Shapes(
                [corners], shape_type="polygon", name=MARKER, face_color="transparent",
                edge_color=MARKER_COLOUR, edge_width=1, metadata={"kind": "marker"},
                **slide.placement,
            )  # fmt: skip
            self.viewer.add_layer(self._marker)
            self._marker.editable = False
            # The mark must not take the keys: A would select its shapes.
            self.viewer.layers.selection.active = active or slide.layer
        else:
            self._marker.data = [corners]
        self._marker.shape_type = "polygon"
        self._marker.metadata = {
            "kind": "marker", "rank": region.rank, "tiles": region.tiles.tolist(),
        }  # fmt: skip
        self._fit_edge()

    def _fit_edge(self, *_: object) -> None:
        if self._marker is None or self._marker not in self.viewer.layers:
            return
        width = EDGE_PX / (self.viewer.scene.camera.zoom * float(self._marker.scale[-1]))
        self._marker.edge_width = [width] * len(self._marker.data)

    def _remove_marker(self) -> None:
        if self._marker is not None and self._marker in self.viewer.layers:
            self.viewer.layers.remove(self._marker)
        self._marker = None

    def _load_thumbnails(self) -> None:
        self._stop_worker()
        if self.store is None or not self.regions:
            return
        worker = thread_worker(_thumbnails)(self.store, self.regions)
        worker.yielded.connect(partial(self._show_thumbnail, self.store.path))
        self._worker = worker
        worker.start()

    def _show_thumbnail(self, path: str, found: tuple[int, Any]) -> None:
        row, pixels = found
        if self.store is None or self.store.path != path or row >= self.table.rowCount():
            return
        item = self.table.item(row, 0)
        if item is None:
            return
        height, width = pixels.shape[:2]
        image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
        item.setIcon(QIcon(QPixmap.fromImage(image)))

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.quit()
        self._worker = None


def _key_name(event: Any) -> str:
    is_enter = event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
    return "Enter" if is_enter else str(event.text()).upper()


def _thumbnails(store: SlideStore, regions: list[RankedRegion]) -> Iterator[tuple[int, Any]]:
    """Yield (row, pixels) of the regions that can be read; a slide that is gone has none."""
    from tiling.slide import open_slide

    try:
        with open_slide(store.slide_path, mpp=store.slide_mpp) as slide:
            for row, region in enumerate(regions):
                yield row, region_thumbnail(slide, region.box, THUMBNAIL_PX)
    except WSIError:
        return


def _score_text(prediction: Prediction) -> str:
    """Return the slide's score, whether it is calibrated, and on which side of the point it is."""
    attrs = prediction.attrs
    name, score, point = positive_score({**attrs, "scores": prediction.scores})
    calibrated = "calibrated probability" if attrs.get("calibrated") else "score, not calibrated"
    lines = [f"<b>{name} {score:.3f}</b> ({calibrated}); answer: {prediction.label}"]
    if point is not None:
        side = "positive: at or above" if score >= point else "negative: below"
        lines.append(f"{side} the operating point {point:.3f}")
    else:
        lines.append("this model has no operating point")
    if attrs.get("within"):
        lines.append(f"of {attrs['within']['tiles']} tiles inside outlines, not of the slide")
    if attrs.get("seen_in_training"):
        lines.append("<b>The model was trained on this slide.</b>")
    lines.append("Research use only.")
    return "<br>".join(lines)


def _colour(text: str) -> Any:
    from qtpy.QtGui import QBrush, QColor

    return QBrush(QColor(text))


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""
