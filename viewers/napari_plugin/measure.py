"""Measuring: draw a line or an outline, and its length or area stands beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from viewers.measures import area_um2, length_um, written_area, written_length
from viewers.napari_plugin.keys import bind, tooltip
from viewers.napari_plugin.looking import current_slide, has_size

if TYPE_CHECKING:
    from napari.layers import Shapes
    from napari.viewer import Viewer

NAME = "measurements"
COLOUR = "#00a000"


class Measure(QWidget):
    """Buttons for lengths and areas, and what was measured last."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.length = QPushButton("Length")
        self.area = QPushButton("Area")
        self.last = QLabel()
        for button in (self.length, self.area):
            button.setCheckable(True)
            button.setToolTip(tooltip("M"))
        row = QHBoxLayout()
        row.addWidget(self.length)
        row.addWidget(self.area)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(row)
        layout.addWidget(self.last)
        self.length.clicked.connect(lambda on: self.measure("add_line" if on else ""))
        self.area.clicked.connect(lambda on: self.measure("add_polygon" if on else ""))
        bind(napari_viewer, "M", self.next_kind)
        napari_viewer.layers.selection.events.active.connect(self._show_mode)

    def next_kind(self) -> None:
        """From nothing to lengths, to areas, and back."""
        kinds = {"": "add_line", "add_line": "add_polygon", "add_polygon": ""}
        self.measure(kinds[self._kind()])

    def measure(self, kind: str) -> None:
        """Start drawing lines (``"add_line"``) or outlines (``"add_polygon"``), or stop ("")."""
        slide = current_slide(self._viewer)
        if kind and not has_size(slide):
            from napari.utils.notifications import show_warning

            self._show_mode()
            show_warning("measuring takes a slide whose pixel size is known; open it again and "
                         "answer what is asked")  # fmt: skip
            return
        layer = self._layer(slide) if kind else self._existing()
        if layer is None:
            return
        layer.mode = kind or "pan_zoom"
        self._viewer.layers.selection.active = layer if kind else slide
        self._show_mode()

    def _kind(self) -> str:
        layer = self._existing()
        if layer is None or self._viewer.layers.selection.active != layer:
            return ""
        return str(layer.mode) if str(layer.mode) in ("add_line", "add_polygon") else ""

    def _show_mode(self, _: object = None) -> None:
        kind = self._kind()
        self.length.setChecked(kind == "add_line")
        self.area.setChecked(kind == "add_polygon")

    def _existing(self) -> Shapes | None:
        found = (x for x in self._viewer.layers if x.metadata.get("kind") == NAME)
        return next(found, None)

    def _layer(self, slide: Any) -> Shapes:
        """Return the layer that is drawn on, its coordinates µm like the slide's."""
        layer = self._existing()
        if layer is not None:
            return layer
        layer = self._viewer.add_shapes(
            name=NAME,
            ndim=2,
            units=("um", "um"),
            affine=slide.affine,
            edge_color=COLOUR,
            face_color="transparent",
            edge_width=2 / self._viewer.scene.camera.zoom,
            features={"size": np.empty(0, object)},
            text={"string": "{size}", "color": "black", "size": 14, "anchor": "upper_left"},
            metadata={"kind": NAME},
        )
        layer.bind_key("M", lambda _: self.next_kind(), overwrite=True)
        layer.events.data.connect(self._write)
        return layer

    def _write(self, event: Any) -> None:
        """Write the sizes once the drawing is whole; not from within napari's own change."""
        QTimer.singleShot(0, self.write)

    def write(self) -> None:
        """Write each shape's size beside it."""
        layer = self._existing()
        if layer is None:
            return
        sizes = [
            written_length(length_um(points))
            if kind in ("line", "path")
            else written_area(area_um2(points))
            for points, kind in zip(layer.data, layer.shape_type, strict=True)
        ]
        if list(layer.features.get("size", [])) != sizes:
            layer.features = {"size": np.array(sizes, object)}
            layer.refresh_text()
        self.last.setText(sizes[-1] if sizes else "")
