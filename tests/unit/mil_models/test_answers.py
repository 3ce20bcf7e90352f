"""What a table of predictions may hold; every refusal names the line and the slide."""

from __future__ import annotations

import numpy as np
import pytest

from mil_models.answers import ClassAnswers, SurvivalAnswers, parse_answers, task_of
from mil_models.errors import PredictionTableError

BINARY = {
    "slide_id": ["x", "y"], "label": ["a", "b"], "score_a": ["0.9", "0.2"],
    "score_b": ["0.1", "0.8"],
}  # fmt: skip
SURVIVAL = {
    "slide_id": ["x", "y"], "time": ["3", "5"], "event": ["1", "0"], "risk": ["0.1", "-2"],
    "survival_24": ["0.1", "0.5"], "survival_3": ["0.9", "1"],
}  # fmt: skip
LABELS = {"slide_id": ["x"], "label_a": ["1"], "score_a": ["0.5"]}
VALUES = {"slide_id": ["x"], "value": ["1.5"], "predicted": ["2"]}


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        (BINARY, "binary"),
        ({**BINARY, "score_c": ["0", "0"]}, "multiclass"),
        (SURVIVAL, "survival"),
        (LABELS, "multilabel"),
        (VALUES, "regression"),
    ],
)
def test_a_task_is_known_by_its_columns(columns: dict[str, list[str]], task: str) -> None:
    assert task_of(columns) == task
    assert parse_answers(task, columns)[0].task == task


def test_classes_keep_the_order_of_their_columns_or_the_one_given() -> None:
    answers, rows = parse_answers("binary", BINARY)
    assert isinstance(answers, ClassAnswers)
    assert answers.classes == ("a", "b")
    assert answers.targets.tolist() == [0, 1]
    assert answers.scores.tolist() == [[0.9, 0.1], [0.2, 0.8]]
    assert rows.tolist() == [0, 1]
    turned, _ = parse_answers("binary", BINARY, classes=["b", "a"])
    assert isinstance(turned, ClassAnswers)
    assert turned.scores[0].tolist() == [0.1, 0.9]


def test_survival_times_are_put_in_order() -> None:
    answers, _ = parse_answers("survival", SURVIVAL)
    assert isinstance(answers, SurvivalAnswers)
    assert answers.at.tolist() == [3, 24]
    assert answers.survival.tolist() == [[0.9, 0.1], [1, 0.5]]
    assert answers.event.tolist() == [True, False]


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("binary", {**BINARY, "label": ["a", "z"]},
         r"line 3 \(y\): class 'z' has no column score_z; the classes are a, b"),
        ("binary", {**BINARY, "label": ["", "b"]}, r"line 2 \(x\): label is empty"),
        ("binary", {**BINARY, "score_a": ["nan", "0.2"]}, r"line 2 \(x\): score_a is 'nan'"),
        ("binary", {**BINARY, "score_a": ["much", "0.2"]}, "score_a is 'much', no finite number"),
        ("binary", {**BINARY, "score_a": ["0.9", ""]}, r"line 3 \(y\): score_a is empty"),
        ("binary", {**BINARY, "score_b": ["0.1", "2.5"]},
         r"line 3 \(y\): score_b is 2.5, no probability"),
        ("binary", {**BINARY, "score_b": ["0.3", "0.8"]}, r"line 2 \(x\): the scores sum to 1.2"),
        ("binary", {k: v for k, v in BINARY.items() if k != "label"}, "no column 'label'"),
        ("binary", {**BINARY, "score_c": ["0", "0"]}, "3 classes"),
        ("multiclass", {"label": ["a"]}, "no column score_<class>"),
        ("multilabel", {**LABELS, "label_a": ["2"]}, r"label_a is 2; use 1, 0, -1"),
        ("regression", {**VALUES, "value": ["inf"]}, r"line 2 \(x\): value is 'inf'"),
        ("survival", {**SURVIVAL, "event": ["1", "2"]}, r"line 3 \(y\): event is 2; must be 1"),
        ("survival", {**SURVIVAL, "time": ["0", "2"]}, r"line 2 \(x\): time is 0; must be"),
        ("survival", {**SURVIVAL, "survival_late": ["1", "1"]}, "survival_late names no time"),
    ],
)  # fmt: skip
def test_bad_values_are_refused(task: str, columns: dict[str, list[str]], message: str) -> None:
    with pytest.raises(PredictionTableError, match=message):
        parse_answers(task, columns, name="p.csv")


def test_columns_of_no_task_are_refused() -> None:
    with pytest.raises(PredictionTableError, match="those of no task.*there are a, b"):
        task_of({"a": [], "b": []})


def test_an_unknown_task_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="task='grading': use binary"):
        parse_answers("grading", BINARY)


def test_taking_rows_takes_all_arrays() -> None:
    answers, _ = parse_answers("survival", SURVIVAL)
    assert isinstance(answers, SurvivalAnswers)
    last = answers.take(np.array([1]))
    assert (last.time.tolist(), last.risk.tolist(), last.survival.tolist()) == (
        [5], [-2], [[1, 0.5]],
    )  # fmt: skip
