"""Verdicts that no disk took: written as soon as one does, and asked about before napari closes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEvent, QObject, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from viewers.errors import ReviewError
from viewers.review.keeper import KEEPER

RETRY_MS = 5_000
TRY_AGAIN, SAVE_TO, STAY, LOSE = "Try again", "Save to…", "Keep napari open", "Close and lose them"
HOW = (
    f"{SAVE_TO} keeps them in a folder of yours, a file for each slide: move them into the run's "
    "folder “reviews” later."
)


class UnsavedGuard(QObject):
    """Watches over a window: what waits is tried again and again; closing asks first."""

    saved = Signal()
    """All that waited is written."""

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        window.installEventFilter(self)
        self._timer = QTimer(self)
        self._timer.setInterval(RETRY_MS)
        self._timer.timeout.connect(self.try_again)

    @classmethod
    def over(cls, window: QWidget) -> UnsavedGuard:
        """Return the window's guard, made if it has none."""
        found = [child for child in window.children() if isinstance(child, cls)]
        return found[0] if found else cls(window)

    def _frame(self) -> QWidget:
        window = self.parent()
        if not isinstance(window, QWidget):
            raise TypeError("a guard's parent is a window")
        return window

    def watch(self) -> None:
        """Try again at intervals while anything waits."""
        if KEEPER.unsaved and not self._timer.isActive():
            self._timer.start()

    def try_again(self) -> None:
        """Write what waits, if it can be by now."""
        count = KEEPER.unsaved
        if KEEPER.flush() is not None:
            return
        self._timer.stop()
        if count:
            show_info(f"There is room again: {count} verdicts are written where they belong.")
            self.saved.emit()

    def eventFilter(self, watched: QObject, event: Any) -> bool:  # noqa: N802 (Qt's name)
        """Refuse to close while verdicts would be lost, unless the reader says so."""
        is_closing = watched is self.parent() and event.type() == QEvent.Type.Close
        if is_closing and not self._is_settled():
            event.ignore()
            return True
        return bool(super().eventFilter(watched, event))

    def _is_settled(self) -> bool:
        """Whether napari may close: nothing is at risk, or the reader lets it go."""
        while True:
            complaint = KEEPER.flush()
            if not KEEPER.at_risk:
                return True
            said = self.ask(
                f"{KEEPER.at_risk} verdicts are on no disk yet.", f"{complaint}\n\n{HOW}"
            )
            if said == LOSE:
                return True
            if said == STAY:
                return False
            if said == SAVE_TO:
                self._save_to_folder()

    def _save_to_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(
            self._frame(), "Folder with room, such as a stick"
        )
        if not folder:
            return
        try:
            files = KEEPER.save_to(Path(folder))
        except ReviewError as err:
            show_error(str(err))
        else:
            show_info(f"Kept in {', '.join(map(str, files))}")

    def ask(self, what: str, why: str) -> str:
        """Ask what is to become of them; return one of the four answers."""
        box = QMessageBox(self._frame())
        box.setIcon(QMessageBox.Icon.Warning)
        box.setWindowTitle("Verdicts are not saved")
        box.setText(what)
        box.setInformativeText(why)
        roles = QMessageBox.ButtonRole
        for text, role in (
            (TRY_AGAIN, roles.AcceptRole), (SAVE_TO, roles.ActionRole), (STAY, roles.RejectRole),
            (LOSE, roles.DestructiveRole),
        ):  # fmt: skip
            button = box.addButton(text, role)
            if text == TRY_AGAIN:
                box.setDefaultButton(button)
            if text == STAY:
                box.setEscapeButton(button)
        box.exec()
        clicked = box.clickedButton()
        return STAY if clicked is None else clicked.text().replace("&", "")  # some desktops' keys
