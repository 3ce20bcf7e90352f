"""Labels that are likely wrong, from what heads that did not see the slide say of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LabelIssues:
    """For each slide, in the order given.

    Attributes
    ----------
    quality
        float64, shape ``(N,)``: probability of the given label; low is doubtful.
    suggested
        int64, shape ``(N,)``: the most probable class.
    is_issue
        bool, shape ``(N,)``: whether the label is likely wrong.
    """

    quality: NDArray[np.float64]
    suggested: NDArray[np.int64]
    is_issue: NDArray[np.bool_]


def label_issues(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> LabelIssues:
    """Return which labels are likely wrong, by confident learning.

    Parameters
    ----------
    labels
        Class indices, shape ``(N,)``; every class occurs.
    scores
        Out-of-fold probabilities, shape ``(N, C)``.

    References
    ----------
    Northcutt, Jiang, Chuang 2021, arXiv:1911.00068; by the authors' library, cleanlab.
    """
    from cleanlab.filter import find_label_issues  # brings pandas: not for every training
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, scores)
    is_issue = find_label_issues(labels, scores, n_jobs=1)
    return LabelIssues(
        np.asarray(quality, np.float64),
        scores.argmax(axis=1).astype(np.int64),
        np.asarray(is_issue, np.bool_),
    )
