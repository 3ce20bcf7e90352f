"""DeLong's variance of the AUROC, patients with several slides included.

References
----------
DeLong et al. 1988, Biometrics 44:837 (structural components); Sun & Xu 2014, IEEE Signal Process
Lett 21:1389 (from mid-ranks, O(N log N)); Obuchowski 1997, Biometrics 53:567 (clustered data).
With one slide per patient the clustered form is DeLong's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from mil_models.weighted import Floats


@dataclass(frozen=True, slots=True, eq=False)
class AurocVariance:
    """AUROCs of K scores on the same slides, ``(K,)``, and their covariance ``(K, K)``."""

    auroc: Floats
    covariance: Floats

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """Return the normal interval of the first AUROC within 0 and 1.

        None if the variance is 0 or unknown: scores that separate the classes leave it none.
        """
        error = float(np.sqrt(self.covariance[0, 0]))
        if not error > 0:
            return None
        reach = float(norm.ppf((1 + level) / 2)) * error
        value = float(self.auroc[0])
        return max(0.0, value - reach), min(1.0, value + reach)

    def difference(self) -> tuple[float, float, float | None]:
        """Return the first AUROC less the second, its standard error, and the two-sided p-value.

        The p-value is None where the error is 0 but the difference is not.
        """
        gap = float(self.auroc[0] - self.auroc[1])
        contrast = np.array([1.0, -1.0])
        variance = float(contrast @ self.covariance[:2, :2] @ contrast)
        # Equal scores leave rounding errors of the order of 1e-17.
        error = float(np.sqrt(variance)) if variance > 1e-15 else 0.0
        if np.isnan(variance):
            return gap, float("nan"), None
        if error == 0:
            return gap, 0.0, 1.0 if abs(gap) < 1e-12 else None
        return gap, error, float(2 * norm.sf(abs(gap) / error))


def delong(targets: NDArray[np.bool_], scores: Floats, patients: Sequence[str]) -> AurocVariance:
    """Return the AUROC of each row of `scores` ``(K, N)`` and their covariance.

    Parameters
    ----------
    targets
        True for a positive slide, shape ``(N,)``; both must occur.
    patients
        Slides of one patient move together.

    Returns
    -------
    Covariance NaN where fewer than two patients have a positive, or a negative, slide.
    """
    up, down = np.flatnonzero(targets), np.flatnonzero(~targets)
    if not len(up) or not len(down):
        raise ValueError(f"{len(up)} positive and {len(down)} negative slides: both are needed")
    all_ranks = rankdata(scores, axis=1)
    of_up = (all_ranks[:, up] - rankdata(scores[:, up], axis=1)) / len(down)  # V10, (K, M)
    of_down = 1 - (all_ranks[:, down] - rankdata(scores[:, down], axis=1)) / len(up)  # V01
    value = of_up.mean(axis=1)
    index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1]
    ups, n_up = _by_patient(of_up - value[:, None], index[up], index.max() + 1)
    downs, n_down = _by_patient(of_down - value[:, None], index[down], index.max() + 1)
    if min(n_up, n_down) < 2:
        return AurocVariance(value, np.full((len(scores),) * 2, np.nan))
    clusters = index.max() + 1
    ups, downs = ups / len(up), downs / len(down)
    cross = ups @ downs.T
    covariance = (
        n_up / (n_up - 1) * (ups @ ups.T)
        + n_down / (n_down - 1) * (downs @ downs.T)
        + clusters / (clusters - 1) * (cross + cross.T)
    )
    return AurocVariance(value, covariance)


def _by_patient(components: Floats, patient: NDArray[np.intp], patients: int) -> tuple[Floats, int]:
    """Return the sum of `components` ``(K, n)`` over every patient, and how many have any."""
    sums = [np.bincount(patient, weights=row, minlength=patients) for row in components]
    return np.stack(sums), len(np.unique(patient))
