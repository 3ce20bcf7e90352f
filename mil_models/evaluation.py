"""All that is to be said of a model's answers: figures, calibration, operating point, fairness."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import CensoredData, ecdf, logrank
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from mil_models.answers import Answers, ClassAnswers, LabelAnswers, SurvivalAnswers
from mil_models.calibration import (
    Method,
    against_absence,
    brier_score,
    calibration_error,
    confidence_and_truth,
    cross_fitted,
    fit,
    reliability,
)
from mil_models.comparison import against_chance, subgroups
from mil_models.errors import CalibrationError
from mil_models.metrics import answer_metrics
from mil_models.operating_point import OperatingPoint, Rule, operating_point
from mil_models.resampling import RESAMPLES, bootstrap, percentile_interval
from mil_models.weighted import confusion, recalls

Floats = NDArray[np.float64]
METHODS: tuple[Method, ...] = ("temperature", "isotonic")
PARTS_WITHOUT_FOLDS = 5


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How answers are judged.

    Attributes
    ----------
    rule, at_least
        How the operating point is chosen, see :func:`mil_models.calibration.operating_point`.
    seed
        Of all draws of patients.
    resamples
        Draws of patients, and permutations.
    """

    rule: Rule = "youden"
    at_least: float = 0.95
    seed: int = 0
    resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise ValueError(f"resamples={self.resamples}: must be at least 100")
        if self.rule not in ("youden", "sensitivity", "specificity"):
            raise ValueError(f"rule={self.rule!r}: use youden, sensitivity, specificity")
        if not 0 < self.at_least <= 1:
            raise ValueError(f"at_least={self.at_least}: must be above 0 and at most 1")


def evaluate_answers(
    answers: Answers,
    patients: Sequence[str],
    *,
    folds: Sequence[str] | None = None,
    fitted_on: ClassAnswers | LabelAnswers | None = None,
    point: OperatingPoint | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    options: EvaluationOptions = EvaluationOptions(),
) -> dict[str, Any]:
    """Return figures, calibration, operating point, test against chance and subgroups, as JSON.

    Parameters
    ----------
    patients
        The patient of every slide.
    folds
        The fold that tested each slide. Calibration and operating point are fitted on all other
        folds, one after the other; without folds five groups of patients take their place.
    fitted_on
        Answers to other slides (a validation set) of the same kind, to fit both on instead.
    point
        An operating point that was chosen before, to be judged as it is.
    groups
        Columns by which subgroups are formed, a value for every slide.

    Raises
    ------
    ValueError
        `fitted_on` answers another question, or has other classes or another order of them.
    """
    if fitted_on is not None:
        _check_alike(answers, fitted_on)
    seed, resamples = options.seed, options.resamples
    found: dict[str, Any] = {
        "metrics": answer_metrics(answers, patients, seed=seed, resamples=resamples),
        "chance": against_chance(answers, patients, seed=seed, permutations=resamples),
        "subgroups": {
            column: subgroups(answers, patients, values, seed=seed, resamples=resamples)
            for column, values in (groups or {}).items()
        },
    }
    if isinstance(answers, LabelAnswers):
        others = fitted_on if isinstance(fitted_on, LabelAnswers) else None
        found["labels"] = label_figures(
            answers, patients, _parts(patients, folds), others, options=options
        )
    if isinstance(answers, ClassAnswers):
        fitted_on = fitted_on if isinstance(fitted_on, ClassAnswers) else None
        parts = _parts(patients, folds)
        found["calibration"] = calibration_figures(answers, patients, parts, fitted_on)
        matrix = confusion_matrix(
            answers.targets, answers.scores.argmax(axis=1), labels=range(len(answers.classes))
        )
        found["confusion"] = matrix.tolist()
        if len(answers.classes) == 2:
            found["operating_point"] = judged_point(
                answers, patients, parts, fitted_on, point, options
            )
    if isinstance(answers, SurvivalAnswers):
        found["risk_groups"] = risk_groups(answers)
    return found


