"""The score from which a slide is called positive.

Chosen on slides that the model did not see in training; a few numbers, held in a model's card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mil_models.errors import CalibrationError

Floats = NDArray[np.float64]
Rule = Literal["youden", "sensitivity", "specificity"]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The score from which a slide is called positive, and what it did where it was chosen.

    Attributes
    ----------
    threshold
        A slide is positive if its score is this or higher.
    rule, at_least
        How it was chosen; `at_least` is None for youden.
    sensitivity, specificity
        On the slides that it was chosen on; those of other slides are likely lower.
    """

    threshold: float
    rule: Rule
    at_least: float | None
    sensitivity: float
    specificity: float

    def is_positive(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which of the positive class's scores ``(N,)`` reach the threshold."""
        return np.asarray(scores >= self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return what a card holds."""
        return {
            "threshold": self.threshold, "rule": self.rule, "at_least": self.at_least,
            "sensitivity": self.sensitivity, "specificity": self.specificity,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> OperatingPoint:
        """Return the operating point that a card holds.

        Raises
        ------
        CalibrationError
            It is none.
        """
        try:
            return cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as err:
            raise CalibrationError(f"no operating point: {dict(found)!r} ({err!r})") from err


def operating_point(
    positive: NDArray[np.bool_], scores: Floats, *, rule: Rule = "youden", at_least: float = 0.95
) -> OperatingPoint:
    """Choose a threshold on slides that the model was not trained on and will not be judged on.

    Parameters
    ----------
    positive
        Which slides are, shape ``(N,)``.
    scores
        The positive class's score, shape ``(N,)``.
    rule
        youden: the highest sum of sensitivity and specificity; sensitivity: at least `at_least` of
        it, and the highest specificity that leaves; specificity: the other way round.

    Returns
    -------
    The threshold halfway to the next lower score, so that scores as printed still reach it.

    Raises
    ------
    CalibrationError
        A class is missing.

    References
    ----------
    Youden 1950, Cancer 3:32.
    """
    if rule not in ("youden", "sensitivity", "specificity"):
        raise ValueError(f"rule={rule!r}: use youden, sensitivity, specificity")
    if not 0 < at_least <= 1:
        raise ValueError(f"at_least={at_least}: must be above 0 and at most 1")
    if positive.all() or not positive.any():
        raise CalibrationError(
            f"{int(positive.sum())} positive of {len(positive)} slides: an operating point needs "
            "slides of both classes"
        )
    values = np.unique(scores)[::-1]  # a threshold at each, and one above all
    called = scores[None, :] >= values[:, None]
    sensitivity = np.r_[0.0, called[:, positive].mean(axis=1)]
    specificity = np.r_[1.0, 1 - called[:, ~positive].mean(axis=1)]
    if rule == "youden":
        best = int(np.argmax(np.round(sensitivity + specificity, 12)))
    elif rule == "sensitivity":
        best = int(np.flatnonzero(sensitivity >= at_least - 1e-12)[0])
    else:
        allowed = np.where(specificity >= at_least - 1e-12, sensitivity, -1.0)
        best = int(np.argmax(allowed))  # the first of several: the highest specificity
    return OperatingPoint(
        _halfway(values, best), rule, None if rule == "youden" else at_least,
        float(sensitivity[best]), float(specificity[best]),
    )  # fmt: skip


def _halfway(values: Floats, best: int) -> float:
    """Return the threshold that calls the `best` highest of `values` (falling) positive."""
    above = values[best - 1] if best else np.inf
    below = values[best] if best < len(values) else -np.inf
    if np.isinf(above):
        return float(np.nextafter(below, np.inf))
    return float(above) if np.isinf(below) else float((above + below) / 2)
