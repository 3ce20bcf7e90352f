"""What slides were said to be, beside what they are: a table of predictions as arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mil_models.errors import PredictionTableError

TASKS = ("binary", "multiclass", "ordinal", "multilabel", "regression", "survival")
CLASS_TASKS = ("binary", "multiclass", "ordinal")
SUM_TOLERANCE = 1e-3
"""How far the probabilities of a slide may be from a sum of 1: tables are rounded."""
Columns = Mapping[str, Sequence[str]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ClassAnswers:
    """Class indices `targets` ``(N,)`` and probabilities `scores` ``(N, C)``.

    The last class is the positive one of a binary task; ordinal classes stand in their order.
    """

    task: str
    classes: tuple[str, ...]
    targets: NDArray[np.int64]
    scores: Floats

    def take(self, rows: NDArray[np.intp]) -> ClassAnswers:
        """Return the answers of some slides."""
        return ClassAnswers(self.task, self.classes, self.targets[rows], self.scores[rows])


@dataclass(frozen=True, slots=True, eq=False)
class LabelAnswers:
    """Targets and probabilities of L labels, both ``(N, L)``; NaN where a target is not known."""

    task: str
    classes: tuple[str, ...]
    targets: Floats
    scores: Floats

    def take(self, rows: NDArray[np.intp]) -> LabelAnswers:
        """Return the answers of some slides."""
        return LabelAnswers(self.task, self.classes, self.targets[rows], self.scores[rows])


@dataclass(frozen=True, slots=True, eq=False)
class ValueAnswers:
    """True and predicted values, both ``(N,)``."""

    task: str
    values: Floats
    predicted: Floats

    def take(self, rows: NDArray[np.intp]) -> ValueAnswers:
        """Return the answers of some slides."""
        return ValueAnswers(self.task, self.values[rows], self.predicted[rows])


@dataclass(frozen=True, slots=True, eq=False)
class SurvivalAnswers:
    """Time and event (else censored), both ``(N,)``, and what was predicted.

    `risk` ``(N,)`` is higher for an earlier event; `survival` ``(N, T)`` is the probability of no
    event by each of `at` ``(T,)``.
    """

    task: str
    time: Floats
    event: NDArray[np.bool_]
    risk: Floats
    at: Floats
    survival: Floats

    def take(self, rows: NDArray[np.intp]) -> SurvivalAnswers:
        """Return the answers of some slides."""
        return SurvivalAnswers(
            self.task, self.time[rows], self.event[rows], self.risk[rows], self.at,
            self.survival[rows],
        )  # fmt: skip


Answers = ClassAnswers | LabelAnswers | ValueAnswers | SurvivalAnswers


def task_of(columns: Columns) -> str:
    """Return the kind of task that a table's columns speak of.

    Two classes are binary, more are multiclass: a table does not say that its classes are grades.

    Raises
    ------
    PredictionTableError
        They are those of no task.
    """
    scores = [name for name in columns if name.startswith("score_")]
    if {"time", "event", "risk"} <= set(columns):
        return "survival"
    if {"value", "predicted"} <= set(columns):
        return "regression"
    if scores and "label" in columns:
        return "binary" if len(scores) == 2 else "multiclass"
    if scores and any(f"label_{name.removeprefix('score_')}" in columns for name in scores):
        return "multilabel"
    raise PredictionTableError(
        "the columns are those of no task; needed are label and score_<class> (classes), "
        "label_<name> and score_<name> (several labels), value and predicted (regression), or "
        f"time, event and risk (survival); there are {', '.join(columns) or 'none'}"
    )


def parse_answers(
    task: str, columns: Columns, *, classes: Sequence[str] = (), name: str = "predictions"
) -> tuple[Answers, NDArray[np.intp]]:
    """Return what a table says, and the rows that it says it of.

    Rows without any prediction are left out: slides that no fold tested.

    Parameters
    ----------
    task
        One of `TASKS`.
    columns
        The table's columns, as text.
    classes
        Names of classes or labels in their order; that of the `score_` columns if not given.
    name
        What errors call the table.

    Raises
    ------
    PredictionTableError
        A column is missing, or a value is not what it has to be; the line and slide are named.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}: use {', '.join(TASKS)}")
    table = _Table(columns, name)
    if task in CLASS_TASKS:
        return _classes(task, table, table.classes(classes))
    if task == "multilabel":
        return _labels(table, table.classes(classes))
    if task == "regression":
        rows = table.predicted_rows(["predicted"])
        values = table.numbers("value", rows), table.numbers("predicted", rows)
        return ValueAnswers(task, *values), rows
    return _survival(table)


