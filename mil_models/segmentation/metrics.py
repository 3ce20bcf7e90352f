"""How well two masks agree: Dice, IoU, boundary F1; of a whole slide by adding up its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
Core = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Pixels that two masks share and that each has; sums over parts are those of the whole.

    Attributes
    ----------
    both, found, there
        Pixels in both masks, in what was found, and in what is there.
    found_edge, found_edge_hits
        Boundary pixels of what was found, and those within the tolerance of the true boundary.
    there_edge, there_edge_hits
        Boundary pixels of what is there, and those within the tolerance of the found boundary.
    """

    both: int = 0
    found: int = 0
    there: int = 0
    found_edge: int = 0
    found_edge_hits: int = 0
    there_edge: int = 0
    there_edge_hits: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(Agreement))
        )

    @property
    def dice(self) -> float | None:
        """Twice what is shared by the sum of both; None where both are empty."""
        return _share(2 * self.both, self.found + self.there)

    @property
    def iou(self) -> float | None:
        """What is shared by what either has; None where both are empty."""
        return _share(self.both, self.found + self.there - self.both)

    @property
    def precision(self) -> float | None:
        """Share of what was found that is there; None where nothing was found."""
        return _share(self.both, self.found)

    @property
    def recall(self) -> float | None:
        """Share of what is there that was found; None where nothing is there."""
        return _share(self.both, self.there)

    @property
    def boundary_f1(self) -> float | None:
        """Harmonic mean of the shares of either boundary near the other; None where both are empty.

        References
        ----------
        Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
        segmentation?", BMVC 2013.
        """
        if not self.found_edge and not self.there_edge:
            return None
        if not self.found_edge_hits or not self.there_edge_hits:
            return 0.0
        precision = self.found_edge_hits / self.found_edge
        recall = self.there_edge_hits / self.there_edge
        return 2 * precision * recall / (precision + recall)


def agreement(
    found: Mask,
    there: Mask,
    mpp: tuple[float, float],
    *,
    tolerance_um: float,
    core: Core | None = None,
) -> Agreement:
    """Return how two masks agree.

    Parameters
    ----------
    found, there
        bool, of one shape ``(height, width)``. What lies beyond is outside of both.
    mpp
        Size (x, y) of a pixel, µm.
    tolerance_um
        How far apart (centres of pixels) boundaries may be and still agree.
    core
        Rows and columns that are counted, where the masks are part of larger ones: then they must
        reach over it by :func:`halo_px`, or to the larger ones' end.

    Raises
    ------
    ValueError
        The shapes differ, or the tolerance is negative.
    """
    if found.shape != there.shape:
        raise ValueError(f"masks of shape {found.shape} and {there.shape}: must be the same")
    if not tolerance_um >= 0:
        raise ValueError(f"tolerance_um={tolerance_um}: must not be negative")
    inner = core or (slice(0, found.shape[0]), slice(0, found.shape[1]))
    edges = [_edge_points(mask, mpp) for mask in (found, there)]
    counted = [_within(points, inner, mpp) for points in edges]
    hits = [
        _near(counted[0], edges[1], tolerance_um), _near(counted[1], edges[0], tolerance_um)
    ]  # fmt: skip
    return Agreement(
        both=int((found[inner] & there[inner]).sum()),
        found=int(found[inner].sum()),
        there=int(there[inner].sum()),
        found_edge=len(counted[0]),
        found_edge_hits=hits[0],
        there_edge=len(counted[1]),
        there_edge_hits=hits[1],
    )


def halo_px(mpp: tuple[float, float], tolerance_um: float) -> int:
    """Return by how many pixels a part must reach over its core, that its counts are exact."""
    return math.ceil(tolerance_um / min(mpp)) + 1


def boundary(mask: Mask) -> Mask:
    """Return the pixels of a mask that have a side in common with what is outside.

    Examples
    --------
    >>> boundary(np.ones((3, 4), bool)).sum()
    np.int64(10)
    """
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)


def _edge_points(mask: Mask, mpp: tuple[float, float]) -> NDArray[np.float64]:
    """Return (y, x) of the boundary's pixels, µm, shape ``(N, 2)``."""
    return np.asarray(np.argwhere(boundary(mask)) * (mpp[1], mpp[0]), np.float64)


def _within(
    points: NDArray[np.float64], core: Core, mpp: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the points that are pixels of the core."""
    low = np.array([part.start - 0.5 for part in core]) * (mpp[1], mpp[0])
    high = np.array([part.stop - 0.5 for part in core]) * (mpp[1], mpp[0])
    return np.asarray(points[((points > low) & (points < high)).all(axis=1)])


def _near(points: NDArray[np.float64], others: NDArray[np.float64], tolerance_um: float) -> int:
    """Return how many points have one of the others within the tolerance."""
    if not len(points) or not len(others):
        return 0
    # A hair more: 3 px of 0.1 µm are 0.30000000000000004 µm apart.
    limit = tolerance_um * (1 + 1e-9) + 1e-9
    distances, _ = cKDTree(others).query(points, distance_upper_bound=np.nextafter(limit, np.inf))
    return int(np.isfinite(distances).sum())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
