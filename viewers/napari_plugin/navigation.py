"""The dock to find one's way: overview, magnification, rotation, colours, measuring, keys."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QCheckBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from viewers.colour_profile import to_srgb
from viewers.errors import ViewerError
from viewers.magnification import PRESETS
from viewers.napari_plugin.keys import bind, key_table, tooltip
from viewers.napari_plugin.looking import (
    current_slide,
    has_size,
    magnification,
    magnify,
    pyramid_of,
    show_whole,
    turn,
)
from viewers.napari_plugin.measure import Measure
from viewers.napari_plugin.overview import Overview

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Navigation(QWidget):
    """Overview, magnification, rotation, colours and measuring of the slide that is looked at."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self.overview = Overview(napari_viewer)
        self.measure = Measure(napari_viewer)
        self.magnification = QLabel()
        self.presets = [QPushButton(f"{preset:g}x") for preset in PRESETS]
        self.whole = QPushButton("Whole")
        self.angle = QSpinBox()
        self.angle.setRange(-180, 180)
        self.angle.setSuffix("°")
        self.angle.setToolTip("turn the slide, and all over it, about its middle")
        self.angle.setKeyboardTracking(False)
        self.left, self.right = QPushButton("⟲ 90°"), QPushButton("⟳ 90°")
        self.srgb = QCheckBox("colours by the slide's ICC profile")
        self.keys = QPushButton("Keys")
        self._sheet: QDialog | None = None
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        presets = QGridLayout()  # two rows: the dock stays narrow
        for number, button in enumerate(self.presets, start=1):
            button.setToolTip(tooltip(str(number)))
        self.whole.setToolTip(tooltip("0"))
        for place, button in enumerate((*self.presets, self.whole)):
            presets.addWidget(button, place // 3, place % 3)
        self.overview.setToolTip(f"{self.overview.toolTip()}; {tooltip('O')}")
        self.keys.setToolTip(tooltip("F1"))
        turning = QHBoxLayout()
        for widget in (self.left, self.angle, self.right):
            turning.addWidget(widget)
        layout = QVBoxLayout(self)
        layout.addWidget(self.overview)
        layout.addWidget(self.magnification)
        layout.addLayout(presets)
        layout.addLayout(turning)
        layout.addWidget(self.srgb)
        layout.addWidget(QLabel("Measure"))
        layout.addWidget(self.measure)
        layout.addWidget(self.keys)
        layout.addStretch()

    def _connect(self) -> None:
        viewer = self._viewer
        for number, (button, preset) in enumerate(zip(self.presets, PRESETS, strict=True), start=1):
            action = functools.partial(self.magnify, preset)
            button.clicked.connect(lambda _, action=action: action())
            bind(viewer, str(number), action)
        self.whole.clicked.connect(lambda: show_whole(viewer))
        bind(viewer, "0", lambda: show_whole(viewer))
        bind(viewer, "O", lambda: self.overview.setVisible(not self.overview.isVisible()))
        bind(viewer, "F1", self.show_keys)
        self.keys.clicked.connect(self.show_keys)
        self.angle.valueChanged.connect(self._turn)
        self.left.clicked.connect(lambda: self._turn_by(-90))
        self.right.clicked.connect(lambda: self._turn_by(90))
        self.srgb.clicked.connect(self._set_srgb)
        viewer.scene.camera.events.zoom.connect(self._say_magnification)
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.layers.events.removed.connect(self.refresh)
        viewer.layers.selection.events.active.connect(self.refresh)

    def refresh(self, _: object = None) -> None:
        """Take over the slide that is looked at."""
        slide = current_slide(self._viewer)
        profile = None if slide is None else pyramid_of(slide).slide.icc_profile
        self.srgb.setEnabled(profile is not None)
        self.srgb.setToolTip(
            "shows the scanner's colours as the screen's; models always see them as stored"
            if profile
            else "the slide has no ICC profile"
        )
        self.srgb.setChecked(slide is not None and pyramid_of(slide).to_display is not None)
        self._say_magnification()

    def magnify(self, wanted: float) -> None:
        """Look at the same place at magnification `wanted`."""
        slide = current_slide(self._viewer)
        if slide is None or not has_size(slide):
            from napari.utils.notifications import show_warning

            show_warning("magnification takes a slide whose pixel size is known")
            return
        magnify(self._viewer, slide, wanted)

    def _say_magnification(self, _: object = None) -> None:
        slide = current_slide(self._viewer)
        if slide is None:
            text = "no slide"
        elif not has_size(slide):
            text = "magnification unknown: the slide states no pixel size"
        else:
            zoom = self._viewer.scene.camera.zoom
            text = f"{magnification(self._viewer, slide):.3g}x, {1 / zoom:.3g} µm per screen pixel"
        self.magnification.setText(text)

    def _turn_by(self, degrees: int) -> None:
        self.angle.setValue((self.angle.value() + degrees + 180) % 360 - 180)

    def _turn(self, degrees: int) -> None:
        slide = current_slide(self._viewer)
        if slide is not None:
            turn(self._viewer, slide, degrees)

    def _inserted(self, event: Any) -> None:
        """Turn what is added as the slide is turned."""
        slide = current_slide(self._viewer)
        if slide is not None and event.value.ndim == 2 and event.value != slide:
            event.value.affine = slide.affine
        self.refresh()

    def _set_srgb(self, is_on: bool) -> None:
        slide = current_slide(self._viewer)
        if slide is None:
            return
        pyramid = pyramid_of(slide)
        profile = pyramid.slide.icc_profile
        try:
            pyramid.to_display = to_srgb(profile) if is_on and profile else None
        except ViewerError as err:
            from napari.utils.notifications import show_error

            self.srgb.setChecked(False)
            show_error(str(err))
            return
        slide.data = list(slide.data) if slide.multiscale else slide.data  # read anew
        # What is looked at is asked for again, at its own level.
        self._viewer.scene.camera.zoom *= 1

    def show_keys(self) -> None:
        """Show the sheet of all keys."""
        if self._sheet is not None:
            self._sheet.close()
        self._sheet = QDialog(self)
        self._sheet.setWindowTitle("Keys")
        layout = QGridLayout(self._sheet)
        row = 0
        for group, entries in key_table().items():
            layout.addWidget(QLabel(f"<b>{group}</b>"), row, 0, 1, 2)
            for number, entry in enumerate(entries, start=row + 1):
                layout.addWidget(QLabel(f"<code>{entry.key}</code>"), number, 0)
                layout.addWidget(QLabel(entry.does), number, 1)
            row += len(entries) + 1
        self._sheet.show()
