"""The box around the region in review."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from viewers.napari_plugin.scene import ShownSlide
from viewers.review.regions import RankedRegion

if TYPE_CHECKING:
    from napari.layers import Shapes
    from napari.viewer import Viewer

EDGE_PX = 3
"""Width of the edge on the screen, whatever the zoom."""
NAME, COLOUR = "region in review", "#00e5ff"


class RegionMarker:
    """One box on the slide; its layer says which tiles the region has, for the other docks."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self.layer: Shapes | None = None
        viewer.scene.camera.events.zoom.connect(self._fit_edge)

    def mark(self, slide: ShownSlide, region: RankedRegion) -> None:
        """Draw the box around a region."""
        box = region.box
        y0, x0, y1, x1 = box.y0, box.x0, box.y0 + box.height, box.x0 + box.width
        corners = np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], float)
        if self.layer is None or self.layer not in self._viewer.layers:
            self.layer = self._add(slide, corners)
        else:
            self.layer.data = [corners]
        self.layer.shape_type = "polygon"
        self.layer.metadata = {
            "kind": "marker", "rank": region.rank, "tiles": region.tiles.tolist(),
        }  # fmt: skip
        self._fit_edge()

    def _add(self, slide: ShownSlide, corners: np.ndarray) -> Shapes:
        from napari.layers import Shapes

        active = self._viewer.layers.selection.active
        layer = Shapes(
            [corners], shape_type="polygon", name=NAME, face_color="transparent",
            edge_color=COLOUR, edge_width=1, metadata={"kind": "marker"}, **slide.placement,
        )  # fmt: skip
        self.layer = layer  # before it is inserted: the review looks for it
        self._viewer.add_layer(layer)
        layer.editable = False
        # The mark must not take the keys: A would select its shapes.
        self._viewer.layers.selection.active = active or slide.layer
        return layer

    def remove(self) -> None:
        """Take the box away."""
        if self.layer is not None and self.layer in self._viewer.layers:
            self._viewer.layers.remove(self.layer)
        self.layer = None

    def close(self) -> None:
        """Take the box away, and let go of the viewer."""
        self._viewer.scene.camera.events.zoom.disconnect(self._fit_edge)
        self.remove()

    def _fit_edge(self, *_: object) -> None:
        if self.layer is not None and self.layer in self._viewer.layers:
            width = EDGE_PX / (self._viewer.scene.camera.zoom * float(self.layer.scale[-1]))
            self.layer.edge_width = [width] * len(self.layer.data)
