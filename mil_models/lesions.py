"""Lesions as CAMELYON16 counts them: regions of a mask, close ones as one, small ones apart.

References
----------
The challenge's evaluation program (`Evaluation_FROC.py`): what lies nearer than 37.5 µm to tumour
is added, so that foci up to 75 µm apart are one lesion; holes are filled; regions touch by edge or
corner; a region whose longest axis is below 275 µm (200 µm, and 75 µm that were added) is a group
of isolated tumour cells (ITC), which counts neither as found nor as missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, regionprops

RESOLUTION_UM = 0.243
"""The pixel size at level 0 that the program takes every slide to have."""
LEVEL = 5
DOWNSAMPLE = 2**LEVEL
DILATION_UM = 75
ITC_UM = 275


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """The regions of one slide.

    `labels` int32 ``(height, width)`` at level 5: 0 outside, else 1 to `regions` in the order of
    their first pixel; `itc` the labels of isolated tumour cells, ascending.
    """

    labels: NDArray[np.int32]
    regions: int
    itc: tuple[int, ...]

    @property
    def lesions(self) -> int:
        """How many regions have to be found."""
        return self.regions - len(self.itc)


def find_lesions(mask: NDArray[np.bool_], *, resolution_um: float = RESOLUTION_UM) -> Lesions:
    """Return the lesions of a tumour mask ``(height, width)`` at level 5, True where tumour is.

    Exactly the program's regions. Its distance transform is a dilation here: whether a whole
    number of rows and columns is nearer than a distance is known beforehand.
    """
    pixel_um = resolution_um * DOWNSAMPLE
    labels = np.zeros(mask.shape, np.int32)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Lesions(labels, 0, ())
    reach = DILATION_UM / (pixel_um * 2)
    disk = _nearer_than(reach)
    edge = disk.shape[0] // 2
    part = (
        slice(max(rows[0] - edge, 0), rows[-1] + edge + 1),
        slice(max(columns[0] - edge, 0), columns[-1] + edge + 1),
    )
    grown = cv2.dilate(mask[part].astype(np.uint8), disk)
    labels[part] = label(_filled(grown > 0), connectivity=2)
    found = regionprops(labels)
    itc = tuple(p.label for p in found if p.axis_major_length < ITC_UM / pixel_um)
    return Lesions(labels, len(found), itc)


def _nearer_than(reach: float) -> NDArray[np.uint8]:
    """Return the disk of pixels whose centre is nearer than `reach` to the middle one's."""
    whole = math.ceil(reach)
    step = np.arange(-whole, whole + 1)
    return (np.hypot(step[:, None], step) < reach).astype(np.uint8)


def _filled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return `region` with its holes: what no path over edges joins to the outside."""
    outside = label(~np.pad(region, 1), connectivity=1)
    filled: NDArray[np.bool_] = (outside != outside[0, 0])[1:-1, 1:-1]
    return filled
