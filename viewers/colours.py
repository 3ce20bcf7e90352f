"""The colours that pictures and napari share; opacity rises, so that tissue stays visible."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

STEPS = 256
_HEAT = np.array(
    [
        # position, red, green, blue, opacity
        [0.00, 0.99, 0.91, 0.45, 0.00],
        [0.50, 0.99, 0.85, 0.30, 0.10],
        [0.75, 0.99, 0.60, 0.10, 0.40],
        [0.90, 0.93, 0.25, 0.05, 0.60],
        [1.00, 0.70, 0.00, 0.10, 0.72],
    ]
)


_TISSUE = np.array([[0.0, 0.0, 0.55, 0.55, 0.05], [1.0, 0.0, 0.45, 0.55, 0.35]])


def heat_colours() -> NDArray[np.float32]:
    """Return the colours of 0 to 1, clear to dark red, float32 RGBA, shape ``(256, 4)``."""
    return _ramp(_HEAT)


def tissue_colours() -> NDArray[np.float32]:
    """Return the colours of a share of tissue, faint to plain teal, shape ``(256, 4)``."""
    return _ramp(_TISSUE)


def colours(name: str) -> NDArray[np.float32]:
    """Return the colours of that name, one of `MAPS`, float32 RGBA, shape ``(256, 4)``."""
    return MAPS[name]()


def colours_from(colours: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Return `colours` clear below `threshold`, a part of their span from 0 to 1.

    Examples
    --------
    >>> clear = colours_from(np.ones((256, 4), np.float32), 0.5)[:, 3] == 0
    >>> int(clear.sum()), bool(clear[127]), bool(clear[128])
    (128, True, False)
    """
    found = colours.copy()
    found[: round(threshold * len(colours)), 3] = 0
    return found


def _rising(name: str) -> NDArray[np.float32]:
    """Return one of matplotlib's maps with opacity that rises."""
    import matplotlib as mpl

    found = mpl.colormaps[name](np.linspace(0, 1, STEPS)).astype(np.float32)
    found[:, 3] = np.linspace(0.0, 0.75, STEPS)
    return found


def _diverging() -> NDArray[np.float32]:
    """Return blue for what is negative, red for what is positive, clear between them."""
    position = np.linspace(-1, 1, STEPS, dtype=np.float32)
    found = np.empty((STEPS, 4), np.float32)
    found[:, :3] = np.where(position[:, None] < 0, (0.05, 0.25, 0.75), (0.75, 0.05, 0.1))
    found[:, 3] = 0.75 * np.abs(position)
    return found


def _ramp(anchors: NDArray[np.float64]) -> NDArray[np.float32]:
    positions = np.linspace(0, 1, STEPS)
    channels = [np.interp(positions, anchors[:, 0], anchors[:, c]) for c in range(1, 5)]
    return np.stack(channels, axis=1).astype(np.float32)


MAPS: dict[str, Callable[[], NDArray[np.float32]]] = {
    "heat": heat_colours,
    "tissue": tissue_colours,
    "blue-red": _diverging,
    "viridis": functools.partial(_rising, "viridis"),
    "cividis": functools.partial(_rising, "cividis"),
    "magma": functools.partial(_rising, "magma"),
}
"""Colours by name; all but blue-red rise from clear to opaque."""
