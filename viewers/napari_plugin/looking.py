"""Where the window looks: which slide, at what magnification, turned by how much."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from viewers.magnification import magnification_of, zoom_of

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from viewers.levels import SlidePyramid


def current_slide(viewer: Viewer) -> Any | None:
    """Return the slide's layer that is looked at: the selected one, or the lowest; None if none."""
    slides = [layer for layer in viewer.layers if layer.metadata.get("kind") == "slide"]
    active = viewer.layers.selection.active
    return active if active in slides else next(iter(slides), None)


def pyramid_of(slide: Any) -> SlidePyramid:
    """Return the levels that a slide's layer shows."""
    level = slide.data[0] if slide.multiscale else slide.data
    found: SlidePyramid = level.pyramid
    return found


def has_size(slide: Any | None) -> bool:
    """Whether the slide's pixel size is known, so that µm and magnification mean something."""
    return slide is not None and slide.metadata.get("mpp") is not None


def magnification(viewer: Viewer, slide: Any) -> float:
    """Return the magnification that is looked at."""
    mpp = max(slide.metadata["mpp"])
    return magnification_of(viewer.scene.camera.zoom, mpp, slide.metadata.get("objective"))


def magnify(viewer: Viewer, slide: Any, wanted: float) -> None:
    """Look at the same place at another magnification."""
    mpp = max(slide.metadata["mpp"])
    viewer.scene.camera.zoom = zoom_of(wanted, mpp, slide.metadata.get("objective"))


def look_at(
    viewer: Viewer, slide: Any, center: tuple[float, float], wanted: float | None = None
) -> None:
    """Look at a place of the slide, however it is turned.

    Parameters
    ----------
    center
        (x0, y0), level-0 px.
    wanted
        Magnification; as it is if not given.
    """
    place = slide.data_to_world((center[1], center[0]))
    viewer.scene.camera.center = tuple(place[-2:])
    if wanted is not None and has_size(slide):
        magnify(viewer, slide, wanted)


def field_of_view(viewer: Viewer, slide: Any) -> NDArray[np.float64]:
    """Return the corners of what is looked at, (x0, y0) in level-0 px, shape ``(4, 2)``."""
    height, width = viewer.canvas.viewbox_size(viewer.layers)
    zoom = viewer.scene.camera.zoom
    y, x = viewer.scene.camera.center[-2:]
    half = np.array([height, width]) / 2 / zoom
    corners = [(y + down * half[0], x + right * half[1])
               for down, right in ((-1, -1), (-1, 1), (1, 1), (1, -1))]  # fmt: skip
    return np.array([slide.world_to_data(corner)[-2:][::-1] for corner in corners])


def show_whole(viewer: Viewer) -> None:
    """Look at everything."""
    viewer.reset_view()


def turned(degrees: float, center: tuple[float, float]) -> NDArray[np.float64]:
    """Return the affine that turns (y, x) clockwise on screen about `center`, shape ``(3, 3)``.

    Examples
    --------
    >>> quarter = turned(90, (10.0, 20.0))
    >>> (quarter @ (10, 25, 1)).round(6).tolist(), (quarter @ (10, 20, 1)).round(6).tolist()
    ([15.0, 20.0, 1.0], [10.0, 20.0, 1.0])
    """
    angle = math.radians(degrees)
    linear = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    found = np.eye(3)
    found[:2, :2] = linear
    found[:2, 2] = np.array(center) - linear @ center
    return found


def turn(viewer: Viewer, slide: Any, degrees: float) -> None:
    """Turn the slide, and all that lies over it, about the slide's middle; 0 is as scanned."""
    shape = np.array(slide.data.shape[:2])
    middle = tuple((shape - 1) / 2 * slide.scale[-2:])
    affine = turned(degrees, (float(middle[0]), float(middle[1])))
    place = slide.world_to_data(viewer.scene.camera.center[-2:])
    for layer in viewer.layers:
        if layer.ndim == 2:
            layer.affine = affine
    # What was looked at stays in the middle.
    viewer.scene.camera.center = tuple(slide.data_to_world(place)[-2:])
