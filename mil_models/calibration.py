"""Probabilities that mean what they say.

A calibration is fitted on slides that the model did not see in training (validation, or out of
fold), and held as small values that go into a model's card.
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


@dataclass(frozen=True, slots=True)
class ByParts:
    """Several calibrations side by side: of the labels of a slide, or of several tasks.

    Attributes
    ----------
    parts
        How many columns each takes, and its calibration; None leaves them as they are. A single
        column is the probability of a label, against that of its absence.
    """

    parts: tuple[tuple[int, Temperature | Isotonic | None], ...]

    def apply(self, scores: Floats) -> Floats:
        """Return `scores` ``(N, sum of the columns)``, each part calibrated by itself."""
        calibrated, start = scores.copy(), 0
        for width, calibration in self.parts:
            own = scores[:, start : start + width]
            if calibration is not None and width == 1:
                calibrated[:, start] = calibration.apply(against_absence(own[:, 0]))[:, 1]
            elif calibration is not None:
                calibrated[:, start : start + width] = calibration.apply(own)
            start += width
        return calibrated

    def to_dict(self) -> dict[str, Any]:
        """Return what a card holds."""
        parts = [{"columns": width, "calibration": None if one is None else one.to_dict()}
                 for width, one in self.parts]  # fmt: skip
        return {"method": "parts", "parts": parts}


Calibration = Temperature | Isotonic | ByParts


def against_absence(probabilities: Floats) -> Floats:
    """Return a label's probabilities ``(N,)`` as two classes ``(N, 2)``: absent, present."""
    return np.stack([1 - probabilities, probabilities], axis=1)


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
        elif found["method"] == "parts":
            parts = tuple((int(p["columns"]), _single(p["calibration"])) for p in found["parts"])
            if parts and all(width > 0 for width, _ in parts):
                return ByParts(parts)
    except (KeyError, TypeError, ValueError) as err:
        raise CalibrationError(f"no calibration: {dict(found)!r} ({err!r})") from err
    raise CalibrationError(f"no calibration: {dict(found)!r}")


def _single(found: Mapping[str, Any] | None) -> Temperature | Isotonic | None:
    calibration = None if found is None else calibration_from_dict(found)
    if isinstance(calibration, ByParts):
        raise CalibrationError(f"no calibration: {found!r}")
    return calibration


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


def fit(method: Method, targets: Ints, scores: Floats) -> Temperature | Isotonic:
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


def _check(targets: Ints) -> None:
    found = len(np.unique(targets))
    if found < 2:
        raise CalibrationError(
            f"{len(targets)} slides of {found} class{'' if found == 1 else 'es'}: a calibration "
            "needs slides of two classes that the model was not trained on"
        )
