"""The tables a training leaves: out-of-fold predictions, losses by epoch, doubtful labels."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mil_models.answers import CLASS_TASKS
from mil_models.checkpoint import source_of
from mil_models.labels import LabelledSlide
from mil_models.loop import Learned, Lesson
from mil_models.noise import label_issues
from mil_models.tasks import Task
from tiling.nodes import Json

Scores = Mapping[int, tuple[int, NDArray[np.float64]]]
"""By the index of a slide: the fold that tested it, and the predicted values ``(P,)``."""
FEWEST_FOR_ISSUES = 10
"""With fewer slides an estimate of how often labels are wrong means nothing."""


def prediction_rows(
    slides: Sequence[LabelledSlide], question: Task, scores: Scores
) -> list[dict[str, str]]:
    """Return one row per bag; values where a fold that did not see it gave some.

    Several slides in a bag stand in one row, with ``;`` between their ids and sources.
    """
    columns = list(question.outputs.values())
    truth_columns = {key: "" for s in slides for key in question.truth(s.readings)}
    rows = []
    for index, slide in enumerate(slides):
        row = {"slide_id": slide.slide_id, "patient_id": slide.patient_id, "fold": ""}
        row |= {**truth_columns, **question.truth(slide.readings)}
        row |= dict.fromkeys(columns, "")
        row["source"] = ";".join(source_of(store) for store in slide.stores)
        if slide.site:
            row["site"] = slide.site
        if index in scores:
            fold, values = scores[index]
            row["fold"] = str(fold)
            row |= {c: f"{v:.6f}" for c, v in zip(columns, values, strict=True)}
        rows.append(row)
    return rows


def epoch_rows(lessons: Sequence[Lesson], learned: Sequence[Learned]) -> list[Json]:
    """Return the losses of each epoch of each head."""
    return [
        {"head": lesson.name, **{k: "" if v is None else f"{v:.8g}" for k, v in record.items()}}
        for lesson, one in zip(lessons, learned, strict=True)
        for record in one.history
    ]


def issue_rows(slides: Sequence[LabelledSlide], question: Task, scores: Scores) -> list[Json]:
    """Return the tested slides, those whose label is likely wrong first; none where the task has
    no classes, or too few slides were tested to say.
    """  # noqa: D205 (one sentence)
    classes = list(question.outputs)
    tested = list(scores)
    if question.kind not in CLASS_TASKS or len(tested) < FEWEST_FOR_ISSUES:
        return []
    labels = np.array([classes.index(slides[i].label) for i in tested])
    if len(np.unique(labels)) < len(classes):
        return []
    values = np.array([scores[i][1] for i in tested])
    found = label_issues(labels, values / values.sum(axis=1, keepdims=True))
    order = np.lexsort((found.quality, ~found.is_issue))
    return [
        {"slide_id": slides[tested[n]].slide_id, "patient_id": slides[tested[n]].patient_id,
         "label": slides[tested[n]].label, "suggested": classes[found.suggested[n]],
         "quality": f"{found.quality[n]:.6f}", "likely_wrong": str(bool(found.is_issue[n])).lower()}
        for n in order
    ]  # fmt: skip


def require_tensorboard() -> None:
    """Raise `ValueError` where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard: install it with pip install 'wsi-pipeline[tensorboard]'")


def write_events(folder: Path, lessons: Sequence[Lesson], learned: Sequence[Learned]) -> None:
    """Write the losses for TensorBoard, a run for each head."""
    from torch.utils.tensorboard import SummaryWriter

    for lesson, one in zip(lessons, learned, strict=True):
        with SummaryWriter(str(folder / lesson.name.replace(" ", "_"))) as writer:
            for record in one.history:
                for name in ("train_loss", "validation_loss", "learning_rate"):
                    if record[name] is not None:
                        writer.add_scalar(name, record[name], record["epoch"])
