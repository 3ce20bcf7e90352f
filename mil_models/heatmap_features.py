"""Features of a tumour heat map, by which the winners of CAMELYON16 told slides apart.

Areas above five thresholds as shares of the tissue, and size, shape and probability of the two
largest regions above 0.7: the thirty columns of the published table of 266 training slides.

References
----------
Wang et al. 2016, arXiv:1606.05718, section 3.3 (28 features, a random forest). Names and thresholds
as in DIDSR/DeepLearningCamelyon_II, whose table has two features more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, regionprops

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
REGION_THRESHOLD = 0.7
RANKS = ("largest", "second_largest")
_SHARES = ("ratio_cancer_tissue", "ratio_sum_tissue")
_REGION = (
    "{}_area", "eccentricity_{}", "extend_{}", "area_bbox_{}", "major_axis_length_{}", "maxprob_{}",
    "minprob_{}", "aveprob_{}", "aspect_ratio_bbox_{}", "solidity_{}",
)  # fmt: skip
FEATURES: tuple[str, ...] = (
    *(f"{share}{t * 100:.0f}" for share in _SHARES for t in THRESHOLDS),
    *(name.format(rank) for rank in RANKS for name in _REGION),
)
"""Names of the features, as in the published table."""


def heatmap_features(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the features of a map, in the order of :data:`FEATURES`.

    `ratio_cancer_tissue` is the share of tissue that reaches a threshold, `ratio_sum_tissue` the
    sum of what exceeds it, for a cell of tissue. Regions are 8-connected; a region that is not
    there has zeros. Areas and lengths are in cells: maps of cells of one size are comparable.

    Parameters
    ----------
    values
        Probability of tumour, shape ``(rows, columns)``; NaN where there is no tissue.

    Raises
    ------
    ValueError
        There is no tissue.
    """
    tissue = np.isfinite(values)
    count = int(tissue.sum())
    if not count:
        raise ValueError("no tissue in the map: no features")
    inside = np.asarray(values[tissue], np.float64)
    shares = [(inside >= t).sum() / count for t in THRESHOLDS]
    sums = [np.maximum(inside - t, 0).sum() / count for t in THRESHOLDS]
    filled = np.where(tissue, values, 0.0)
    labels = label(filled >= REGION_THRESHOLD, connectivity=2)
    found = regionprops(labels, intensity_image=filled)
    found.sort(key=lambda region: (-region.area, region.label))
    regions = [_region(found[i]) if i < len(found) else [0.0] * len(_REGION) for i in (0, 1)]
    return np.array([*shares, *sums, *regions[0], *regions[1]], np.float64)


def _region(region: Any) -> list[float]:
    """Return what is told of one region; width over height for the aspect ratio."""
    top, left, bottom, right = region.bbox
    return [
        region.area, region.eccentricity, region.extent, region.area_bbox, region.axis_major_length,
        region.intensity_max, region.intensity_min, region.intensity_mean,
        (right - left) / (bottom - top), region.solidity,
    ]  # fmt: skip
