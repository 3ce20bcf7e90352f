"""The overview: the whole slide small, what is looked at drawn into it, and a click to go there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QPointF, Qt, QTimer
from qtpy.QtGui import QImage, QMouseEvent, QPainter, QPaintEvent, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QWidget

from viewers.napari_plugin.looking import current_slide, field_of_view, look_at, pyramid_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

SIDE_PX = 240


class Overview(QWidget):
    """A map of the slide; not turned with it, so that it always lies as it was scanned."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._slide: Any = None
        self._picture = QPixmap()
        self.setFixedHeight(SIDE_PX)
        self.setMinimumWidth(SIDE_PX)
        self.setToolTip("click to look there")
        self.setCursor(Qt.CursorShape.CrossCursor)
        self._is_partial = False
        self._again = QTimer(self)  # a picture that is still read is taken over again
        self._again.setSingleShot(True)
        self._again.setInterval(1000)
        self._again.timeout.connect(self.refresh)
        camera = napari_viewer.scene.camera
        camera.events.center.connect(self._redraw)
        camera.events.zoom.connect(self._redraw)
        napari_viewer.layers.events.inserted.connect(self.refresh)
        napari_viewer.layers.events.removed.connect(self.refresh)
        napari_viewer.layers.selection.events.active.connect(self.refresh)
        self.refresh()

    def refresh(self, _: object = None) -> None:
        """Take over the slide that is looked at."""
        slide = current_slide(self._viewer)
        if slide != self._slide or self._is_partial:  # by value: napari hands plugins proxies
            self._slide = slide
            preview = None if slide is None else pyramid_of(slide).preview
            self._is_partial = preview is not None and preview.done < 1
            self._picture = QPixmap() if slide is None else _picture(_coarsest(slide))
            if self._is_partial:
                self._again.start()
        self.update()

    def _redraw(self, _: object = None) -> None:
        self.update()

    def scale(self) -> float:
        """Return widget px per level-0 px."""
        if self._slide is None:
            return 1.0
        height, width = self._slide.data.shape[:2]
        return float(min(self.width() / width, self.height() / height))

    def field(self) -> NDArray[np.float64]:
        """Return the corners of what is looked at, (x, y) in widget px, shape ``(4, 2)``."""
        return field_of_view(self._viewer, self._slide) * self.scale()

    def paintEvent(self, _: QPaintEvent) -> None:  # noqa: N802
        """Draw the slide and the field."""
        if self._slide is None:
            return
        painter = QPainter(self)
        height, width = (round(n * self.scale()) for n in self._slide.data.shape[:2])
        painter.drawPixmap(0, 0, max(width, 1), max(height, 1), self._picture)
        painter.setPen(QPen(Qt.GlobalColor.blue, 2))
        corners = self.field().clip(1, (max(width - 2, 1), max(height - 2, 1)))
        if np.ptp(corners, axis=0).max() < 6:  # too small to be seen: a cross marks it
            middle = corners.mean(axis=0)
            for across in (np.array([6, 0]), np.array([0, 6])):
                painter.drawLine(QPointF(*(middle - across)), QPointF(*(middle + across)))
        painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in corners]))
        painter.end()

    def mousePressEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Look at the place that was clicked."""
        self._go(event)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:  # noqa: N802
        """Go along while the button is held."""
        self._go(event)

    def _go(self, event: QMouseEvent) -> None:
        if self._slide is not None:
            x, y = event.position().x() / self.scale(), event.position().y() / self.scale()
            look_at(self._viewer, self._slide, (x, y))


def _coarsest(slide: Any) -> NDArray[np.uint8]:
    data = slide.data[-1] if slide.multiscale else slide.data
    return np.asarray(data)


def _picture(pixels: NDArray[np.uint8]) -> QPixmap:
    pixels = np.ascontiguousarray(pixels[..., :3])
    height, width = pixels.shape[:2]
    image = QImage(pixels.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image).scaled(
        2 * SIDE_PX,
        2 * SIDE_PX,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
