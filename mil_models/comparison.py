"""Whether a model is better than another, better than chance, and equally good for everyone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mil_models import survival
from mil_models.answers import (
    Answers,
    ClassAnswers,
    LabelAnswers,
    SurvivalAnswers,
    ValueAnswers,
)
from mil_models.delong import delong
from mil_models.errors import PredictionTableError
from mil_models.metrics import answer_metrics, figures_of, standard_points
from mil_models.resampling import RESAMPLES, bootstrap, percentile_interval

PRIMARY = {
    "binary": "auroc", "multiclass": "auroc", "ordinal": "quadratic_kappa", "multilabel": "auroc",
    "regression": "mean_absolute_error", "survival": "c_index",
}  # fmt: skip
"""The figure that models are told apart by."""
LESS_IS_BETTER = ("mean_absolute_error", "root_mean_square_error", "brier")


def compare(
    first: Answers,
    second: Answers,
    patients: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Compare two models on the same slides, figure by figure.

    Parameters
    ----------
    first, second
        Answers to the same questions: the same slides in the same order.
    patients
        The patient of every slide.

    Returns
    -------
    For each figure its `difference` (first less second) with a 95 % interval (both models on the
    same draws of patients) and `p`, that of a permutation test that swaps the two models' answers
    patient by patient; for the AUROC of two classes also DeLong's interval and p-value.

    Raises
    ------
    PredictionTableError
        The answers are of different tasks or classes, or the truth differs.
    """
    _check_alike(first, second)
    count = len(patients)
    one, two = figures_of(first), figures_of(second)
    whole = np.ones((1, count))
    points = [{k: float(v[0]) for k, v in f(whole).items()} | standard_points(a)
              for f, a in ((one, first), (two, second))]  # fmt: skip
    draws = bootstrap(
        lambda w: {k: v - two_w[k] for two_w in [two(w)] for k, v in one(w).items()},
        patients, seed=seed, resamples=resamples,
    )  # fmt: skip
    both = figures_of(_concatenated(first, second))
    swapped = _swaps(patients, seed, resamples)
    ours, theirs = np.where(swapped, 0.0, 1.0), np.where(swapped, 1.0, 0.0)
    left, right = both(np.hstack([ours, theirs])), both(np.hstack([theirs, ours]))
    found: dict[str, Any] = {}
    for name in points[0]:
        gap = points[0][name] - points[1][name]
        interval = percentile_interval(draws[name]) if np.isfinite(gap) else None
        found[name] = {
            "first": _or_none(points[0][name]),
            "second": _or_none(points[1][name]),
            "difference": _or_none(gap),
            "low": None if interval is None else interval[0],
            "high": None if interval is None else interval[1],
            "p": _p_value(gap, left[name] - right[name]),
        }
    if isinstance(first, ClassAnswers) and isinstance(second, ClassAnswers):
        found["auroc"] |= _delong(first, second, patients)
    return found


def against_chance(
    answers: Answers, patients: Sequence[str], *, seed: int = 0, permutations: int = RESAMPLES
) -> dict[str, Any]:
    """Test the primary figure against models that know nothing, by permuting patients' answers.

    Whole patients' truths change places between patients of equally many slides, so that slides
    of a patient stay together.

    Returns
    -------
    `figure`, `value`, `chance` (the mean over permutations), `p`, `permutations`; p is None, with
    a `reason`, where the figure is not defined or fewer than 5 patients can change places.
    """
    figure = PRIMARY[answers.task]
    value = _primary(answers)
    found = {"figure": figure, "value": _or_none(value), "chance": None, "p": None,
             "permutations": permutations}  # fmt: skip
    blocks = _exchangeable(patients)
    if not np.isfinite(value) or sum(len(b) for b in blocks) < 5:
        few = "fewer than 5 patients can change places"
        return found | {"reason": few if np.isfinite(value) else "the figure is not defined"}
    rng, values = np.random.default_rng(seed), np.empty(permutations)
    for i in range(permutations):
        order = np.arange(len(patients))
        for block in blocks:  # (patients, slides of each)
            order[block.ravel()] = block[rng.permutation(len(block))].ravel()
        values[i] = _primary(_with_truth_of(answers, order))
    sign = -1 if figure in LESS_IS_BETTER else 1
    as_good = np.sum(sign * values >= sign * value - 1e-12)
    return found | {
        "chance": float(np.nanmean(values)),
        "p": float((as_good + 1) / (permutations + 1)),
    }


