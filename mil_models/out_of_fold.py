"""What the folds of a training say of the slides that they had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from mil_models.answers import CLASS_TASKS, ClassAnswers, LabelAnswers, parse_answers
from mil_models.bags import BagCache
from mil_models.calibration import TEMPERATURES, Method, Temperature, against_absence, fit
from mil_models.loop import Learned, Lesson, score_slides
from mil_models.metrics import task_metrics
from mil_models.operating_point import Rule, operating_point
from mil_models.tables import Scores
from mil_models.tasks import Task
from mil_models.tasks.several import Several
from tiling.nodes import Json

FEWEST_PER_CLASS = 10
"""Slides of each class that a model's own calibration is fitted on, at least."""


def tested_scores(
    lessons: Sequence[Lesson], learned: Sequence[Learned], cache: BagCache
) -> dict[int, tuple[int, NDArray[np.float64]]]:
    """Return, for each slide that some fold tested, the fold and the mean of its heads' answers."""
    found: dict[int, list[NDArray[np.float64]]] = {}
    fold_of: dict[int, int] = {}
    splits = list(dict.fromkeys(lesson.split for lesson in lessons))
    for lesson, one in zip(lessons, learned, strict=True):
        tested = lesson.split.test
        if not tested:
            continue
        logits = score_slides(one.head, [lesson.slides[i] for i in tested], cache)
        values = one.task.predict(logits).double().numpy()
        for index, value in zip(tested, values, strict=True):
            found.setdefault(index, []).append(value)
            fold_of[index] = splits.index(lesson.split)
    return {i: (fold_of[i], np.mean(values, axis=0)) for i, values in sorted(found.items())}


def fold_metrics(rows: Sequence[Mapping[str, str]], question: Task, seed: int) -> Json:
    """Return the out-of-fold figures: of the task, or of each of several by its name."""
    if not any(row["fold"] for row in rows):
        return {"slides": 0}
    if isinstance(question, Several):
        return {name: _figures(rows, one, f"{name}.", seed) for name, one in question.tasks.items()}
    return _figures(rows, question, "", seed)


def held_out_card(
    rows: Sequence[Mapping[str, str]],
    scores: Scores,
    question: Task,
    *,
    method: Method | Literal["none"] = "temperature",
    rule: Rule = "youden",
    at_least: float = 0.95,
) -> Json:
    """Return the card's calibration and operating point, from slides that no fold had seen.

    Each label, and each of several tasks, has its own. Empty where the task has no probabilities.

    Parameters
    ----------
    rows
        Of ``oof_predictions.csv``: what is true of the slides in `scores`.
    """
    if not scores:
        return {"held_out": {"calibration": None, "reason": "no fold tested a slide"}}
    values = np.array([value for _, value in scores.values()])
    parts = _parts([row for row in rows if row["fold"]], values, question)
    cards = {
        part.name: for_card(part.targets, part.scores, method=method, rule=rule, at_least=at_least)
        for part in parts if part.targets is not None
    }  # fmt: skip
    if not cards:
        return {}
    if question.kind in CLASS_TASKS:
        return {"held_out": cards[""]}
    fitted = [cards.get(part.name, {}).pop("calibration", None) for part in parts]
    calibration = {
        "method": "parts",
        "parts": [{"columns": part.columns, "calibration": one}
                  for part, one in zip(parts, fitted, strict=True)],
    }  # fmt: skip
    return {"held_out": {"calibration": calibration if any(fitted) else None, "parts": cards}}


def for_card(
    targets: NDArray[np.int64],
    scores: NDArray[np.float64],
    *,
    method: Method | Literal["none"] = "temperature",
    rule: Rule = "youden",
    at_least: float = 0.95,
) -> Json:
    """Return what a model's card holds of calibration and operating point, as JSON values.

    Keys: `calibration` and, of two classes, `operating_point` (of calibrated scores); None where
    they cannot be told, and `reason` why. Scores of few slides, or such that tell the classes
    apart without error, stay as they are: any temperature near 0 would be as good.

    Parameters
    ----------
    targets, scores
        Of slides that the model was not trained on, shapes ``(N,)`` and ``(N, C)``.
    """
    found: Json = {"calibration": None, "operating_point": None}
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


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Columns of the predicted values that are calibrated together.

    `targets` ``(N,)`` and `scores` ``(N, C)`` of the tested slides whose answer is known; no
    targets where the values are no probabilities.
    """

    name: str
    columns: int
    targets: NDArray[np.int64] | None
    scores: NDArray[np.float64]


def _parts(
    rows: Sequence[Mapping[str, str]],
    values: NDArray[np.float64],
    question: Task,
    prefix: str = "",
) -> list[_Part]:
    """Return the parts of `values` ``(rows, P)``, in their order."""
    if isinstance(question, Several):
        ends = np.cumsum([len(task.outputs) for task in question.tasks.values()])[:-1]
        named = zip(question.tasks.items(), np.split(values, ends, axis=1), strict=True)
        return [part for (name, task), own in named for part in _parts(rows, own, task, f"{name}.")]
    if question.kind not in (*CLASS_TASKS, "multilabel"):
        return [_Part(prefix.removesuffix("."), values.shape[1], None, values)]
    known, columns = _known(rows, question, prefix)
    answers, kept = parse_answers(question.kind, columns, classes=list(question.outputs))
    values = values[known][kept]
    if not isinstance(answers, LabelAnswers):
        targets = cast(ClassAnswers, answers).targets
        return [_Part(prefix.removesuffix("."), values.shape[1], targets, values)]
    found = []
    for number, label in enumerate(question.outputs):
        sure = np.isfinite(answers.targets[:, number])
        targets = answers.targets[sure, number].astype(np.int64)
        scores = against_absence(values[sure, number])
        found.append(_Part(f"{prefix}{label}", 1, targets, scores))
    return found


def _known(
    rows: Sequence[Mapping[str, str]], question: Task, prefix: str
) -> tuple[list[int], dict[str, list[str]]]:
    """Return which rows hold an answer to one of several questions, and its columns there."""
    outputs = [f"{prefix}{column}" for column in question.outputs.values()]
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    truths = [name for name in names if name not in outputs] if prefix else ["slide_id"]
    known = [i for i, row in enumerate(rows) if any(row.get(name) for name in truths)]
    return known, {n.removeprefix(prefix): [rows[i].get(n, "") for i in known] for n in names}


def _figures(rows: Sequence[Mapping[str, str]], question: Task, prefix: str, seed: int) -> Json:
    rows = [row for row in rows if row["fold"]]
    known, columns = _known(rows, question, prefix)
    patients = [rows[i]["patient_id"] for i in known]
    return task_metrics(question.kind, columns, patients, classes=list(question.outputs), seed=seed)
