"""What a right reader must give, written without any of the project's code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SLOPE = 2
"""Grey levels per level-0 px: half a pixel changes a value by one."""
PERIOD_PX = 255
"""After how many px a ramp begins again; no multiple or part of a stored tile."""
WHITE = 255.0


def area_mean(
    level0: NDArray[np.uint8],
    location: tuple[int, int],
    extent: tuple[int, int],
    size: tuple[int, int],
) -> NDArray[np.float64]:
    """Return the mean of each result pixel's own area of level 0, white outside.

    Sums over whole rows and columns, interpolated at the fractions where areas meet: exact for
    pixels of constant colour.

    Parameters
    ----------
    location
        x0, y0 of the rectangle.
    extent, size
        (width, height) of it at level 0, and of the result.

    Returns
    -------
    float64, shape ``(height, width, 3)``, 0 to 255.
    """
    (x0, y0), (width, height) = location, extent
    part = np.full((height, width, 3), WHITE)
    top, left = max(y0, 0), max(x0, 0)
    inside = level0[top : max(y0 + height, 0), left : max(x0 + width, 0)]
    part[top - y0 : top - y0 + inside.shape[0], left - x0 : left - x0 + inside.shape[1]] = inside
    return _mean_along(_mean_along(part, size[1], 0), size[0], 1)


def _mean_along(values: NDArray[np.float64], count: int, axis: int) -> NDArray[np.float64]:
    lines = np.moveaxis(values, axis, 0)
    length = len(lines)
    sums = np.concatenate([np.zeros_like(lines[:1]), lines.cumsum(axis=0)])
    edges = np.arange(count + 1) * length / count
    whole = np.minimum(edges.astype(int), length - 1)
    part = (edges - whole)[:, None, None]
    at_edges = sums[whole] * (1 - part) + sums[whole + 1] * part
    return np.moveaxis(np.diff(at_edges, axis=0) * count / length, 0, axis)


def coded_ramps(width: int, height: int) -> NDArray[np.uint8]:
    """Return pixels that say where they are: red follows x, green y, blue the cell.

    Red and green rise and fall by `SLOPE` a pixel (their middles are exact), so that a mean over
    any area is its middle's position, to a fraction of a pixel; a shift moves rising and falling
    ramps apart. Blue numbers the periods, so that no shift by a whole period hides.
    """
    x, y = np.arange(width), np.arange(height)
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = ramp(x + 0.5)
    pixels[..., 1] = ramp(y + 0.5)[:, None]
    pixels[..., 2] = x // PERIOD_PX % 16 * 16 + (y // PERIOD_PX % 16)[:, None]
    return pixels


def ramp(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value at a level-0 position, px."""
    within = position % PERIOD_PX
    return SLOPE * np.minimum(within, PERIOD_PX - within)


def shifts(
    found: NDArray[np.uint8], location: tuple[int, int], extent: tuple[float, float]
) -> tuple[float, float]:
    """Return by how much `found` lies to the right of, and below, where it should, level-0 px.

    Where a ramp turns nothing is measured, and brightness does not count: a brighter picture moves
    rising and falling ramps alike.
    """
    return _shift(found[..., 0], 1, location[0], extent[0]), _shift(
        found[..., 1], 0, location[1], extent[1]
    )


def _shift(values: NDArray[np.uint8], axis: int, start: int, extent: float) -> float:
    count = values.shape[axis]
    step = extent / count
    position = start + (np.arange(count) + 0.5) * step
    within = position % PERIOD_PX
    turning = np.minimum.reduce([within, PERIOD_PX - within, np.abs(within - PERIOD_PX / 2)])
    is_ramp = turning > max(4 * step, 12)
    error = values.astype(float).mean(axis=1 - axis) - ramp(position)
    rising = is_ramp & (within < PERIOD_PX / 2)
    falling = is_ramp & (within > PERIOD_PX / 2)
    assert rising.any(), "too small a part to measure a shift in"
    assert falling.any(), "too small a part to measure a shift in"
    return float(error[falling].mean() - error[rising].mean()) / 2 / SLOPE
