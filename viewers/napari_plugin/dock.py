"""What the docks have in common: they let go of the viewer, however they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

from viewers.napari_plugin.scene import MINIMUM_WIDTH, told

if TYPE_CHECKING:
    import napari.viewer


class Dock(QWidget):
    """A dock that ends its work and gives back what it took, once.

    napari sends its docks no close event: a dock's own cross takes the widget out of the window
    without a word, and so does closing the window.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.setMinimumWidth(MINIMUM_WIDTH)
        self._frame: QWidget | None = None
        self._is_docked = False
        self._frame_is_closing = False
        self._has_ended = False

    def end_work(self) -> None:
        """End what runs, and save."""

    def release_viewer(self) -> None:
        """Give back keys, events and layers; not called where the window goes too."""

    def showEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """Watch the window that the dock is in."""
        frame = top_of(self)
        if frame is not self and frame is not self._frame:
            self._frame = frame
            frame.installEventFilter(self)
            QTimer.singleShot(0, self, self._share_place)
        super().showEvent(event)

    def _share_place(self) -> None:
        """Be a tab beside the docks of this kind: one above the other none has room."""
        own, frame = self.parentWidget(), self._frame
        if not isinstance(own, QDockWidget) or not isinstance(frame, QMainWindow):
            return
        others = [
            dock for dock in frame.findChildren(QDockWidget)
            if dock is not own and isinstance(dock.widget(), Dock) and not dock.isFloating()
        ]  # fmt: skip
        if others:
            frame.tabifyDockWidget(others[-1], own)
            own.raise_()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """End where napari takes the dock out of its window."""
        if event.type() == QEvent.Type.ParentChange:
            if self._is_docked and self.parent() is None:
                self._end(window_lives=True)
            self._is_docked = self.parent() is not None
        super().changeEvent(event)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """End."""
        self._end(window_lives=True)
        super().closeEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 (Qt's name)
        """End where the window has closed, which others may have refused."""
        if watched is self._frame:
            if event.type() == QEvent.Type.Close:
                self._frame_is_closing = True
            elif event.type() == QEvent.Type.Hide and self._frame_is_closing:
                self._end(window_lives=False)
        return bool(super().eventFilter(watched, event))

    def _end(self, *, window_lives: bool) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if self._frame is not None:
            self._frame.removeEventFilter(self)
            self._frame = None
        self._end_work()
        if window_lives:
            self.release_viewer()

    @told
    def _end_work(self) -> None:
        self.end_work()


def top_of(widget: QWidget) -> QWidget:
    """Return the window that a widget is in, also where its dock floats."""
    parent = widget.parentWidget()
    while parent is not None:
        widget, parent = parent, parent.parentWidget()
    return widget
