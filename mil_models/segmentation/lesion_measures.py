"""What a mask measures: lesions, their longest diameter and area, and the share of the tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import label

from mil_models.lesions import DOWNSAMPLE, find_lesions

Mask = NDArray[np.bool_]
ISOTROPY = 0.01


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion of a mask.

    Attributes
    ----------
    number
        Its label, from 1.
    box
        left, top, right, bottom in px of the mask, the last two exclusive.
    area_mm2
        Of its pixels.
    diameter_mm
        Its longest diameter: the largest distance between two corners of its pixels.
    """

    number: int
    box: tuple[int, int, int, int]
    area_mm2: float
    diameter_mm: float


def lesion_labels(mask: Mask, mpp: tuple[float, float], *, merge: bool = True) -> NDArray[np.int32]:
    """Return which lesion each pixel of a mask is of, 0 outside, ``(height, width)``.

    Parameters
    ----------
    mask
        True where the lesion is, ``(height, width)``.
    mpp
        Size (x, y) of a pixel, µm.
    merge
        Foci up to 75 µm apart are one lesion, as the CAMELYON challenges count
        (:func:`mil_models.lesions.find_lesions`); else regions that touch by edge or corner.

    Raises
    ------
    ValueError
        Foci are to be merged, and the pixels are no squares.
    """
    if not merge:
        return np.asarray(label(mask, connectivity=2), np.int32)
    if abs(mpp[0] / mpp[1] - 1) > ISOTROPY:
        raise ValueError(f"mpp={mpp}: foci are merged on square pixels; pass merge=False")
    found = find_lesions(mask, resolution_um=(mpp[0] * mpp[1]) ** 0.5 / DOWNSAMPLE)
    return np.where(mask, found.labels, 0).astype(np.int32)


def measure_lesions(labels: NDArray[np.int32], mpp: tuple[float, float]) -> list[Lesion]:
    """Return the lesions that `labels` (0 outside) tell apart, in the order of their numbers."""
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        rows, columns = place
        part = labels[place] == number
        area = int(part.sum()) * mpp[0] * mpp[1] / 1e6
        box = (columns.start, rows.start, columns.stop, rows.stop)
        found.append(Lesion(number, box, area, longest_diameter_mm(part, mpp)))
    return found


def longest_diameter_mm(mask: Mask, mpp: tuple[float, float]) -> float:
    """Return the largest distance between two corners of a mask's pixels, mm; 0 of an empty one.

    Examples
    --------
    >>> longest_diameter_mm(np.ones((300, 400), bool), (10.0, 10.0))
    5.0
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0.0
    left = mask[rows].argmax(axis=1)
    right = mask.shape[1] - mask[rows][:, ::-1].argmax(axis=1)
    across = np.concatenate([left, left, right, right])
    down = np.tile(np.concatenate([rows, rows + 1]), 2)
    points = np.stack([across * mpp[0], down * mpp[1]], axis=1)
    hull = cv2.convexHull(points.astype(np.float32)).reshape(-1, 2).astype(np.float64)
    return float(pdist(hull).max() / 1000)


def burden(mask: Mask, tissue: Mask) -> float | None:
    """Return the share of the tissue that a mask covers; None where there is no tissue.

    Both are bool, of one shape. What of the mask lies outside the tissue does not count.
    """
    area = int(tissue.sum())
    return int((mask & tissue).sum()) / area if area else None
