"""The colours that pictures and napari share; opacity rises, so that tissue stays visible."""

from __future__ import annotations

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


def _ramp(anchors: NDArray[np.float64]) -> NDArray[np.float32]:
    positions = np.linspace(0, 1, STEPS)
    channels = [np.interp(positions, anchors[:, 0], anchors[:, c]) for c in range(1, 5)]
    return np.stack(channels, axis=1).astype(np.float32)
