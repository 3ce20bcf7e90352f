"""A slide without coarse levels: drawn as they are read, with a progress bar."""

from __future__ import annotations

from typing import Any

from napari.utils import progress
from napari.utils.notifications import show_info
from qtpy.QtCore import QTimer

from viewers.levels import SlideLevel, SlidePyramid
from viewers.preview import Preview

INTERVAL_MS = 500
_followed: list[Following] = []


def follow(pyramid: SlidePyramid, preview: Preview) -> None:
    """Say that a slide's coarse levels are read, and draw them as they come."""
    if preview.done < 1 and not any(one.preview is preview for one in _followed):
        show_info(
            f"{pyramid.slide.name} stores no smaller picture of itself: the whole slide is read "
            "once for it, which may take minutes. What is read is shown as it comes; zoom in to "
            "look at once. Stored as a pyramid (`vips tiffsave --pyramid --tile`) it opens at once."
        )
        _followed.append(Following(pyramid, preview))


class Following:
    """Draws a preview anew while it grows, and stops it when its slide is no longer shown."""

    def __init__(self, pyramid: SlidePyramid, preview: Preview) -> None:
        self.preview = preview
        self._done = 0.0
        self._was_shown = False
        self._progress = progress(total=100, desc=f"reading {pyramid.slide.name}")
        self._timer = QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self.look)
        self._timer.start()

    def look(self) -> None:
        """Draw what came since the last look."""
        shown = self._layers()
        if not shown and self._was_shown:
            self.preview.stop()
            self._end()
            return
        self._was_shown = bool(shown)
        done = self.preview.done
        if shown and done > self._done:
            self._done = done
            for layer in shown:
                layer.refresh(extent=False, force=True)
            self._progress.update(int(100 * done) - self._progress.n)
        if self._done == 1:
            self._end()

    def _layers(self) -> list[Any]:
        import napari

        viewer = napari.current_viewer()
        layers = [] if viewer is None else list(viewer.layers)
        return [layer for layer in layers if self._is_of(layer)]

    def _is_of(self, layer: Any) -> bool:
        level = layer.data[0] if getattr(layer, "multiscale", False) else None
        return isinstance(level, SlideLevel) and level.pyramid.preview is self.preview

    def _end(self) -> None:
        self._timer.stop()
        self._progress.close()
        _followed.remove(self)
