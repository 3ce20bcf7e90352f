"""The dock in which a reader walks a model's regions and agrees or not, all by the keyboard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_warning
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
)

from tiling.errors import WSIError
from tiling.store import SlideStore, open_store
from viewers.napari_plugin.dock import Dock
from viewers.napari_plugin.keys import key_name, tooltip
from viewers.napari_plugin.region_marker import RegionMarker
from viewers.napari_plugin.region_table import RegionTable
from viewers.napari_plugin.scene import (
    ShownSlide,
    jump_to,
    show_store_over,
    shown_slide,
    shown_stores,
    told,
    user_name,
)
from viewers.napari_plugin.unsaved import UnsavedGuard
from viewers.review.keeper import KEEPER
from viewers.review.log import Answer, write_spared
from viewers.review.scores import score_text
from viewers.review.session import ReviewSession

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

KEYS = ("Enter", "J", "K", "A", "D", "U", "N")
"""Of the table of keys, those that this dock binds."""
BUTTONS = (("K", "Previous"), ("J", "Next"), ("A", "Agree"), ("D", "Disagree"), ("U", "Unsure"),
           ("N", "Note"))  # fmt: skip
ANSWERS: dict[str, Answer] = {"A": "agree", "D": "disagree", "U": "unsure"}


class ReviewDock(Dock):
    """Regions of the slide that is shown, the highest first, and what the reader says of each.

    Verdicts are on the disk before the next key is taken. A reader who comes back goes on at the
    first region that is open; what others said is not shown.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.store: SlideStore | None = None
        self.session: ReviewSession | None = None
        self.slide: ShownSlide | None = None
        self.current = -1
        self.guard: UnsavedGuard | None = None
        self.marker = RegionMarker(viewer)
        self._build()
        for key in KEYS:
            viewer.bind_key(key, self._on_key(key), overwrite=True)
        viewer.layers.events.inserted.connect(self._layers_changed)
        viewer.layers.events.removed.connect(self._layers_changed)
        self._waiting = QTimer(self)  # layers come several at a time
        self._waiting.setSingleShot(True)
        self._waiting.setInterval(0)
        self._waiting.timeout.connect(self.refresh)
        write_spared()
        self.refresh()

    def _build(self) -> None:
        self.reader = QLineEdit(user_name())
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
        self.score.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.table = RegionTable()
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
        layout.addLayout(self._button_row())
        layout.addWidget(self.advance)
        layout.addWidget(self.progress)

    def _button_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.buttons: dict[str, QPushButton] = {}
        for key, name in BUTTONS:
            button = QPushButton(name)
            button.setToolTip(tooltip(key))
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys stay with the slide
            button.clicked.connect(partial(self._act, key))
            self.buttons[key] = button
            row.addWidget(button)
        return row

    def _on_key(self, key: str) -> Callable[[object], None]:
        return lambda _viewer: self._act(key)  # napari takes functions only, not partial()

    def _act(self, key: str, *_: object) -> None:
        if key in ANSWERS:
            self.say(ANSWERS[key])
        elif key == "N":
            self.note.setFocus()
            self.note.selectAll()
        else:
            self.step(-1 if key == "K" else 1)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """Take the review's keys where the table has the focus, and Enter where the note has it."""
        if event.type() == QEvent.Type.KeyPress:
            key = key_name(event)
            if watched is self.table and key in KEYS:
                self._act(key)
                return True
            if watched is self.note and key == "Enter":  # which the line would also pass on
                self.keep_note()
                return True
        return super().eventFilter(watched, event)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Take the review's keys where the dock itself has the focus, such as when it floats."""
        key = key_name(event)
        if key in KEYS:
            self._act(key)
        else:
            super().keyPressEvent(event)

    def showEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Have closing the window ask, where verdicts would be lost."""
        super().showEvent(event)
        if self.guard is None and self._frame is not None:
            self.guard = UnsavedGuard.over(self._frame)
            self.guard.saved.connect(self._show_progress)

    def end_work(self) -> None:
        """Write what waits; what cannot be written is kept, and tried again, while napari runs."""
        self._end_session()
        complaint = KEEPER.flush()
        if self.guard is not None:
            self.guard.watch()
        if complaint is not None:
            raise complaint

    def release_viewer(self) -> None:
        """Give back the keys and events, and take the mark away."""
        for key in KEYS:
            self.viewer.bind_key(key, None)
        self.viewer.layers.events.inserted.disconnect(self._layers_changed)
        self.viewer.layers.events.removed.disconnect(self._layers_changed)
        self._waiting.stop()
        self.marker.close()

    def _layers_changed(self, event: Any) -> None:
        if getattr(event, "value", None) is not self.marker.layer:
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
        else:
            self._take_new_predictions()
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
        show_store_over(self.viewer, open_store(path))
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

    def _take_new_predictions(self) -> None:
        """Offer what a run has written into the store meanwhile."""
        names = [] if self.store is None else self.store.prediction_names()
        known = {self.predictions.itemText(i) for i in range(self.predictions.count())}
        self.predictions.blockSignals(True)
        self.predictions.addItems([name for name in names if name not in known])
        self.predictions.blockSignals(False)

    @told
    def _prediction_changed(self, name: str) -> None:
        if self.store is None or not name:
            return
        self._end_session()
        self.session = ReviewSession(self.store, self.store.prediction(name))
        self.score.setText(score_text(self.session.prediction))
        self._show_slide()
        try:
            self.session.begin(self.reader.text())
        finally:  # who has no name yet can look
            self._fill()
            self.table.load_pictures(self.store, self.session.regions)

    def _show_slide(self) -> None:
        self.slide = None
        with contextlib.suppress(WSIError):
            self.slide = shown_slide(self.viewer)

    @told
    def _reader_changed(self) -> None:
        session, reader = self.session, self.reader.text()
        if session is None or (session.log is not None and session.log.reader == reader.strip()):
            return  # only the focus went elsewhere: the reader stays at the region
        try:
            session.begin(reader)
        finally:  # nothing of the reader before is seen
            self._fill()

    def _end_session(self) -> None:
        self.table.stop_loading()
        if self.session is not None:
            self.session.end()
        self.session, self.current = None, -1

    def _clear(self, why: str) -> None:
        self._end_session()
        self.store = None
        self.table.setRowCount(0)
        self.score.setText(why)
        self.progress.setText("")
        self.marker.remove()

    def _fill(self) -> None:
        """Fill the table and go to the first region that is open."""
        session = self.session
        if session is None:
            return
        self.table.blockSignals(True)
        self.table.show_regions(session.regions)
        for row in range(len(session.regions)):
            self.table.show_verdict(row, session.said(row))
        self.table.blockSignals(False)
        self.current = -1
        if session.regions:
            self.table.setCurrentCell(next(iter(session.open_rows()), 0), 1)
            self._go_to(self.table.currentRow())
        self._show_progress()

    def _show_progress(self) -> None:
        self.progress.setText("" if self.session is None else self.session.progress_text())

    def step(self, by: int) -> None:
        """Go `by` regions on; stays at the ends."""
        if self.session is not None and self.session.regions:
            row = min(max(self.current + by, 0), len(self.session.regions) - 1)
            self.table.setCurrentCell(row, 1)
            self._go_to(row)

    @told
    def _go_to(self, row: int) -> None:
        session = self.session
        if session is None or not 0 <= row < len(session.regions):
            return
        if row != self.current:
            said = session.said(row)
            self.note.setText("" if said is None else said.note)
        self.current = row
        if self.slide is not None:
            jump_to(self.viewer, self.slide, session.regions[row].box)
            self.marker.mark(self.slide, session.regions[row])

    @told
    def say(self, answer: Answer) -> None:
        """Keep a verdict on the region that is marked."""
        session, row = self.session, self.current
        if session is None or row < 0:
            show_warning("There is no region to judge: open a store that a model has scored.")
            return
        self._keep(session, row, answer)
        later = session.open_rows(after=row)
        if self.advance.isChecked() and later:
            self.table.setCurrentCell(later[0], 1)

    @told
    def keep_note(self) -> None:
        """Keep the note with the verdict that stands, and give the keys back to the slide."""
        self.window().setFocus()  # napari's window hands its keys to the slide
        if self.session is not None and self.current >= 0:
            self._keep(self.session, self.current, self.session.answer(self.current))

    def _keep(self, session: ReviewSession, row: int, answer: Answer | None) -> None:
        try:
            session.keep(self.reader.text(), row, answer, self.note.text())
        finally:
            if self.guard is not None:
                self.guard.watch()
            self.table.show_verdict(row, session.said(row))
            self._show_progress()
