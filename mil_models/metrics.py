"""Figures of a model by kind of task, each with an interval over patients.

A figure that cannot be said is None, and `reasons` says why; it is never a guess such as 0.5.
scikit-learn and SciPy give the standard figures; the intervals come from the weighted forms in
:mod:`mil_models.weighted` and :mod:`mil_models.survival`, which agree with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from mil_models import survival, weighted
from mil_models.answers import (
    Answers,
    ClassAnswers,
    LabelAnswers,
    SurvivalAnswers,
    ValueAnswers,
    parse_answers,
)
from mil_models.delong import delong
from mil_models.resampling import RESAMPLES, bootstrap, percentile_interval

Floats = NDArray[np.float64]
SPECIFICITIES = (0.9, 0.95)


def auroc(targets: NDArray[np.int64], scores: NDArray[np.float64]) -> float | None:
    """Return the area under the ROC curve; over several classes the mean of one against the rest.

    `targets` (N,) are class indices, `scores` (N, C) probabilities. None if a class is missing.
    """
    classes = scores.shape[1]
    if len(np.unique(targets)) < classes:
        return None
    if classes == 2:
        return float(roc_auc_score(targets, scores[:, 1]))
    each = [roc_auc_score(targets == c, scores[:, c]) for c in range(classes)]
    return float(np.mean(each))


def patient_interval(
    targets: NDArray[np.int64],
    scores: NDArray[np.float64],
    patients: Sequence[str],
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of :func:`auroc`, patients drawn with replacement.

    Draws in which a class is missing are left out; None if they are most of the draws.
    """
    answers = ClassAnswers("multiclass", ("",) * scores.shape[1], targets, scores)
    draws = bootstrap(
        lambda w: {"auroc": _areas(answers, w)[0]}, patients, seed=seed, resamples=resamples
    )
    return percentile_interval(draws["auroc"])


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


