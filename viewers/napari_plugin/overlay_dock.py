"""The dock of overlays: which is shown, threshold, opacity and colours, several side by side."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.qt.threading import thread_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from viewers.napari_plugin.keys import bind, tooltip
from viewers.overlays import colour_map, colour_names, shown, value_text

if TYPE_CHECKING:
    from napari.viewer import Viewer

STEPS = 100
BAR_PX = (220, 14)
COPY_OF = "side-by-side copy"
TISSUE, OUTLINE_COLOUR, OUTLINE_UM = "tissue outline", "#00c853", 8.0
"""The line is as wide as a pixel of the mask."""


class OverlayDock(QWidget):
    """Shows and hides overlays and says what lies under the cursor."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._hidden: list[Any] = []
        self.which = QComboBox()
        self.visible = QCheckBox("shown")
        self.scale = QComboBox()
        self.scale.addItems(["percentile", "raw"])
        self.threshold, self.opacity = _slider(), _slider()
        self.colours = QComboBox()
        self.colours.addItems(list(colour_names()))
        self.bar, self.low, self.high = QLabel(), QLabel(), QLabel()
        self.bar.setScaledContents(True)
        self.value = QLabel()
        self.value.setWordWrap(True)
        self.score = QLabel()
        self.score.setWordWrap(True)
        self.toggle = QPushButton("Hide or show all")
        self.tissue = QCheckBox("tissue outline")
        self.side_by_side = QCheckBox("models side by side")
        self._lay_out()
        self._connect()
        bind(napari_viewer, "H", self.toggle_all)
        self.refresh()

    def _lay_out(self) -> None:
        self.toggle.setToolTip(tooltip("H"))
        self.scale.setToolTip("percentile: the rank among the slide's tiles; raw: as stored")
        self.threshold.setToolTip("what lies below is clear; the other colours stay as they are")
        self.side_by_side.setToolTip("each model's attention in a field of its own, moved together")
        self.tissue.setToolTip("where tissue was found; the slide is looked at for it")
        form = QFormLayout()
        form.addRow("Overlay", self.which)
        form.addRow("", self.visible)
        form.addRow("Values", self.scale)
        form.addRow("Threshold", self.threshold)
        form.addRow("Opacity", self.opacity)
        form.addRow("Colours", self.colours)
        ends = QHBoxLayout()
        ends.addWidget(self.low)
        ends.addStretch()
        ends.addWidget(self.high)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.bar)
        layout.addLayout(ends)
        layout.addWidget(self.score)
        layout.addWidget(self.value)
        layout.addWidget(self.toggle)
        layout.addWidget(self.tissue)
        layout.addWidget(self.side_by_side)
        layout.addStretch()

    def _connect(self) -> None:
        self.which.currentIndexChanged.connect(self._show_settings)
        self.visible.clicked.connect(self._set_visible)
        self.scale.activated.connect(self._apply)
        self.colours.activated.connect(self._apply)
        self.threshold.valueChanged.connect(self._apply)
        self.opacity.valueChanged.connect(self._apply)
        self.toggle.clicked.connect(self.toggle_all)
        self.tissue.clicked.connect(self._set_tissue)
        self.side_by_side.clicked.connect(self._set_side_by_side)
        self._viewer.layers.events.inserted.connect(self.refresh)
        self._viewer.layers.events.removed.connect(self.refresh)
        self._viewer.mouse_move_callbacks.append(self._say_value)

    def overlays(self) -> list[Any]:
        """Return the layers that are overlays, in the order of the list."""
        return [layer for layer in self._viewer.layers if layer.metadata.get("kind") == "overlay"]

    def refresh(self, _: object = None) -> None:
        """Take over the viewer's overlays."""
        found = self.overlays()
        for layer in found:
            _say_in_status_bar(layer)
        kept = self.which.currentText()
        names = [layer.name for layer in found]
        if names != [self.which.itemText(i) for i in range(self.which.count())]:
            self.which.blockSignals(True)
            self.which.clear()
            self.which.addItems(names)
            shown_first = next((i for i, layer in enumerate(found) if layer.visible), 0)
            self.which.setCurrentIndex(names.index(kept) if kept in names else shown_first)
            self.which.blockSignals(False)
        self._show_settings()

    def current(self) -> Any | None:
        """Return the overlay that the dock speaks of."""
        found, index = self.overlays(), self.which.currentIndex()
        return found[index] if 0 <= index < len(found) else None

    def toggle_all(self) -> None:
        """Hide the overlays that are shown, or show again what was hidden so."""
        visible = [layer for layer in [*self.overlays(), *self._outlines()] if layer.visible]
        if visible:
            self._hidden = visible
        for layer in visible or [h for h in self._hidden if h in self._viewer.layers]:
            layer.visible = not visible
        self._show_settings()

    def _outlines(self) -> list[Any]:
        return [x for x in self._viewer.layers if x.metadata.get("kind") == TISSUE]

    def _set_tissue(self, is_on: bool) -> None:
        """Show the tissue's outline, which a thread finds, or take it away."""
        for layer in self._outlines():
            self._viewer.layers.remove(layer)
        slides = [x for x in self._viewer.layers if x.metadata.get("kind") == "slide"]
        if not is_on or not slides:
            self.tissue.setChecked(False)
            return
        said = slides[0].metadata
        worker = thread_worker(_found_tissue)(said["path"], said.get("mpp"))
        worker.returned.connect(partial(self._show_tissue, slides[0]))
        worker.start()

    def _show_tissue(self, slide: Any, found: list[Any] | str) -> None:
        if isinstance(found, str):
            show_error(found)
            self.tissue.setChecked(False)
        elif self.tissue.isChecked() and slide in self._viewer.layers:
            add_outlines(self._viewer, slide, found)

    def _set_visible(self, is_on: bool) -> None:
        layer = self.current()
        if layer is not None:
            layer.visible = is_on

    def _show_settings(self, _: object = None) -> None:
        """Show the current overlay's settings, changing nothing."""
        layer = self.current()
        controls = (self.visible, self.scale, self.threshold, self.opacity, self.colours)
        for control in controls:
            control.setEnabled(layer is not None)
            control.blockSignals(True)
        if layer is not None:
            self.visible.setChecked(layer.visible)
            self.scale.setCurrentText(layer.metadata["scale"])
            self.scale.setEnabled(layer.metadata["ranks"] is not None)
            self.colours.setCurrentText(layer.metadata["colours"])
            self.threshold.setValue(round(layer.metadata["threshold"] * STEPS))
            self.opacity.setValue(round(layer.opacity * STEPS))
        for control in controls:
            control.blockSignals(False)
        self._draw_bar()

    def _apply(self, _: object = None) -> None:
        layer = self.current()
        if layer is None:
            return
        said = layer.metadata
        before = said["scale"]
        said["scale"] = self.scale.currentText()
        said["colours"] = self.colours.currentText()
        said["threshold"] = self.threshold.value() / STEPS
        layer.opacity = self.opacity.value() / STEPS
        if said["scale"] != before:
            data, limits = shown(said)
            layer.data = data
            layer.contrast_limits_range = limits
            layer.contrast_limits = limits
        layer.colormap = colour_map(said)
        self._draw_bar()

    def _draw_bar(self) -> None:
        layer = self.current()
        if layer is None:
            self.bar.clear()
            for label in (self.low, self.high, self.score):
                label.setText("")
            return
        colours = np.asarray(colour_map(layer.metadata)["colors"])
        low, high = (limit / layer.metadata.get("full", 1.0) for limit in layer.contrast_limits)
        is_rank = layer.metadata["scale"] == "percentile"
        self.low.setText("0 %" if is_rank else f"{low:.3g}")
        self.high.setText("100 %" if is_rank else f"{high:.3g}")
        columns = np.linspace(0, len(colours) - 1, BAR_PX[0]).astype(int)
        over_white = colours[columns, :3] * colours[columns, 3:] + 1 - colours[columns, 3:]
        row = (255 * over_white).astype(np.uint8)
        pixels = np.ascontiguousarray(np.broadcast_to(row, (BAR_PX[1], *row.shape)))
        image = QImage(pixels.tobytes(), *BAR_PX, 3 * BAR_PX[0], QImage.Format.Format_RGB888)
        self.bar.setPixmap(QPixmap.fromImage(image))
        scores = layer.metadata.get("scores", {})
        self.score.setText(", ".join(f"{name} {score:.3f}" for name, score in scores.items()))

    def _say_value(self, viewer: Any, event: Any) -> None:
        texts = (text_at(layer, event.position) for layer in self.overlays() if layer.visible)
        self.value.setText("\n".join(text for text in texts if text))

    def _set_side_by_side(self, is_on: bool) -> None:
        """Give each model's attention a field with a slide of its own under it."""
        viewer = self._viewer
        for layer in [x for x in viewer.layers if x.metadata.get("kind") == COPY_OF]:
            viewer.layers.remove(layer)
        slides = [x for x in viewer.layers if x.metadata.get("kind") == "slide"]
        models = [x for x in self.overlays() if x.metadata["what"] == "attention"]
        if not is_on or not slides or len(models) < 2:
            viewer.canvas.grid.enabled = False
            self.side_by_side.setChecked(False)
            for model in models[1:]:  # or one would be seen through the other
                model.visible = False
            if is_on:
                from napari.utils.notifications import show_warning

                show_warning("side by side takes a slide and the attention of two models or more")
            return
        others = [x for x in viewer.layers if x not in models and x != slides[0]]
        pairs = [(slides[0], models[0])]
        pairs += [(_copy(viewer, slides[0]), model) for model in models[1:]]
        for layer in others:
            layer.visible = False
        order = [*(layer for pair in pairs for layer in pair), *others]
        for index, layer in enumerate(order):
            viewer.layers.move(viewer.layers.index(layer), index)
        for model in models:
            model.visible = True
        viewer.canvas.grid.stride = 2
        viewer.canvas.grid.enabled = True
        self.refresh()


