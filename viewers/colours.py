"""The heat colours that pictures and napari share: clear where low, dark red where high."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 256
_ANCHORS = np.array(
    [
        # position, red, green, blue, opacity
        [0.00, 0.99, 0.91, 0.45, 0.00],
        [0.50, 0.99, 0.85, 0.30, 0.10],
        [0.75, 0.99, 0.60, 0.10, 0.40],
        [0.90, 0.93, 0.25, 0.05, 0.60],
        [1.00, 0.70, 0.00, 0.10, 0.72],
    ]
)


def heat_colours() -> NDArray[np.float32]:
    """Return the colours of 0 to 1, float32 RGBA, shape ``(256, 4)``, opacity rising."""
    positions = np.linspace(0, 1, STEPS)
    channels = [np.interp(positions, _ANCHORS[:, 0], _ANCHORS[:, c]) for c in range(1, 5)]
    return np.stack(channels, axis=1).astype(np.float32)
