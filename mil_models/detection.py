"""From a map of scores to single detections: connected components, or non-maximum suppression.

References
----------
CAMELYON16 scores points, `probability, x, y`: one in a lesion finds it, each outside is a false
positive. Wang et al. 2016, arXiv:1606.05718, section 3.4 (components of a thresholded map); Li and
Ping 2018, arXiv:1806.07064, section 4.2 (suppression around each maximum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label, regionprops

Floats = NDArray[np.floating]
Method = Literal["components", "nms"]
NMS_RADIUS_UM = 75.0
"""Nothing nearer than this to a maximum is one: CAMELYON counts foci so close as one lesion."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A lesion found at level-0 pixel `x0`, `y0`, with the map's highest value there."""

    score: float
    x0: int
    y0: int


@dataclass(frozen=True, slots=True)
class Component:
    """A connected part of a map above a threshold.

    `cells` of the map it holds; its centre of highest value; `diameter_px`, the longest distance
    between two corners of its cells in level-0 px.
    """

    score: float
    x0: int
    y0: int
    cells: int
    diameter_px: float


def detect(
    values: Floats,
    *,
    cell_px: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
    threshold: float = 0.5,
    min_area: int = 1,
    method: Method = "components",
    radius_px: float | None = None,
) -> list[Detection]:
    """Return the detections in a map, the highest score first.

    Parameters
    ----------
    values
        Probabilities, shape ``(rows, columns)``; NaN where there is no tile.
    cell_px
        (width, height) of a cell of the map, level-0 px.
    origin
        x0, y0 of the map's top left corner.
    threshold
        Cells below it are no lesion.
    min_area
        Cells that a component must have at least; nms takes no account of it.
    method
        components: one detection for each 8-connected component, at its highest cell (of equal
        ones that next to the centroid). nms: the highest cell, then the highest of those further
        than `radius_px` from it, and so on.
    radius_px
        See method, level-0 px between centres; must be given for nms.

    Raises
    ------
    ValueError
        The map is not of two axes, holds what is no probability, or an argument is out of range.
    """
    _check(values, threshold, min_area)
    if method == "nms":
        if radius_px is None or not radius_px >= 0:
            raise ValueError(f"radius_px={radius_px}: must be 0 or more for nms")
        return _maxima(values, cell_px, origin, threshold, radius_px)
    if method != "components":
        raise ValueError(f"method={method!r}: use components or nms")
    found = components(values, cell_px=cell_px, origin=origin, threshold=threshold)
    return [Detection(c.score, c.x0, c.y0) for c in found if c.cells >= min_area]


def components(
    values: Floats,
    *,
    cell_px: tuple[float, float],
    origin: tuple[float, float] = (0.0, 0.0),
    threshold: float = 0.5,
) -> list[Component]:
    """Return the 8-connected parts of a map that reach `threshold`, the highest score first."""
    _check(values, threshold, 1)
    reached = np.nan_to_num(values, nan=-1.0) >= threshold
    if not reached.any():
        return []
    labels = label(reached, connectivity=2)
    found = []
    for region in regionprops(labels):
        rows, columns = region.coords.T
        inside = values[rows, columns]
        highest = np.flatnonzero(inside == inside.max())
        away = np.hypot(rows[highest] - rows.mean(), columns[highest] - columns.mean())
        best = highest[int(away.argmin())]
        x0, y0 = _centre(rows[best], columns[best], cell_px, origin)
        found.append(
            Component(float(inside.max()), x0, y0, len(rows), _diameter(rows, columns, cell_px))
        )
    return sorted(found, key=lambda c: (-c.score, c.y0, c.x0))


def _check(values: Floats, threshold: float, min_area: int) -> None:
    if values.ndim != 2:
        raise ValueError(f"values has shape {values.shape}: a map has rows and columns")
    real = values[~np.isnan(values)]
    if len(real) and not (real.min() >= 0 and real.max() <= 1):
        raise ValueError(f"values span {real.min():g} to {real.max():g}: must be probabilities")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}: must be above 0 and at most 1")
    if min_area < 1:
        raise ValueError(f"min_area={min_area}: must be at least 1 cell")


def _maxima(
    values: Floats,
    cell_px: tuple[float, float],
    origin: tuple[float, float],
    threshold: float,
    radius_px: float,
) -> list[Detection]:
    rows, columns = np.nonzero(np.nan_to_num(values, nan=-1.0) >= threshold)
    order = np.lexsort((columns, rows, -values[rows, columns]))
    rows, columns = rows[order], columns[order]
    free = np.zeros(values.shape, bool)
    free[rows, columns] = True
    reach = math.floor(radius_px / cell_px[1]), math.floor(radius_px / cell_px[0])
    y, x = np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    near = np.hypot(y * cell_px[1], x * cell_px[0]) <= radius_px
    found = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if not free[row, column]:
            continue
        top, left = max(row - reach[0], 0), max(column - reach[1], 0)
        part = free[top : row + reach[0] + 1, left : column + reach[1] + 1]
        down, right = top - row + reach[0], left - column + reach[1]
        part &= ~near[down : down + part.shape[0], right : right + part.shape[1]]
        found.append(Detection(float(values[row, column]), *_centre(row, column, cell_px, origin)))
    return found


def _centre(
    row: int, column: int, cell_px: tuple[float, float], origin: tuple[float, float]
) -> tuple[int, int]:
    """Return the level-0 pixel in which a cell's centre lies."""
    x = origin[0] + (column + 0.5) * cell_px[0]
    y = origin[1] + (row + 0.5) * cell_px[1]
    return math.floor(x), math.floor(y)


def _diameter(
    rows: NDArray[np.int64], columns: NDArray[np.int64], cell_px: tuple[float, float]
) -> float:
    """Return the longest distance between corners of the cells, level-0 px."""
    corners = np.concatenate(
        [np.stack([columns + x, rows + y], axis=1) for x in (0, 1) for y in (0, 1)]
    )
    hull = corners[ConvexHull(corners).vertices] * np.asarray(cell_px)
    return float(pdist(hull).max())