class _Table:
    """A table's columns, with the place of every value for messages."""

    def __init__(self, columns: Columns, name: str) -> None:
        self.columns = columns
        self.name = name

    def column(self, name: str) -> Sequence[str]:
        if name not in self.columns:
            raise PredictionTableError(
                f"{self.name}: no column {name!r}; there are {', '.join(self.columns) or 'none'}"
            )
        return self.columns[name]

    def place(self, row: int) -> str:
        slides = self.columns.get("slide_id")
        slide = f" ({slides[row]})" if slides is not None else ""
        return f"{self.name}, line {row + 2}{slide}"

    def classes(self, wanted: Sequence[str]) -> tuple[str, ...]:
        found = [c.removeprefix("score_") for c in self.columns if c.startswith("score_")]
        if len(wanted or found) < 1:
            raise PredictionTableError(f"{self.name}: no column score_<class>")
        return tuple(wanted or found)

    def predicted_rows(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return the rows in which these columns are filled; all of them or none must be."""
        filled = np.array([[bool((v or "").strip()) for v in self.column(n)] for n in names])
        partly = np.flatnonzero(filled.any(axis=0) & ~filled.all(axis=0))
        if len(partly):
            row = int(partly[0])
            gap = names[int(np.flatnonzero(~filled[:, row])[0])]
            raise PredictionTableError(f"{self.place(row)}: {gap} is empty")
        return np.flatnonzero(filled.all(axis=0))

    def numbers(self, name: str, rows: NDArray[np.intp], *, optional: bool = False) -> Floats:
        """Return a column as finite numbers; NaN for an empty value where those may be."""
        texts, out = self.column(name), np.empty(len(rows))
        for i, row in enumerate(rows):
            text = (texts[row] or "").strip()
            if optional and not text:
                out[i] = np.nan
                continue
            try:
                out[i] = float(text)
            except ValueError:
                out[i] = math.nan
            if not math.isfinite(out[i]):
                raise PredictionTableError(
                    f"{self.place(row)}: {name} is {text!r}, no finite number"
                )
        return out

    def probabilities(self, names: Sequence[str], rows: NDArray[np.intp]) -> Floats:
        values = np.stack([self.numbers(name, rows) for name in names], axis=1)
        bad = np.argwhere((values < 0) | (values > 1))
        if len(bad):
            row, column = bad[0]
            raise PredictionTableError(
                f"{self.place(rows[row])}: {names[column]} is {values[row, column]:g}, no "
                "probability; scores must be between 0 and 1 (apply the sigmoid or softmax first)"
            )
        return values


def _classes(
    task: str, table: _Table, classes: tuple[str, ...]
) -> tuple[ClassAnswers, NDArray[np.intp]]:
    if len(classes) < 2 or (task == "binary" and len(classes) != 2):
        raise PredictionTableError(
            f"{table.name}: {len(classes)} classes ({', '.join(classes)}) for the task {task}"
        )
    names = [f"score_{name}" for name in classes]
    labels = table.column("label")
    rows = table.predicted_rows(names)
    index = {name: i for i, name in enumerate(classes)}
    targets = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        text = (labels[row] or "").strip()
        if text not in index:
            said = f"class {text!r} has no column score_{text}" if text else "label is empty"
            raise PredictionTableError(
                f"{table.place(row)}: {said}; the classes are {', '.join(classes)}"
            )
        targets[i] = index[text]
    scores = table.probabilities(names, rows)
    wrong = np.flatnonzero(np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE)
    if len(wrong):
        row = int(wrong[0])
        raise PredictionTableError(
            f"{table.place(rows[row])}: the scores sum to {scores[row].sum():.4f}, not 1; they "
            "must be the probabilities of the classes (apply the softmax first)"
        )
    return ClassAnswers(task, classes, targets, scores), rows


def _labels(table: _Table, classes: tuple[str, ...]) -> tuple[LabelAnswers, NDArray[np.intp]]:
    names = [f"score_{name}" for name in classes]
    rows = table.predicted_rows(names)
    targets = [table.numbers(f"label_{name}", rows, optional=True) for name in classes]
    known = np.stack(targets, axis=1)
    bad = np.argwhere(~(np.isnan(known) | np.isin(known, (0, 1, -1))))
    if len(bad):
        row, column = bad[0]
        raise PredictionTableError(
            f"{table.place(rows[row])}: label_{classes[column]} is {known[row, column]:g}; use "
            "1, 0, -1 (uncertain) or nothing (missing)"
        )
    known[known == -1] = np.nan  # an uncertain label proves nothing about a score
    return LabelAnswers("multilabel", classes, known, table.probabilities(names, rows)), rows


def _survival(table: _Table) -> tuple[SurvivalAnswers, NDArray[np.intp]]:
    found: list[tuple[float, str]] = []
    for name in table.columns:
        if name.startswith("survival_"):
            try:
                found.append((float(name.removeprefix("survival_")), name))
            except ValueError as err:
                raise PredictionTableError(
                    f"{table.name}: {name} names no time; use survival_<time>, e.g. survival_24"
                ) from err
    found.sort()
    names = [name for _, name in found]
    rows = table.predicted_rows(["risk", *names])
    time, event = table.numbers("time", rows), table.numbers("event", rows)
    for values, allowed, name, what in (
        (time, time > 0, "time", "a time greater than 0"),
        (event, np.isin(event, (0, 1)), "event", "1 (seen) or 0 (censored)"),
    ):
        if not allowed.all():
            i = int(np.flatnonzero(~allowed)[0])
            raise PredictionTableError(
                f"{table.place(rows[i])}: {name} is {values[i]:g}; must be {what}"
            )
    survival = table.probabilities(names, rows) if names else np.empty((len(rows), 0))
    answers = SurvivalAnswers(
        "survival", time, event.astype(bool), table.numbers("risk", rows),
        np.array([t for t, _ in found]), survival,
    )  # fmt: skip
    return answers, rows