def subgroups(
    answers: Answers,
    patients: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """Return the figures of the slides of each group, in order of the groups' names."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows[group or "(none)"].append(row)
    return {
        group: answer_metrics(
            answers.take(np.array(own)), [patients[i] for i in own], seed=seed, resamples=resamples
        )
        for group, own in sorted(rows.items())
    }


def _delong(
    first: ClassAnswers, second: ClassAnswers, patients: Sequence[str]
) -> dict[str, float | None]:
    if len(first.classes) != 2 or len(np.unique(first.targets)) < 2:
        return {}
    scores = np.stack([first.scores[:, 1], second.scores[:, 1]])
    _, error, p = delong(first.targets == 1, scores, patients).difference()
    return {"delong_error": _or_none(error), "delong_p": p}


def _primary(answers: Answers) -> float:
    one = np.ones((1, len(_scores(answers))))
    if isinstance(answers, SurvivalAnswers):  # the other figures take long
        return float(survival.concordance(answers.time, answers.event, answers.risk, one)[0])
    return float(figures_of(answers)(one)[PRIMARY[answers.task]][0])


def _scores(answers: Answers) -> NDArray[np.float64]:
    if isinstance(answers, ClassAnswers | LabelAnswers):
        return answers.scores
    return answers.predicted if isinstance(answers, ValueAnswers) else answers.risk


def _with_truth_of(answers: Answers, order: NDArray[np.intp]) -> Answers:
    """Return the predictions as they are, with the truths of other slides."""
    if isinstance(answers, ClassAnswers):
        return ClassAnswers(answers.task, answers.classes, answers.targets[order], answers.scores)
    if isinstance(answers, LabelAnswers):
        return LabelAnswers(answers.task, answers.classes, answers.targets[order], answers.scores)
    if isinstance(answers, ValueAnswers):
        return ValueAnswers(answers.task, answers.values[order], answers.predicted)
    return SurvivalAnswers(answers.task, answers.time[order], answers.event[order], answers.risk,
                           answers.at, answers.survival)  # fmt: skip


def _concatenated(first: Answers, second: Answers) -> Answers:
    if isinstance(first, ClassAnswers) and isinstance(second, ClassAnswers):
        return ClassAnswers(first.task, first.classes, np.r_[first.targets, second.targets],
                            np.r_[first.scores, second.scores])  # fmt: skip
    if isinstance(first, LabelAnswers) and isinstance(second, LabelAnswers):
        return LabelAnswers(first.task, first.classes, np.r_[first.targets, second.targets],
                            np.r_[first.scores, second.scores])  # fmt: skip
    if isinstance(first, ValueAnswers) and isinstance(second, ValueAnswers):
        return ValueAnswers(first.task, np.r_[first.values, second.values],
                            np.r_[first.predicted, second.predicted])  # fmt: skip
    if isinstance(first, SurvivalAnswers) and isinstance(second, SurvivalAnswers):
        return SurvivalAnswers(
            first.task, np.r_[first.time, second.time], np.r_[first.event, second.event],
            np.r_[first.risk, second.risk], first.at, np.r_[first.survival, second.survival],
        )  # fmt: skip
    raise PredictionTableError(f"one table is of the task {first.task}, the other {second.task}")


def _check_alike(first: Answers, second: Answers) -> None:
    _concatenated(first, second)
    if getattr(first, "classes", ()) != getattr(second, "classes", ()):
        raise PredictionTableError("the two tables have different classes")
    if isinstance(first, SurvivalAnswers) and not np.array_equal(
        first.at, getattr(second, "at", ())
    ):
        raise PredictionTableError("the two tables have survival at different times")
    truths = zip(_truth(first), _truth(second), strict=True)
    if not all(np.allclose(a, b, equal_nan=True) for a, b in truths):
        raise PredictionTableError("the two tables differ in what is true of a slide")


def _truth(answers: Answers) -> tuple[NDArray[Any], ...]:
    if isinstance(answers, ClassAnswers | LabelAnswers):
        return (answers.targets,)
    if isinstance(answers, ValueAnswers):
        return (answers.values,)
    return answers.time, answers.event


def _swaps(patients: Sequence[str], seed: int, count: int) -> NDArray[np.bool_]:
    """Return for each permutation which slides change models, ``(count, N)``."""
    names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    return np.asarray(np.random.default_rng([seed, 1]).random((count, len(names))) < 0.5)[:, index]


def _p_value(gap: float, permuted: NDArray[np.float64]) -> float | None:
    if not np.isfinite(gap):
        return None
    defined = permuted[np.isfinite(permuted)]
    return float((np.sum(np.abs(defined) >= abs(gap) - 1e-12) + 1) / (len(defined) + 1))


def _exchangeable(patients: Sequence[str]) -> list[NDArray[np.intp]]:
    """Return the rows of patients that may change places: ``(patients, slides of each)``."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, patient in enumerate(patients):
        rows[patient].append(row)
    by_count: dict[int, list[list[int]]] = defaultdict(list)
    for own in rows.values():
        by_count[len(own)].append(own)
    return [np.array(block) for block in by_count.values() if len(block) > 1]


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
