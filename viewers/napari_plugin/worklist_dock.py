"""The dock that lists the slides of a run, the most urgent first, or of a folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
)

from tiling.store import open_store
from viewers.errors import ReviewError
from viewers.napari_plugin.dock import Dock
from viewers.napari_plugin.keys import tooltip
from viewers.napari_plugin.row_table import RowTable
from viewers.napari_plugin.scene import show_slide, show_store, shown_stores, told, user_name
from viewers.review.opened import note_opened
from viewers.review.worklist import WorklistRow, filtered, next_unread, read_worklist

if TYPE_CHECKING:
    import napari.viewer  # napari gives the viewer to what is annotated with this very name

COLUMNS = ("slide", "score", "urgency", "answer", "read")
WIDTHS = {1: 60, 2: 70, 3: 90, 4: 45}
NEXT_KEY = "Control-J"
PLACE = "Output folder of `wsi run`, or a folder of slides"


class WorklistDock(Dock):
    """Slides of a run by urgency (score in units of the operating point), or of a folder by name.

    A double click, Enter or the key for the next unread slide shows it in place of the last one.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.rows: list[WorklistRow] = []
        self.visible_rows: list[WorklistRow] = []
        self.current = ""
        self._worker: Any = None
        self.folder = QLineEdit()
        self.folder.setPlaceholderText(PLACE)
        self.folder.setToolTip(f"{PLACE}; Enter reads it again")
        self.folder.returnPressed.connect(self.read)
        choose = QPushButton("Open…")
        choose.setToolTip("Choose the output folder of a run, or a folder of slides")
        choose.clicked.connect(self._choose)
        self.reader = QLineEdit(user_name())
        self.reader.setToolTip("Whose verdicts count as read")
        self.reader.editingFinished.connect(self.read)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter by slide or answer")
        self.search.textChanged.connect(self._fill)
        self.unread = QCheckBox("Unread")
        self.unread.setToolTip("Only slides that this reader has not begun")
        self.positive = QCheckBox("Positive")
        self.positive.setToolTip("Only slides at or above the operating point (0.5 without one)")
        for box in (self.unread, self.positive):
            box.toggled.connect(self._fill)
        self.table = RowTable(COLUMNS, stretched=0, widths=WIDTHS)
        self.table.setToolTip("Double click or Enter shows the slide")
        self.table.cellActivated.connect(self._open_row)
        self.next_button = QPushButton("Next unread slide")
        self.next_button.setToolTip(tooltip(NEXT_KEY))
        self.next_button.clicked.connect(self.open_next)
        self.count = QLabel()
        self.count.setWordWrap(True)
        self.count.setMinimumHeight(2 * self.fontMetrics().height())
        place = QHBoxLayout()
        place.addWidget(self.folder, 1)
        place.addWidget(choose)
        form = QFormLayout()
        form.addRow("Folder", place)
        form.addRow("Reader", self.reader)
        filters = QHBoxLayout()
        filters.addWidget(self.search, 1)
        filters.addWidget(self.unread)
        filters.addWidget(self.positive)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addLayout(filters)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.next_button)
        layout.addWidget(self.count)
        viewer.bind_key(NEXT_KEY, self._on_next_key, overwrite=True)
        stores = shown_stores(viewer)
        if stores:
            self.current = open_store(stores[0]).slide_id
            self.folder.setText(stores[0].rpartition("/stores/")[0] or stores[0])
            self.read()

    def _on_next_key(self, _viewer: object) -> None:
        self.open_next()

    def release_viewer(self) -> None:
        """Give the key back."""
        self.viewer.bind_key(NEXT_KEY, None)

    def end_work(self) -> None:
        """Let what is being read go."""
        if self._worker is not None:
            self._worker.quit()

    def _choose(self, *_: object) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Run, or folder of slides", "")
        if folder:
            self.folder.setText(folder)
            self.read()

    def read(self) -> None:
        """Read the run again, beside the window's own work."""
        folder = self.folder.text().strip()
        if not folder:
            return
        self.count.setText("reading…")
        worker = thread_worker(_read_rows)(folder, self.reader.text())
        worker.returned.connect(self._take)
        self._worker = worker
        worker.start()

    def _take(self, found: list[WorklistRow] | str) -> None:
        self.rows = [] if isinstance(found, str) else found
        self._fill()
        if isinstance(found, str):
            show_error(found)

    def _fill(self, *_: object) -> None:
        self.visible_rows = filtered(
            self.rows, self.search.text(), unread=self.unread.isChecked(),
            positive=self.positive.isChecked(),
        )  # fmt: skip
        self.table.setRowCount(len(self.visible_rows))
        for index, row in enumerate(self.visible_rows):
            score = "" if row.score is None else f"{row.score:.3f}"
            urgency = "" if math.isnan(row.urgency) else f"{row.urgency:.2f}"
            read = f"{row.read}" if row.read else ""
            texts = (row.slide_id, score, urgency, row.label, read)
            for column, text in enumerate(texts):
                item = self.table.put(index, column, text, is_number=column in (1, 2, 4))
                point = row.operating_point if column in (1, 2) else None
                item.setToolTip("" if point is None else f"operating point {point:.3f}")
            if row.slide_id == self.current:
                self.table.selectRow(index)
        begun = sum(row.read > 0 for row in self.rows)
        self.count.setText(
            f"{len(self.visible_rows)} of {len(self.rows)} slides shown, {begun} begun. "
            "Research use only."
        )

    def _open_row(self, row: int, _column: int = 0) -> None:
        if 0 <= row < len(self.visible_rows):
            self.open(self.visible_rows[row])

    @told
    def open(self, row: WorklistRow) -> None:
        """Show a slide of the list in place of the one that is shown."""
        self.current = row.slide_id  # first: the next one comes after a slide that cannot be opened
        if row.has_store:
            show_store(self.viewer, open_store(row.path))
        else:
            show_slide(self.viewer, row.slide_id, row.path)
        names = [r.slide_id for r in self.visible_rows]
        if self.current in names:
            self.table.selectRow(names.index(self.current))
        if row.score is None and self.reader.text().strip():
            slide = row.path if not row.has_store else open_store(row.path).slide_path
            note_opened(str(Path(slide).resolve()), self.reader.text())

    def open_next(self, *_: object) -> None:
        """Show the next slide that this reader has not begun, by what is on the disk now."""
        self._take(_read_rows(self.folder.text().strip(), self.reader.text()))
        if not self.rows:
            return
        found = next_unread(self.visible_rows, self.current)
        if found is None:
            show_info("Every slide of the list has been begun.")
        else:
            self.open(found)


def _read_rows(folder: str, reader: str) -> list[WorklistRow] | str:
    """Return the worklist, or why there is none: of a worker's error napari shows a traceback."""
    try:
        return read_worklist(folder, reader=reader)
    except ReviewError as err:
        return str(err)