def calibration_figures(
    answers: ClassAnswers,
    patients: Sequence[str],
    parts: Sequence[str],
    fitted_on: ClassAnswers | None = None,
) -> dict[str, Any]:
    """Return calibration errors, Brier score and log loss before and after each calibration.

    A calibration that cannot be fitted is None, with its reason.
    """
    found: dict[str, Any] = {"before": _calibration_of(answers.targets, answers.scores)}
    for method in METHODS:
        try:
            if fitted_on is not None:
                fitted = fit(method, fitted_on.targets, fitted_on.scores)
                scores = fitted.apply(answers.scores)
            else:
                fitted = fit(method, answers.targets, answers.scores)
                scores = cross_fitted(
                    method, answers.targets, answers.scores, patients, folds=parts
                )
        except CalibrationError as err:
            found[method] = None
            found[f"{method}_reason"] = str(err)
            continue
        found[method] = _calibration_of(answers.targets, scores) | {"fitted": fitted.to_dict()}
    found["fitted_on"] = "other slides" if fitted_on is not None else "other folds"
    return found


def label_figures(
    answers: LabelAnswers,
    patients: Sequence[str],
    parts: Sequence[str],
    fitted_on: LabelAnswers | None = None,
    *,
    options: EvaluationOptions = EvaluationOptions(),
) -> dict[str, dict[str, Any]]:
    """Return `calibration` and `operating_point` of each label, from slides where it is known."""
    found = {}
    for number, label in enumerate(answers.classes):
        one, known = _one_label(answers, number)
        others = None if fitted_on is None else _one_label(fitted_on, number)[0]
        whose, folds = ([texts[i] for i in known.tolist()] for texts in (patients, parts))
        found[label] = {
            "calibration": calibration_figures(one, whose, folds, others),
            "operating_point": judged_point(one, whose, folds, others, None, options),
        }
    return found


def _one_label(answers: LabelAnswers, number: int) -> tuple[ClassAnswers, NDArray[np.int64]]:
    """Return a label as a question of its own, and the rows in which it is known."""
    known = np.flatnonzero(np.isfinite(answers.targets[:, number]))
    targets = answers.targets[known, number].astype(np.int64)
    scores = against_absence(answers.scores[known, number])
    return ClassAnswers("binary", ("absent", "present"), targets, scores), known


def _check_alike(answers: Answers, others: ClassAnswers | LabelAnswers) -> None:
    if not isinstance(answers, type(others)) or answers.classes != others.classes:
        asked = getattr(answers, "classes", ())
        raise ValueError(
            f"fit on {', '.join(others.classes)}, judged {', '.join(asked) or 'numbers'}: "
            "both must be of the same classes in the same order"
        )


def judged_point(
    answers: ClassAnswers,
    patients: Sequence[str],
    parts: Sequence[str],
    fitted_on: ClassAnswers | None,
    point: OperatingPoint | None,
    options: EvaluationOptions,
) -> dict[str, Any]:
    """Return an operating point, and what it does to slides that it was not chosen on.

    `chosen` is the point; `sensitivity`, `specificity`, `ppv` and `npv` with their intervals are
    those of the slides judged: by the point itself if it is of other slides, else by points chosen
    fold by fold on the other folds (then `chosen`, of all slides, is the one to go on with).
    """
    positive, scores = answers.targets == 1, answers.scores[:, 1]
    choice: dict[str, Any] = {"rule": options.rule, "at_least": options.at_least}
    try:
        if point is None and fitted_on is not None:
            point = operating_point(fitted_on.targets == 1, fitted_on.scores[:, 1], **choice)
        if point is not None:
            called, how = point.is_positive(scores), "other slides"
        else:
            point = operating_point(positive, scores, **choice)
            called, how = np.zeros(len(scores), bool), "other folds"
            groups = np.asarray(patients, dtype=str)
            for part in np.unique(parts):
                held = np.asarray(parts) == part
                others = ~held & ~np.isin(groups, groups[held])
                own = operating_point(positive[others], scores[others], **choice)
                called[held] = own.is_positive(scores[held])
    except CalibrationError as err:
        return {"chosen": None, "reason": str(err)}
    said = called.astype(np.int64)

    def figures(weights: Floats) -> dict[str, Floats]:
        matrix = confusion(answers.targets, said, 2, weights)
        rows, columns = recalls(matrix), recalls(matrix.transpose(0, 2, 1))
        return {"sensitivity": rows[:, 1], "specificity": rows[:, 0],
                "ppv": columns[:, 1], "npv": columns[:, 0]}  # fmt: skip

    draws = bootstrap(figures, patients, seed=options.seed, resamples=options.resamples)
    found: dict[str, Any] = {"chosen": point.to_dict(), "chosen_on": how}
    for name, value in figures(np.ones((1, len(scores)))).items():
        interval = percentile_interval(draws[name]) if np.isfinite(value[0]) else None
        found[name] = float(value[0]) if np.isfinite(value[0]) else None
        found[f"{name}_low"] = None if interval is None else interval[0]
        found[f"{name}_high"] = None if interval is None else interval[1]
    return found


