"""What the folds of a training say of the slides that they had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mil_models.answers import CLASS_TASKS
from mil_models.bags import BagCache
from mil_models.calibration import Method, Rule, for_card
from mil_models.labels import LabelledSlide
from mil_models.loop import Learned, Lesson, score_slides
from mil_models.metrics import task_metrics
from mil_models.tables import Scores
from mil_models.tasks import Task
from mil_models.tasks.several import Several
from tiling.nodes import Json


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
    slides: Sequence[LabelledSlide],
    question: Task,
    scores: Scores,
    *,
    method: Method | Literal["none"],
    rule: Rule,
    at_least: float,
) -> Json:
    """Return the card's calibration and operating point, from slides that no fold had seen."""
    if question.kind not in CLASS_TASKS:
        return {}
    classes = list(question.outputs)
    targets = np.array([classes.index(slides[i].label) for i in scores], np.int64)
    values = np.array([value for _, value in scores.values()]).reshape(-1, len(classes))
    found = for_card(targets, values, method=method, rule=rule, at_least=at_least)
    return {"held_out": found}


def _figures(rows: Sequence[Mapping[str, str]], question: Task, prefix: str, seed: int) -> Json:
    outputs = [f"{prefix}{column}" for column in question.outputs.values()]
    names = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    truths = [name for name in names if name not in outputs] if prefix else ["slide_id"]
    rows = [row for row in rows if row["fold"] and any(row.get(name) for name in truths)]
    columns = {n.removeprefix(prefix): [row.get(n, "") for row in rows] for n in names}
    patients = [row["patient_id"] for row in rows]
    return task_metrics(question.kind, columns, patients, classes=list(question.outputs), seed=seed)
