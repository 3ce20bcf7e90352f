"""The dock of slide properties, and the associated images, which are shown only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from tiling.errors import WSIError
from viewers.napari_plugin.looking import current_slide
from viewers.slide_properties import slide_properties

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from tiling.slide import Slide

WARNING = "The label, and often the macro, show the patient's name or number."


class Properties(QWidget):
    """A table of how the slide was scanned."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.table = QTableWidget(0, 2)
        self.table.horizontalHeader().setVisible(False)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setWordWrap(True)
        self.images = QComboBox()
        self.show_image = QPushButton("Show")
        warning = QLabel(WARNING)
        warning.setWordWrap(True)
        row = QHBoxLayout()
        row.addWidget(self.images, stretch=1)
        row.addWidget(self.show_image)
        layout = QVBoxLayout(self)
        layout.addWidget(self.table)
        layout.addWidget(QLabel("Images beside the slide"))
        layout.addWidget(warning)
        layout.addLayout(row)
        self.show_image.clicked.connect(self._show_image)
        napari_viewer.layers.events.inserted.connect(self.refresh)
        napari_viewer.layers.events.removed.connect(self.refresh)
        napari_viewer.layers.selection.events.active.connect(self.refresh)
        self.refresh()

    def refresh(self, _: object = None) -> None:
        """Take over the slide that is looked at."""
        slide = slide_of(current_slide(self._viewer))
        rows = [] if slide is None else slide_properties(slide)
        self.table.setRowCount(len(rows))
        for number, cells in enumerate(rows):
            for column, text in enumerate(cells):
                self.table.setItem(number, column, QTableWidgetItem(text))
        self.table.resizeRowsToContents()
        self.images.clear()
        self.images.addItems([] if slide is None else list(slide.associated_names))
        self.show_image.setEnabled(self.images.count() > 0)

    def _show_image(self) -> None:
        layer, name = current_slide(self._viewer), self.images.currentText()
        slide = slide_of(layer)
        if slide is not None and name:
            show_associated(self._viewer, layer, slide, name)


def slide_of(layer: Any | None) -> Slide | None:
    """Return the open slide of a slide's layer."""
    if layer is None:
        return None
    level = layer.data[0] if layer.multiscale else layer.data
    found: Slide = level.pyramid.slide
    return found


def show_associated(viewer: Viewer, layer: Any, slide: Slide, name: str) -> None:
    """Add an associated image to the window, left of the slide and as high as it."""
    from napari.utils.notifications import show_error

    try:
        pixels = slide.read_associated(name)
    except WSIError as err:
        show_error(f"{name} is not shown: {err}")
        return
    height = layer.data.shape[0] * layer.scale[0]
    scale = height / pixels.shape[0]
    viewer.add_image(
        pixels,
        rgb=True,
        name=f"{layer.name} {name}",
        scale=(scale, scale),
        translate=(0, -1.05 * pixels.shape[1] * scale),
        units=layer.units,
        metadata={"kind": "associated", "path": layer.metadata["path"], "name": name},
    )
