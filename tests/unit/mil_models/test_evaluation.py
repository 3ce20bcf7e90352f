"""What is chosen on some slides is judged on others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import CensoredData, logrank

from mil_models.answers import ClassAnswers, LabelAnswers, SurvivalAnswers
from mil_models.evaluation import (
    EvaluationOptions,
    evaluate_answers,
    precision_recall_points,
    risk_groups,
    roc_points,
)
from mil_models.operating_point import OperatingPoint

OPTIONS = EvaluationOptions(resamples=100)


def answers(n: int = 100, skill: float = 2.0, sharp: float = 1.0, seed: int = 0) -> ClassAnswers:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    s = 1 / (1 + np.exp(-sharp * skill * (skill * (y - 0.5) + rng.normal(size=n))))
    return ClassAnswers("binary", ("benign", "tumour"), y, np.stack([1 - s, s], axis=1))


def test_thresholds_are_chosen_on_other_folds() -> None:
    """Scores of pure noise: chosen and judged on the same slides Youden's sum looks above 1.1."""
    sums, fooled = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        y, s = rng.integers(0, 2, 60), rng.random(60)
        noise = ClassAnswers("binary", ("a", "b"), y, np.stack([1 - s, s], axis=1))
        found = evaluate_answers(
            noise, [str(i) for i in range(60)], folds=[str(i % 5) for i in range(60)],
            options=OPTIONS,
        )["operating_point"]  # fmt: skip
        sums.append(found["sensitivity"] + found["specificity"])
        fooled.append(found["chosen"]["sensitivity"] + found["chosen"]["specificity"])
    assert np.mean(fooled) > 1.1
    assert np.mean(sums) == pytest.approx(1.0, abs=0.06)