def add_outlines(viewer: Viewer, slide: Any, rings: list[Any]) -> Any:
    """Draw rings, level-0 px (y, x), over a slide, and leave the slide selected."""
    scale = slide.scale[-2:]
    active = viewer.layers.selection.active
    layer = viewer.add_shapes(
        rings, ndim=2, shape_type="path", name=TISSUE, edge_color=OUTLINE_COLOUR,
        face_color="transparent", edge_width=OUTLINE_UM / float(scale[0]), scale=scale,
        translate=slide.translate[-2:] - scale / 2, units=slide.units[-2:], affine=slide.affine,
        metadata={"kind": TISSUE},
    )  # fmt: skip
    viewer.layers.selection.active = active
    return layer


def _found_tissue(path: str, mpp: Any) -> list[Any] | str:
    """Return the rings, or in words why there are none."""
    from tiling.errors import WSIError
    from viewers.tissue_outline import tissue_outlines

    try:
        return tissue_outlines(path, mpp) or f"{path}: no tissue was found"
    except (WSIError, OSError) as err:
        return str(err)


def _copy(viewer: Viewer, slide: Any) -> Any:
    """Return a second layer of a slide's levels, whose decoded chunks both share."""
    return viewer.add_image(
        list(slide.data) if slide.multiscale else slide.data,
        rgb=True,
        multiscale=slide.multiscale,
        scale=slide.scale,
        units=slide.units,
        affine=slide.affine,
        name=f"{slide.name} beside",
        metadata={**slide.metadata, "kind": COPY_OF},
    )


def text_at(layer: Any, position: Any) -> str:
    """Return what an overlay holds at a place in the world; "" where it holds nothing."""
    if layer.metadata["raw"] is None:  # too large to be held: what is drawn there
        value = layer.get_value(position, world=True)
        value = value[-1] if isinstance(value, tuple) else value
        return "" if value is None else f"{layer.name} {value / layer.metadata['full']:.3g}"
    row, column = (round(float(v)) for v in layer.world_to_data(position)[-2:])
    return value_text(layer.metadata, row, column)


def _say_in_status_bar(layer: Any) -> None:
    """Let napari's status bar say the stored value and its rank, not the number that is drawn."""
    if layer.metadata.get("has_status"):
        return
    layer.metadata["has_status"] = True
    plain = layer.get_status

    def status(position: Any = None, **options: Any) -> dict[str, str]:
        found: dict[str, str] = plain(position, **options)
        if position is not None and options.get("world"):
            found["value"] = text_at(layer, position) or "no tile"
            found["coordinates"] = found["value"]
        return found

    layer.get_status = status


def _slider() -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, STEPS)
    return slider
