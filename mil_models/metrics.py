"""Figures of a classifier, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

RESAMPLES = 1000


def auroc(targets: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve; over several classes the mean of one against the rest.

    `targets` (N,) are class indices, `scores` (N, C) probabilities. None if a class is missing.
    """
    classes = scores.shape[1]
    if len(np.unique(targets)) < classes:
        return None
    if classes == 2:
        return float(roc_auc_score(targets, scores[:, 1]))
    return float(roc_auc_score(targets, scores, multi_class="ovr"))


def patient_interval(
    targets: NDArray[np.int64],
    scores: NDArray[np.float64],
    patients: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of :func:`auroc`, patients drawn with replacement.

    Draws in which a class is missing are left out; None if no draw is left.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(patients))
    of_patient = [np.flatnonzero(np.asarray(patients) == name) for name in names]
    values = []
    for _ in range(resamples):
        drawn = rng.integers(len(names), size=len(names))
        rows = np.concatenate([of_patient[i] for i in drawn])
        value = auroc(targets[rows], scores[rows])
        if value is not None:
            values.append(value)
    if not values:
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def summarise(
    targets: NDArray[np.int64], scores: NDArray[np.float64], patients: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Return pooled AUROC with its interval, balanced accuracy and counts, as JSON values.

    What cannot be said because a class is missing is None.
    """
    interval = patient_interval(targets, scores, patients, seed=seed)
    has_all = len(np.unique(targets)) == scores.shape[1]
    accuracy = balanced_accuracy_score(targets, scores.argmax(axis=1)) if has_all else None
    return {
        "slides": len(targets),
        "patients": len(set(patients)),
        "auroc": auroc(targets, scores),
        "auroc_low": None if interval is None else interval[0],
        "auroc_high": None if interval is None else interval[1],
        "balanced_accuracy": None if accuracy is None else float(accuracy),
    }