def task_metrics(
    task: str,
    columns: Mapping[str, Sequence[str]],
    patients: Sequence[str],
    *,
    classes: Sequence[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return the figures of a table of predictions, as JSON values.

    Parameters
    ----------
    task
        binary, multiclass, ordinal, multilabel, regression or survival.
    columns
        Columns by name, as text: `label` and `score_<class>`; `label_<name>` and `score_<name>`;
        `value` and `predicted`; or `time`, `event`, `risk` and if wanted `survival_<t>`. Rows
        without a prediction are left out.
    patients
        The patient of every row; all slides of a patient are drawn together.
    classes
        Names of classes or labels in their order.

    Returns
    -------
    `slides`, `patients`, and every figure as `<name>`, `<name>_low`, `<name>_high` (95 %); what
    cannot be said is None, and `reasons` says why.

    Raises
    ------
    PredictionTableError
        A column is missing, or a value is not what it has to be.
    """
    answers, rows = parse_answers(task, columns, classes=classes)
    kept = [patients[row] for row in rows]
    return answer_metrics(answers, kept, seed=seed, resamples=resamples)


def answer_metrics(
    answers: Answers, patients: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return the figures of :func:`task_metrics` of answers that are arrays already."""
    found: dict[str, Any] = {"slides": len(patients), "patients": len(set(patients))}
    if not len(patients):
        return found
    figures = figures_of(answers)
    points = {name: float(v[0]) for name, v in figures(np.ones((1, len(patients)))).items()}
    points |= standard_points(answers)
    draws = bootstrap(figures, patients, seed=seed, resamples=resamples)
    reasons: dict[str, str] = {}
    for name, value in points.items():
        known = bool(np.isfinite(value))
        interval = percentile_interval(draws[name]) if known else None
        found[name] = value if known else None
        found[f"{name}_low"] = None if interval is None else interval[0]
        found[f"{name}_high"] = None if interval is None else interval[1]
        if not known:
            reasons[name] = _why(answers, name)
        elif interval is None:
            reasons[f"{name}_low"] = "in most draws of patients it cannot be said"
    if isinstance(answers, ClassAnswers) and len(answers.classes) == 2:
        found |= _delong(answers, patients, reasons)
    if reasons:
        found["reasons"] = reasons
    return found


def figures_of(answers: Answers) -> Callable[[Floats], dict[str, Floats]]:
    """Return the function that gives every figure ``(R,)`` of weights ``(R, N)``."""
    if isinstance(answers, ClassAnswers):
        return lambda w: _class_figures(answers, w)
    if isinstance(answers, LabelAnswers):
        return lambda w: _label_figures(answers, w)
    if isinstance(answers, ValueAnswers):
        return lambda w: _value_figures(answers, w)
    return lambda w: _survival_figures(answers, w)


def standard_points(answers: Answers) -> dict[str, float]:
    """Return what scikit-learn and SciPy say of the unweighted slides, where they define it."""
    if isinstance(answers, ClassAnswers):
        return _class_points(answers)
    if isinstance(answers, ValueAnswers):
        return _value_points(answers)
    return {}


def _areas(answers: ClassAnswers, weights: Floats) -> tuple[Floats, Floats]:
    """Return AUROC and average precision; over several classes the means of one against rest."""
    count = len(answers.classes)
    areas, precisions = [], []
    for c in [1] if count == 2 else range(count):
        positive = weights * (answers.targets == c)
        negative = weights * (answers.targets != c)
        areas.append(weighted.auroc(answers.scores[:, c], positive, negative))
        precisions.append(weighted.average_precision(answers.scores[:, c], positive, negative))
    return np.mean(areas, axis=0), np.mean(precisions, axis=0)


def _class_figures(answers: ClassAnswers, weights: Floats) -> dict[str, Floats]:
    count, targets, scores = len(answers.classes), answers.targets, answers.scores
    area, precision = _areas(answers, weights)
    matrix = weighted.confusion(targets, scores.argmax(axis=1), count, weights)
    recalls, f1 = weighted.recalls(matrix), weighted.f1(matrix)
    truth = np.eye(count)[targets]
    brier = ((scores - truth) ** 2).sum(axis=1) / (2 if count == 2 else 1)
    found = {
        "auroc": area,
        "auprc": precision,
        "accuracy": weighted.mean((scores.argmax(axis=1) == targets) * 1.0, weights),
        "balanced_accuracy": recalls.mean(axis=1),
        "f1": f1[:, 1] if count == 2 else f1.mean(axis=1),
        "kappa": weighted.kappa(matrix, quadratic=False),
        "brier": weighted.mean(brier, weights),
    }
    if answers.task == "ordinal":
        found["quadratic_kappa"] = weighted.kappa(matrix, quadratic=True)
        apart = np.abs(scores.argmax(axis=1) - targets) * 1.0
        found["mean_absolute_error"] = weighted.mean(apart, weights)
    if count == 2:
        found["sensitivity"], found["specificity"] = recalls[:, 1], recalls[:, 0]
        sides = weights * (targets == 1), weights * (targets == 0)
        for level in SPECIFICITIES:
            found[f"sensitivity_at_{level * 100:.0f}_specificity"] = (
                weighted.sensitivity_at_specificity(scores[:, 1], *sides, level)
            )
    return found


def _class_points(answers: ClassAnswers) -> dict[str, float]:
    count, targets, scores = len(answers.classes), answers.targets, answers.scores
    if len(np.unique(targets)) < count:
        return {}
    said = scores.argmax(axis=1)
    area = auroc(targets, scores)
    sides = [1] if count == 2 else range(count)
    points = {
        "auroc": np.nan if area is None else area,
        "auprc": float(
            np.mean([average_precision_score(targets == c, scores[:, c]) for c in sides])
        ),
        "balanced_accuracy": float(balanced_accuracy_score(targets, said)),
        "f1": float(f1_score(targets, said, average="binary" if count == 2 else "macro")),
        "kappa": float(cohen_kappa_score(targets, said)),
    }
    if answers.task == "ordinal":
        points["quadratic_kappa"] = float(
            cohen_kappa_score(targets, said, weights="quadratic", labels=range(count))
        )
    return points


def _label_figures(answers: LabelAnswers, weights: Floats) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for c, name in enumerate(answers.classes):
        known = ~np.isnan(answers.targets[:, c])
        w, truth, score = weights[:, known], answers.targets[known, c], answers.scores[known, c]
        positive, negative = w * (truth == 1), w * (truth == 0)
        matrix = weighted.confusion(truth.astype(np.int64), (score >= 0.5).astype(np.int64), 2, w)
        found |= {
            f"{name}.auroc": _area_or_nan(score, positive, negative, weighted.auroc),
            f"{name}.auprc": _area_or_nan(score, positive, negative, weighted.average_precision),
            f"{name}.balanced_accuracy": weighted.recalls(matrix).mean(axis=1),
            f"{name}.f1": weighted.f1(matrix)[:, 1],
            f"{name}.brier": weighted.mean((score - truth) ** 2, w),
        }
    for figure in ("auroc", "auprc", "balanced_accuracy", "f1", "brier"):
        each = np.stack([found[f"{name}.{figure}"] for name in answers.classes])
        found[figure] = each.mean(axis=0)
    return found


def _area_or_nan(
    score: Floats, positive: Floats, negative: Floats, area: Callable[..., Floats]
) -> Floats:
    return area(score, positive, negative) if len(score) else np.full(len(positive), np.nan)


def _value_figures(answers: ValueAnswers, weights: Floats) -> dict[str, Floats]:
    values, predicted = answers.values, answers.predicted
    error = predicted - values
    square = weighted.mean(error**2, weights)
    spread = weighted.mean(values**2, weights) - weighted.mean(values, weights) ** 2
    ranks = weighted.ranks(values, weights), weighted.ranks(predicted, weights)
    shape = weights.shape
    return {
        "mean_absolute_error": weighted.mean(np.abs(error), weights),
        "root_mean_square_error": np.sqrt(square),
        "r2": 1 - weighted.divide(square, np.where(spread > 1e-12 * np.var(values), spread, 0.0)),
        "pearson": weighted.correlation(
            np.broadcast_to(values, shape), np.broadcast_to(predicted, shape), weights
        ),
        "spearman": weighted.correlation(*ranks, weights),
    }


def _value_points(answers: ValueAnswers) -> dict[str, float]:
    values, predicted = answers.values, answers.predicted
    points = {
        "mean_absolute_error": float(mean_absolute_error(values, predicted)),
        "root_mean_square_error": float(np.sqrt(mean_squared_error(values, predicted))),
    }
    if np.ptp(values) > 0:
        points["r2"] = float(r2_score(values, predicted))
        if np.ptp(predicted) > 0:
            points["pearson"] = float(pearsonr(values, predicted).statistic)
            points["spearman"] = float(spearmanr(values, predicted).statistic)
    return points


def _survival_figures(answers: SurvivalAnswers, weights: Floats) -> dict[str, Floats]:
    time, event, risk = answers.time, answers.event, answers.risk
    found = {"c_index": survival.concordance(time, event, risk, weights)}
    areas = []
    for k, at in enumerate(answers.at):
        areas.append(survival.auc_at(time, event, risk, weights, at))
        found[f"auc_{at:g}"] = areas[-1]
        found[f"brier_{at:g}"] = survival.brier_at(time, event, answers.survival[:, k], weights, at)
    if areas:
        found["mean_auc"] = np.mean(areas, axis=0)
    if len(answers.at) > 1:
        found["integrated_brier"] = survival.integrated_brier(
            time, event, answers.survival, weights, answers.at
        )
    return found


def _delong(
    answers: ClassAnswers, patients: Sequence[str], reasons: dict[str, str]
) -> dict[str, Any]:
    if len(np.unique(answers.targets)) < 2:
        return {}
    interval = delong(answers.targets == 1, answers.scores[None, :, 1], patients).interval()
    if interval is None:
        reasons["auroc_delong_low"] = (
            "DeLong's variance is 0 or unknown: the scores separate the classes, or a class has "
            "one patient"
        )
        return {"auroc_delong_low": None, "auroc_delong_high": None}
    return {"auroc_delong_low": interval[0], "auroc_delong_high": interval[1]}


def _why(answers: Answers, name: str) -> str:
    """Return why a figure of all slides cannot be said."""
    if isinstance(answers, ClassAnswers):
        missing = [c for i, c in enumerate(answers.classes) if not (answers.targets == i).any()]
        if missing:
            return f"no slide of class {', '.join(missing)}"
        return "the classes said or seen are too few to define it"
    if isinstance(answers, LabelAnswers):
        single = [
            c for i, c in enumerate(answers.classes)
            if len(np.unique(answers.targets[~np.isnan(answers.targets[:, i]), i])) < 2
        ]  # fmt: skip
        return f"label {', '.join(single)} has one known value only" if single else "undefined"
    if isinstance(answers, ValueAnswers):
        return "the true or the predicted values are all alike"
    if not answers.event.any():
        return "no slide has an event"
    return "no slide is known to be on one of the two sides of a time"
