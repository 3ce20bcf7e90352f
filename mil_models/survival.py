"""Figures of predicted survival, for many weightings of the slides at once.

As in :mod:`mil_models.weighted`: `weights` ``(R, N)``, result ``(R,)``, NaN where undefined.
Censoring is answered by inverse probability of censoring weights, Kaplan-Meier's estimate of which
is made anew for every weighting.

References
----------
Harrell et al. 1996, Stat Med 15:361 (concordance); Uno et al. 2007, JASA 102:527 (cumulative and
dynamic AUC); Graf et al. 1999, Stat Med 18:2529 (Brier score under censoring).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mil_models.weighted import Floats, auroc, divide

BLOCK_ROWS = 512


def concordance(
    time: Floats, event: NDArray[np.bool_], risk: Floats, weights: Floats, *, tie: float = 1e-8
) -> Floats:
    """Return Harrell's C: of the pairs whose order is known, the share that `risk` orders rightly.

    A pair is known where one has its event before the other's time, or at the time at which the
    other is censored. Risks closer than `tie` count as a half.
    """
    right, known = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(time), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        first, seen = time[rows, None], event[rows, None]
        comparable = seen & ((first < time) | ((first == time) & ~event))  # (rows, N)
        gap = risk[rows, None] - risk
        credit = comparable * np.where(np.abs(gap) <= tie, 0.5, gap > 0)
        known += (weights[:, rows] * (weights @ comparable.T)).sum(axis=1)
        right += (weights[:, rows] * (weights @ credit.T)).sum(axis=1)
    return divide(right, known)


def uncensored(time: Floats, event: NDArray[np.bool_], weights: Floats, at: Floats) -> Floats:
    """Return Kaplan-Meier's probability of being not censored by the times `at`, ``(R, len(at))``.

    Who has the event at a time is no longer at risk of being censored at that time.
    """
    times, index = np.unique(time, return_inverse=True)
    starts = np.flatnonzero(np.r_[True, np.diff(np.sort(index)) > 0])
    order = np.argsort(index, kind="stable")
    all_, died = (np.add.reduceat(w[:, order], starts, axis=1) for w in (weights, weights * event))
    at_risk = np.cumsum(all_[:, ::-1], axis=1)[:, ::-1] - died
    lost = np.divide(all_ - died, at_risk, out=np.zeros_like(all_), where=at_risk > 0)
    curve = np.concatenate([np.ones((len(weights), 1)), np.cumprod(1 - lost, axis=1)], axis=1)
    return curve[:, np.searchsorted(times, at, side="right")]


def auc_at(
    time: Floats, event: NDArray[np.bool_], risk: Floats, weights: Floats, at: float
) -> Floats:
    """Return the AUC of telling who has the event by `at` from who is known to be free of it."""
    case = event & (time <= at)
    share = uncensored(time, event, weights, time)
    weight = np.divide(weights, share, out=np.zeros_like(weights), where=share > 0)
    return auroc(risk, weight * case, weights * (time > at))


def brier_at(
    time: Floats,
    event: NDArray[np.bool_],
    survival: Floats,
    weights: Floats,
    at: float,
) -> Floats:
    """Return the Brier score at the time `at` of `survival` ``(N,)``, the probability at `at`.

    NaN if nobody is known to be event-free beyond `at`.
    """
    case, free = event & (time <= at), time > at
    own = uncensored(time, event, weights, time)
    then = uncensored(time, event, weights, np.array([at]))
    died = np.divide(weights, own, out=np.zeros_like(weights), where=own > 0)
    lived = divide(weights, np.broadcast_to(then, weights.shape))
    error = died * (case * survival**2) + np.where(free, lived * (1 - survival) ** 2, 0.0)
    known = (weights * free).sum(axis=1) > 0
    return np.where(known, divide(error.sum(axis=1), weights.sum(axis=1)), np.nan)


def integrated_brier(
    time: Floats,
    event: NDArray[np.bool_],
    survival: Floats,
    weights: Floats,
    at: Floats,
) -> Floats:
    """Return the Brier score averaged over the times `at` ``(T,)`` by the trapezoid rule.

    `survival` is ``(N, T)``; at least two times are needed.
    """
    scores = np.stack(
        [brier_at(time, event, survival[:, k], weights, t) for k, t in enumerate(at)], axis=1
    )
    whole: Floats = np.trapezoid(scores, at, axis=1) / (at[-1] - at[0])
    return whole