def test_a_held_folds_labels_do_not_move_its_threshold() -> None:
    one = answers()
    folds = [str(i // 20) for i in range(100)]
    patients = [str(i) for i in range(100)]
    held = np.array(folds) == "3"
    flipped = np.where(held, 1 - one.targets, one.targets)
    other = ClassAnswers(one.task, one.classes, flipped, one.scores)
    points = [evaluate_answers(a, patients, folds=folds, options=OPTIONS)["operating_point"]
              for a in (one, other)]  # fmt: skip
    # The fold's own slides are called as before, so flipped labels turn hits into misses exactly.
    assert points[1]["sensitivity"] < points[0]["sensitivity"]


def test_a_point_of_other_slides_is_judged_as_it_is() -> None:
    point = OperatingPoint(0.5, "youden", None, 0.9, 0.9)
    one = answers()
    found = evaluate_answers(one, [str(i) for i in range(100)], point=point, options=OPTIONS)
    judged = found["operating_point"]
    assert judged["chosen"]["threshold"] == 0.5
    assert judged["chosen_on"] == "other slides"
    assert judged["sensitivity"] == (one.scores[one.targets == 1, 1] >= 0.5).mean()


def test_calibration_of_a_validation_set_serves_a_test_set() -> None:
    validation, test = answers(2000, sharp=3.0, seed=1), answers(500, sharp=3.0, seed=2)
    found = evaluate_answers(
        test, [str(i) for i in range(500)], fitted_on=validation, options=OPTIONS
    )["calibration"]
    assert found["fitted_on"] == "other slides"
    assert found["temperature"]["fitted"]["temperature"] == pytest.approx(3.0, rel=0.15)
    for method in ("temperature", "isotonic"):
        assert found[method]["ece"] < found["before"]["ece"]


def test_one_class_leaves_reasons_not_figures() -> None:
    one = answers().take(np.arange(0, 20, 2))
    found = evaluate_answers(one, [str(i) for i in range(10)], options=OPTIONS)
    assert found["operating_point"]["chosen"] is None
    assert "both classes" in found["operating_point"]["reason"]
    assert found["calibration"]["temperature"] is None
    assert "needs slides of two classes" in found["calibration"]["temperature_reason"]
    assert found["metrics"]["auroc"] is None


def test_curves_by_hand() -> None:
    scores = np.array([0.9, 0.6, 0.4, 0.1])
    one = ClassAnswers("binary", ("a", "b"), np.array([1, 0, 1, 0]),
                       np.stack([1 - scores, scores], axis=1))  # fmt: skip
    x, y = roc_points(one)["b"]
    assert x.tolist() == [0, 0, 0.5, 0.5, 1]
    assert y.tolist() == [0, 0.5, 0.5, 1, 1]
    recall, precision = precision_recall_points(one)["b"]
    assert recall.tolist() == [0, 0.5, 0.5, 1, 1]
    assert precision == pytest.approx([1, 1, 0.5, 2 / 3, 0.5])


def test_labels_of_one_value_have_no_curve() -> None:
    one = LabelAnswers("multilabel", ("a", "b"), np.array([[1, 1], [0, np.nan]]),
                       np.array([[0.9, 0.5], [0.1, 0.5]]))  # fmt: skip
    assert list(roc_points(one)) == ["a"]


def test_each_label_is_calibrated_where_it_is_known() -> None:
    """Label a as the two classes that it is; b is known of no absent slide."""
    two = answers(80, sharp=3.0)
    targets = np.stack([two.targets, np.where(two.targets == 1, 1.0, np.nan)], axis=1)
    both = LabelAnswers("multilabel", ("a", "b"), targets, two.scores[:, [1, 1]])
    patients = [f"p{i}" for i in range(80)]
    found = evaluate_answers(both, patients, options=OPTIONS)["labels"]
    plain = evaluate_answers(two, patients, options=OPTIONS)
    assert found["a"] == {k: plain[k] for k in ("calibration", "operating_point")}
    assert found["b"]["operating_point"]["chosen"] is None
    assert found["b"]["calibration"]["temperature"] is None


def test_each_label_is_fitted_on_other_slides_of_the_same_labels() -> None:
    def labelled(two: ClassAnswers, *names: str) -> LabelAnswers:
        targets = np.stack([two.targets, np.where(two.targets == 1, 1.0, np.nan)], axis=1)
        return LabelAnswers("multilabel", names, targets, two.scores[:, [1, 1]])

    test, validation = answers(80, sharp=3.0), answers(60, sharp=3.0, seed=1)
    patients = [f"p{i}" for i in range(80)]
    found = evaluate_answers(
        labelled(test, "a", "b"), patients, fitted_on=labelled(validation, "a", "b"),
        options=OPTIONS,
    )["labels"]  # fmt: skip
    plain = evaluate_answers(test, patients, fitted_on=validation, options=OPTIONS)
    assert found["a"] == {k: plain[k] for k in ("calibration", "operating_point")}
    assert found["a"]["operating_point"]["chosen_on"] == "other slides"
    assert found["b"]["calibration"]["temperature"] is None
    for others in (labelled(validation, "b", "a"), validation):
        with pytest.raises(ValueError, match=r"fit on .*, judged a, b: both must be of the same"):
            evaluate_answers(labelled(test, "a", "b"), patients, fitted_on=others, options=OPTIONS)


def test_risk_groups_are_parted_at_the_median() -> None:
    time = np.array([1.0, 2, 3, 4, 5, 6])
    event = np.array([True, True, False, True, True, False])
    risk = np.array([6.0, 5, 4, 3, 2, 1])
    found = risk_groups(
        SurvivalAnswers("survival", time, event, risk, np.array([]), np.empty((6, 0)))
    )
    high, low = found["groups"]["high risk"], found["groups"]["low risk"]
    assert (high["slides"], high["events"], low["events"]) == (3, 2, 2)
    assert high["survival"][:2] == pytest.approx([2 / 3, 1 / 3])
    sides = [CensoredData.right_censored(time[k], ~event[k]) for k in (slice(3), slice(3, 6))]
    assert found["p"] == pytest.approx(logrank(*sides).pvalue)


def test_equal_risks_have_no_groups() -> None:
    one = SurvivalAnswers("survival", np.ones(3), np.ones(3, bool), np.zeros(3), np.array([]),
                          np.empty((3, 0)))  # fmt: skip
    assert risk_groups(one)["p"] is None


@pytest.mark.parametrize("change", [{"resamples": 5}, {"rule": "best"}, {"at_least": 0.0}])
def test_options_that_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        EvaluationOptions(**change)  # type: ignore[arg-type]
