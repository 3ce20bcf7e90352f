"""Ask for the pixel size of a slide that states none; once, the answer is kept for that slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QLabel,
    QWidget,
)

from tiling.resolution import PLAUSIBLE_MPP

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

TEXT = (
    "{name} does not state its pixel size, and without it there is no magnification, no scale "
    "bar and no measuring. Typical: 0.25 µm at 40x, 0.5 µm at 20x. The answer is kept for this "
    "slide."
)

_open: list[PixelSizeDialog] = []


class PixelSizeDialog(QDialog):
    """Asks for µm per pixel; does not block the window."""

    def __init__(self, viewer: Viewer, path: str, name: str, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Pixel size")
        self._viewer, self._path = viewer, path
        self.size_um = QDoubleSpinBox()
        self.size_um.setRange(*PLAUSIBLE_MPP)
        self.size_um.setDecimals(4)
        self.size_um.setSingleStep(0.01)
        self.size_um.setValue(0.25)
        self.size_um.setSuffix(" µm per pixel")
        text = QLabel(TEXT.format(name=name))
        text.setWordWrap(True)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QFormLayout(self)
        layout.addRow(text)
        layout.addRow("Pixel size", self.size_um)
        layout.addRow(buttons)

    def accept(self) -> None:
        """Keep the answer, and show the slide with it."""
        from napari.utils.notifications import show_warning

        from viewers.pixel_sizes import remember_mpp

        mpp = self.size_um.value()
        try:
            remember_mpp(self._path, mpp)
        except OSError as err:
            show_warning(f"the pixel size holds for now, but could not be kept: {err}")
        for layer in slides_without_size(self._viewer, self._path):
            set_pixel_size(layer, mpp)
        self._viewer.reset_view()
        super().accept()


def ask_later(path: str) -> None:
    """Ask as soon as the slide's layer is there."""
    QTimer.singleShot(0, lambda: ask(path))


def ask(path: str) -> PixelSizeDialog | None:
    """Open the dialog for the slide at `path`; None where its layer is gone or has a size."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None or not slides_without_size(viewer, path):
        return None
    name = slides_without_size(viewer, path)[0].name
    dialog = PixelSizeDialog(viewer, path, name, QApplication.activeWindow())
    _open.append(dialog)  # or the collector would close it
    dialog.finished.connect(lambda _: _open.remove(dialog))
    dialog.open()
    return dialog


def slides_without_size(viewer: Viewer, path: str) -> list[Layer]:
    """Return the layers of the slide at `path` that are still shown in pixels."""
    return [
        layer
        for layer in viewer.layers
        if layer.metadata.get("path") == path and layer.metadata.get("mpp") is None
    ]


def set_pixel_size(layer: Any, mpp: float) -> None:
    """Show a slide's layer in µm."""
    layer.units = ("um", "um")
    layer.scale = (mpp, mpp)
    layer.metadata |= {"mpp": (mpp, mpp), "mpp_source": "user"}