def roc_points(answers: ClassAnswers | LabelAnswers) -> dict[str, tuple[Floats, Floats]]:
    """Return 1 - specificity and sensitivity of each class that has slides on both sides."""
    return {
        name: roc_curve(truth, score, drop_intermediate=False)[:2]
        for name, truth, score in _one_against_rest(answers)
    }


def precision_recall_points(
    answers: ClassAnswers | LabelAnswers,
) -> dict[str, tuple[Floats, Floats]]:
    """Return recall (rising) and precision of each class that has slides on both sides."""
    found = {}
    for name, truth, score in _one_against_rest(answers):
        precision, recall, _ = precision_recall_curve(truth, score)
        found[name] = recall[::-1], precision[::-1]
    return found


def risk_groups(answers: SurvivalAnswers) -> dict[str, Any]:
    """Return Kaplan-Meier's curve of slides of high and low risk, and the log-rank p-value.

    The median of the predicted risks parts them: no outcome is looked at.

    References
    ----------
    Kaplan & Meier 1958, JASA 53:457; Mantel 1966, Cancer Chemother Rep 50:163 (both by SciPy).
    """
    high = answers.risk > np.median(answers.risk)
    sides = {"high risk": high, "low risk": ~high}
    if not high.any() or not answers.event.any():
        return {"p": None, "reason": "all risks are alike, or no slide has an event"}
    samples = {
        name: CensoredData.right_censored(answers.time[own], ~answers.event[own])
        for name, own in sides.items()
    }
    found: dict[str, Any] = {"p": float(logrank(*samples.values()).pvalue), "groups": {}}
    for name, own in sides.items():
        group: dict[str, Any] = {"slides": int(own.sum()), "events": int(answers.event[own].sum())}
        if answers.event[own].any():
            curve = ecdf(samples[name]).sf
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", RuntimeWarning
                )  # no error where the curve is 1 or 0
                band = curve.confidence_interval(0.95, method="log-log")
            group |= {"time": curve.quantiles.tolist(), "survival": curve.probabilities.tolist(),
                      "low": _filled(band.low.probabilities, curve.probabilities),
                      "high": _filled(band.high.probabilities, curve.probabilities)}  # fmt: skip
        found["groups"][name] = group
    return found


def _filled(band: Floats, curve: Floats) -> list[float]:
    """Return a band with the curve itself where no error can be said (before an event, at 0)."""
    return [float(b) if np.isfinite(b) else float(c) for b, c in zip(band, curve, strict=True)]


def _parts(patients: Sequence[str], folds: Sequence[str] | None) -> list[str]:
    """Return the folds if there are several, else five groups of patients."""
    if folds is not None and len(set(folds)) > 1:
        return list(folds)
    number = {name: i for i, name in enumerate(sorted(set(patients)))}
    return [str(number[patient] % PARTS_WITHOUT_FOLDS) for patient in patients]


def _calibration_of(targets: NDArray[np.int64], scores: Floats) -> dict[str, Any]:
    own = np.clip(scores[np.arange(len(targets)), targets], 1e-12, 1)
    return {
        "ece": calibration_error(targets, scores),
        "ece_equal_mass": calibration_error(targets, scores, equal_mass=True),
        "brier": brier_score(targets, scores),
        "log_loss": float(-np.log(own).mean()),
        "bins": [
            [row.confidence, row.frequency, row.slides]
            for row in reliability(*confidence_and_truth(targets, scores))
        ],
    }


def _one_against_rest(
    answers: ClassAnswers | LabelAnswers,
) -> list[tuple[str, NDArray[np.bool_], Floats]]:
    found = []
    for c, name in enumerate(answers.classes):
        if isinstance(answers, LabelAnswers):
            known = ~np.isnan(answers.targets[:, c])
            truth, score = answers.targets[known, c] == 1, answers.scores[known, c]
        elif len(answers.classes) == 2 and c == 0:
            continue
        else:
            truth, score = answers.targets == c, answers.scores[:, c]
        if truth.any() and not truth.all():
            found.append((name, truth, score))
    return found
