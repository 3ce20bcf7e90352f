"""Figures of slides that carry weights: many weightings at once, one value for each.

A weight of 2 means that the slide is there twice, so weights of 1 give the figure as libraries
define it (a test holds each against scikit-learn or scikit-survival). In all functions `weights`
has the shape ``(R, N)``, the result ``(R,)``; NaN where the figure is not defined.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return the ratio, NaN where the denominator is 0."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out


def grouped(scores: Floats, *weights: Floats) -> list[Floats]:
    """Return each of `weights` ``(R, N)`` summed over equal scores, ascending, ``(R, U)``."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return [np.add.reduceat(w[:, order], starts, axis=1) for w in weights]


def auroc(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """Return the probability that a positive scores higher than a negative, ties as a half.

    `positive` and `negative` ``(R, N)`` are the weights of a slide as one or the other.
    """
    up, down = grouped(scores, positive, negative)
    below = np.cumsum(down, axis=1) - down / 2
    return divide((up * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def average_precision(scores: Floats, positive: Floats, negative: Floats) -> Floats:
    """Return the area under the precision-recall curve as a sum of steps, not interpolated."""
    up, down = (w[:, ::-1] for w in grouped(scores, positive, negative))
    hits = np.cumsum(up, axis=1)
    called = hits + np.cumsum(down, axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    found = np.where(negative.sum(axis=1) > 0, (up * precision).sum(axis=1), np.nan)
    return divide(found, positive.sum(axis=1))


def sensitivity_at_specificity(
    scores: Floats, positive: Floats, negative: Floats, specificity: float
) -> Floats:
    """Return the highest sensitivity of any threshold with at least this specificity."""
    up, down = (w[:, ::-1] for w in grouped(scores, positive, negative))
    alarms = np.cumsum(down, axis=1)
    total = negative.sum(axis=1)
    allowed = alarms <= (total * (1 - specificity) * (1 + 1e-12))[:, None]
    hits = np.where(allowed, np.cumsum(up, axis=1), 0.0).max(axis=1)
    return divide(np.where(total > 0, hits, np.nan), positive.sum(axis=1))


def confusion(targets: Ints, predicted: Ints, classes: int, weights: Floats) -> Floats:
    """Return the confusion matrices ``(R, C, C)``, rows what is, columns what was said."""
    cells = np.zeros((len(targets), classes * classes))
    cells[np.arange(len(targets)), targets * classes + predicted] = 1
    return (weights @ cells).reshape(-1, classes, classes)


def recalls(matrix: Floats) -> Floats:
    """Return the share of each class that was found, ``(R, C)``."""
    return divide(np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2))


def f1(matrix: Floats) -> Floats:
    """Return the F1 of each class, ``(R, C)``; NaN where it is neither there nor predicted."""
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    return divide(2 * hits, matrix.sum(axis=1) + matrix.sum(axis=2))


def kappa(matrix: Floats, *, quadratic: bool) -> Floats:
    """Return Cohen's kappa; `quadratic` weighs a disagreement by the square of its distance."""
    grade = np.arange(matrix.shape[1])
    apart = (grade[:, None] - grade[None, :]).astype(np.float64)
    cost = apart**2 if quadratic else (apart != 0).astype(np.float64)
    total = matrix.sum(axis=(1, 2))
    chance = np.einsum("ri,rj->rij", matrix.sum(axis=2), matrix.sum(axis=1))
    expected = divide((chance * cost).sum(axis=(1, 2)), total)
    return 1 - divide((matrix * cost).sum(axis=(1, 2)), expected)


def mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of `values` ``(N,)``."""
    return divide(weights @ values, weights.sum(axis=1))


def correlation(a: Floats, b: Floats, weights: Floats) -> Floats:
    """Return Pearson's correlation; `a` and `b` are ``(N,)``, or ``(R, N)`` to differ by draw."""
    total = weights.sum(axis=1)
    a = a - (divide((weights * a).sum(axis=1), total))[:, None]
    b = b - (divide((weights * b).sum(axis=1), total))[:, None]
    spread = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    spread = np.where(spread > 1e-24 * total**2, spread, 0.0)
    return divide((weights * a * b).sum(axis=1), np.sqrt(spread))


def ranks(values: Floats, weights: Floats) -> Floats:
    """Return the mean rank ``(R, N)`` of every slide among the weighted others."""
    (mass,) = grouped(values, weights)
    middle = np.cumsum(mass, axis=1) - (mass - 1) / 2
    return middle[:, np.unique(values, return_inverse=True)[1]]
