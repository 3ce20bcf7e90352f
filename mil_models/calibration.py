"""Probabilities that mean what they say, and the score from which a slide is called positive.

Both are fitted on slides that the model did not see in training (validation, or out of fold),
and held as small values that go into a model's card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import GroupKFold

from mil_models.errors import CalibrationError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["temperature", "isotonic"]
BINS = 10
TEMPERATURES = 0.05, 20.0
FOLDS = 5
FEWEST_PER_CLASS = 10
"""Slides of each class that a model's own calibration is fitted on, at least."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Temperature:
    """Log probabilities divided by one number, then normalised again; the ranking stays.

    References
    ----------
    Guo et al. 2017, arXiv:1706.04599, section 4.2: the logits are divided. The logarithm of a
    softmax differs from its logits by a constant, so that probabilities are all that is needed.
    """

    temperature: float

    def apply(self, scores: Floats) -> Floats:
        """Return calibrated probabilities of `scores` ``(N, C)``."""
        logits = np.log(np.clip(scores, _TINY, 1)) / self.temperature
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        calibrated: Floats = raised / raised.sum(axis=1, keepdims=True)
        return calibrated

    def to_dict(self) -> dict[str, Any]:
        """Return what a card holds."""
        return {"method": "temperature", "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A rising step-wise linear curve per class, from score to probability, then normalised.

    Of two classes there is one curve, that of the last.

    References
    ----------
    Zadrozny & Elkan 2002, KDD: isotonic regression, for several classes one against the rest.
    """

    curves: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    """Scores and probabilities of each curve's corners."""

    def apply(self, scores: Floats) -> Floats:
        """Return calibrated probabilities of `scores` ``(N, C)``; all 0 becomes all alike."""
        if len(self.curves) == 1:
            positive = np.interp(scores[:, 1], *self.curves[0])
            return np.stack([1 - positive, positive], axis=1)
        each = [np.interp(scores[:, c], *curve) for c, curve in enumerate(self.curves)]
        raised = np.stack(each, axis=1)
        total = raised.sum(axis=1, keepdims=True)
        raised = np.where(total > 0, raised, 1.0)
        calibrated: Floats = raised / raised.sum(axis=1, keepdims=True)
        return calibrated

    def to_dict(self) -> dict[str, Any]:
        """Return what a card holds."""
        curves = [{"scores": list(x), "probabilities": list(y)} for x, y in self.curves]
        return {"method": "isotonic", "curves": curves}


Calibration = Temperature | Isotonic


def calibration_from_dict(found: Mapping[str, Any]) -> Calibration:
    """Return the calibration that a card holds.

    Raises
    ------
    CalibrationError
        It is none.
    """
    try:
        if found["method"] == "temperature":
            value = float(found["temperature"])
            if value > 0 and np.isfinite(value):
                return Temperature(value)
        elif found["method"] == "isotonic":
            curves = tuple(
                (tuple(map(float, c["scores"])), tuple(map(float, c["probabilities"])))
                for c in found["curves"]
            )
            if curves and all(len(x) == len(y) > 0 for x, y in curves):
                return Isotonic(curves)
    except (KeyError, TypeError, ValueError) as err:
        raise CalibrationError(f"no calibration: {dict(found)!r} ({err!r})") from err
    raise CalibrationError(f"no calibration: {dict(found)!r}")


def fit_temperature(targets: Ints, scores: Floats) -> Temperature:
    """Return the temperature of lowest negative log likelihood, between 0.05 and 20.

    Parameters
    ----------
    targets
        Class indices, shape ``(N,)``, of slides that the model was not trained on.
    scores
        Probabilities, shape ``(N, C)``.

    Raises
    ------
    CalibrationError
        There is no slide, or one class only: no temperature is best then.
    """
    _check(targets)

    def loss(log_temperature: float) -> float:
        calibrated = Temperature(float(np.exp(log_temperature))).apply(scores)
        own = calibrated[np.arange(len(targets)), targets]
        return float(-np.log(np.clip(own, _TINY, 1)).mean())

    bounds = tuple(np.log(TEMPERATURES))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return Temperature(float(np.exp(found.x)))


def fit_isotonic(targets: Ints, scores: Floats) -> Isotonic:
    """Return the rising curves of least squares from scores to what is; as for a temperature."""
    _check(targets)
    curves = []
    for c in [1] if scores.shape[1] == 2 else range(scores.shape[1]):
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        fitted.fit(scores[:, c], targets == c)
        corners = fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
        curves.append((tuple(corners[0]), tuple(corners[1])))
    return Isotonic(tuple(curves))


def fit(method: Method, targets: Ints, scores: Floats) -> Calibration:
    """Return a calibration of this kind."""
    if method == "temperature":
        return fit_temperature(targets, scores)
    if method == "isotonic":
        return fit_isotonic(targets, scores)
    raise ValueError(f"method={method!r}: use temperature, isotonic")


def cross_fitted(
    method: Method,
    targets: Ints,
    scores: Floats,
    patients: Sequence[str],
    *,
    folds: Sequence[str] | None = None,
) -> Floats:
    """Return calibrated probabilities of slides whose calibration was fitted on other patients.

    This is what a report may compare with the scores as they are: fitted and judged on the same
    slides, every calibration looks good.

    Parameters
    ----------
    folds
        The fold of every slide; five groups of patients if not given, or if it is one fold only.

    Raises
    ------
    CalibrationError
        There are fewer than two patients, or without some fold one class is left.
    """
    groups = np.asarray(patients, dtype=str)
    parts = np.asarray(groups if folds is None else folds, dtype=str)
    if folds is None or len(np.unique(parts)) < 2:
        patients_count = len(np.unique(groups))
        if patients_count < 2:
            raise CalibrationError("one patient only: nobody else to fit a calibration on")
        parts = np.empty(len(groups), dtype="<U21")
        splitter = GroupKFold(min(FOLDS, patients_count))
        for number, (_, test) in enumerate(splitter.split(groups, groups=groups)):
            parts[test] = str(number)
    out = np.empty_like(scores)
    for part in np.unique(parts):
        held = parts == part
        others = ~held & ~np.isin(groups, groups[held])
        out[held] = fit(method, targets[others], scores[others]).apply(scores[held])
    return out


def calibration_error(
    targets: Ints, scores: Floats, *, bins: int = BINS, equal_mass: bool = False
) -> float:
    """Return the expected calibration error: the mean gap between confidence and truth in bins.

    Of two classes the score of the last is held against its frequency; of several, the highest
    score against how often it is right.

    Parameters
    ----------
    equal_mass
        Bins of equally many slides, not of equal width.

    References
    ----------
    Naeini et al. 2015, AAAI 29; Guo et al. 2017, arXiv:1706.04599, equation 3; equal mass: Nixon
    et al. 2019, arXiv:1904.01685.
    """
    confidence, truth = confidence_and_truth(targets, scores)
    rows = reliability(confidence, truth, bins=bins, equal_mass=equal_mass)
    return float(sum(r.slides * abs(r.confidence - r.frequency) for r in rows) / len(targets))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Slides of like score: the mean of the scores, and how often they were right."""

    slides: int
    confidence: float
    frequency: float


def reliability(
    confidence: Floats, truth: NDArray[np.bool_], *, bins: int = BINS, equal_mass: bool = False
) -> list[ReliabilityBin]:
    """Return the bins, in order, that hold a slide."""
    if equal_mass:
        rank = np.empty(len(confidence), np.int64)
        rank[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
        index = rank * bins // max(len(confidence), 1)
    else:
        index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        ReliabilityBin(
            int(inside.sum()), float(confidence[inside].mean()), float(truth[inside].mean())
        )
        for inside in (index == b for b in range(bins))
        if inside.any()
    ]


def confidence_and_truth(targets: Ints, scores: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what :func:`calibration_error` compares, both ``(N,)``."""
    if scores.shape[1] == 2:
        return scores[:, 1], targets == 1
    said = scores.argmax(axis=1)
    return scores[np.arange(len(said)), said], said == targets


def brier_score(targets: Ints, scores: Floats) -> float:
    """Return the mean square error of the probabilities: of two classes, that of the last one's.

    Of several it is the sum over the classes (Brier 1950), between 0 and 2.
    """
    truth = np.eye(scores.shape[1])[targets]
    error = ((scores - truth) ** 2).sum(axis=1).mean()
    return float(error / 2 if scores.shape[1] == 2 else error)


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


def for_card(
    targets: Ints,
    scores: Floats,
    *,
    method: Method | Literal["none"] = "temperature",
    rule: Rule = "youden",
    at_least: float = 0.95,
) -> dict[str, Any]:
    """Return what a model's card holds of calibration and operating point, as JSON values.

    Keys: `calibration` and, of two classes, `operating_point` (of calibrated scores); None where
    they cannot be told, and `reason` why. Scores of few slides, or such that tell the classes
    apart without error, stay as they are: any temperature near 0 would be as good.

    Parameters
    ----------
    targets, scores
        Of slides that the model was not trained on, as for :func:`fit_temperature`.
    """
    found: dict[str, Any] = {"calibration": None, "operating_point": None}
    fewest = int(np.bincount(targets, minlength=scores.shape[1]).min()) if len(targets) else 0
    if method == "none":
        found["reason"] = "not asked for"
    elif fewest < FEWEST_PER_CLASS:
        found["reason"] = (
            f"a class has {fewest} slides that were tested; {FEWEST_PER_CLASS} are needed"
        )
    else:
        fitted = fit(method, targets, scores)
        if isinstance(fitted, Temperature) and fitted.temperature < 1.01 * TEMPERATURES[0]:
            found["reason"] = "the scores are never wrong: they do not tell how sure to be"
        else:
            found["calibration"] = fitted.to_dict()
            scores = fitted.apply(scores)
    if scores.shape[1] == 2 and fewest:
        point = operating_point(targets == 1, scores[:, 1], rule=rule, at_least=at_least)
        found["operating_point"] = point.to_dict()
    return found


def _check(targets: Ints) -> None:
    found = len(np.unique(targets))
    if found < 2:
        raise CalibrationError(
            f"{len(targets)} slides of {found} class{'' if found == 1 else 'es'}: a calibration "
            "needs slides of two classes that the model was not trained on"
        )
