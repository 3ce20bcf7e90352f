"""What a card holds of the slides that no fold had seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models.calibration import ByParts, Temperature, calibration_from_dict
from mil_models.operating_point import OperatingPoint
from mil_models.options import TaskOptions
from mil_models.out_of_fold import for_card, held_out_card
from mil_models.tasks import Task, create_task
from tests.unit.mil_models.synthetic import answers_of, reading, task_of


def test_a_card_holds_what_out_of_fold_scores_tell() -> None:
    """Overconfident by a factor of 3: the temperature is about 3, the operating point follows."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=400)
    targets = (rng.random(400) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    positive = 1 / (1 + np.exp(-3 * logits))
    scores = np.stack([1 - positive, positive], axis=1)
    found = for_card(targets, scores)
    fitted = calibration_from_dict(found["calibration"])
    assert isinstance(fitted, Temperature)
    assert 2 < fitted.temperature < 4.5
    point = OperatingPoint.from_dict(found["operating_point"])
    calibrated = fitted.apply(scores)[:, 1]
    called = point.is_positive(calibrated)
    assert called[targets == 1].mean() == pytest.approx(point.sensitivity)
    assert "reason" not in found


def test_a_card_says_why_scores_stay_as_they_are() -> None:
    rng = np.random.default_rng(1)
    targets = np.repeat([0, 1], 30)
    positive = np.where(targets == 1, rng.uniform(0.6, 0.9, 60), rng.uniform(0.1, 0.4, 60))
    scores = np.stack([1 - positive, positive], axis=1)
    never_wrong = for_card(targets, scores)
    assert never_wrong["calibration"] is None
    assert "never wrong" in never_wrong["reason"]
    assert never_wrong["operating_point"]["sensitivity"] == 1.0
    few = for_card(targets[25:35], scores[25:35])
    assert (few["calibration"], few["reason"]) == (
        None, "a class has 5 slides that were tested; 10 are needed",
    )  # fmt: skip
    assert few["operating_point"] is not None
    assert for_card(targets, scores, method="none")["reason"] == "not asked for"
    nothing = for_card(np.zeros(0, np.int64), np.zeros((0, 2)))
    assert (nothing["calibration"], nothing["operating_point"]) == (None, None)


def out_of_fold(
    task: Task, answers: Sequence[Mapping[str, str]], logits: np.ndarray
) -> tuple[list[dict[str, str]], dict[int, tuple[int, np.ndarray]]]:
    """Return rows of a table of predictions and the scores, of slides of one fold."""
    values = task.predict(torch.from_numpy(logits)).double().numpy()
    rows = [
        {"slide_id": f"s{i}", "patient_id": f"s{i}", "fold": "0", **task.truth(answer),
         **{c: f"{v:.6f}" for c, v in zip(task.outputs.values(), own, strict=True)}}
        for i, (answer, own) in enumerate(zip(answers_of(answers), values, strict=True))
    ]  # fmt: skip
    return rows, {i: (0, own) for i, own in enumerate(values)}


def too_sure(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and logits three times too large for them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=count)
    return (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(int), 3 * logits


def test_each_label_has_a_calibration_of_its_own() -> None:
    """x is three times too sure, y as sure as it should be and known of a third, z too rare."""
    x, sure = too_sure(0)
    y, fair = too_sure(1)
    rare = (np.arange(300) < 3).astype(int)
    answers = [{"label_x": str(a), "label_y": "" if i % 3 else str(b), "label_z": str(c)}
               for i, (a, b, c) in enumerate(zip(x, y, rare, strict=True))]  # fmt: skip
    task = task_of("multilabel", answers)
    logits = np.stack([sure, fair / 3, sure], axis=1)
    card = held_out_card(*out_of_fold(task, answers, logits), task)["held_out"]
    calibration = calibration_from_dict(card["calibration"])
    assert isinstance(calibration, ByParts)
    (_, of_x), (_, of_y), (_, of_z) = calibration.parts
    assert isinstance(of_x, Temperature)
    assert isinstance(of_y, Temperature)
    assert 2.3 < of_x.temperature < 4
    assert 0.6 < of_y.temperature < 1.5
    assert of_z is None
    assert card["parts"]["z"]["reason"] == "a class has 3 slides that were tested; 10 are needed"
    assert 0 < card["parts"]["x"]["operating_point"]["threshold"] < 1


def test_each_of_several_tasks_has_a_calibration_of_its_own(tmp_path: Path) -> None:
    x, sure = too_sure(2)
    answers = [{"label": "" if i % 4 == 0 else "ab"[a], "value": str(i % 7)}
               for i, a in enumerate(x.tolist())]  # fmt: skip
    tasks = tmp_path / "tasks.toml"
    tasks.write_text(
        '[size]\ntask = "regression"\ncolumns = ["value"]\n'
        '[kind]\ntask = "binary"\ncolumns = ["label"]\n'
    )
    task = task_of(str(tasks), answers)
    logits = np.stack([np.arange(300.0), -sure / 2, sure / 2], axis=1)
    card = held_out_card(*out_of_fold(task, answers, logits), task)["held_out"]
    calibration = calibration_from_dict(card["calibration"])
    assert isinstance(calibration, ByParts)
    assert [(width, one is None) for width, one in calibration.parts] == [(1, True), (2, False)]
    values = np.array([[5.0, 0.1, 0.9]])
    assert calibration.apply(values)[0, 0] == 5.0
    assert 0.5 < calibration.apply(values)[0, 2] < 0.85


def test_values_that_are_no_probabilities_are_not_calibrated() -> None:
    answers = [{"value": str(i)} for i in range(30)]
    task = task_of("regression", answers)
    assert held_out_card(*out_of_fold(task, answers, np.arange(30.0)[:, None]), task) == {}


def test_a_table_of_soft_labels_holds_what_most_readers_said() -> None:
    """Else the training's last step would refuse its own table."""
    rows = [("1", "1", "0"), ("1", "0"), ("0", "0", "1"), ("1",), ("0",)]
    answers = [tuple(reading(f"s{i}", i, label_a=vote) for vote in votes)
               for i, votes in enumerate(rows)]  # fmt: skip
    task = create_task("multilabel", answers, ["label_a"], TaskOptions(consensus="soft"))
    assert task.targets(answers)[0, 0] == pytest.approx(2 / 3)
    assert [task.truth(a)["label_a"] for a in answers] == ["1", "-1", "0", "1", "0"]
