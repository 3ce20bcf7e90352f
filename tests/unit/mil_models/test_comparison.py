"""Two models on the same slides, a model against chance, a model on each site."""

from __future__ import annotations

import numpy as np
import pytest

from mil_models.answers import Answers, ClassAnswers, SurvivalAnswers, ValueAnswers
from mil_models.comparison import against_chance, compare, subgroups
from mil_models.errors import PredictionTableError


def model(skill: float, seed: int, n: int = 80) -> ClassAnswers:
    """Return answers to the same questions whatever the seed; only the noise differs."""
    y = np.arange(n) % 2
    s = 1 / (1 + np.exp(-(skill * (y - 0.5) + np.random.default_rng(seed).normal(size=n))))
    return ClassAnswers("binary", ("a", "b"), y, np.stack([1 - s, s], axis=1))


PATIENTS = [str(i // 4) for i in range(80)]
SINGLE = [str(i) for i in range(80)]


def test_a_better_model_is_told_from_a_worse_one() -> None:
    found = compare(model(4, 0), model(0.5, 1), PATIENTS)["auroc"]
    assert found["difference"] == pytest.approx(found["first"] - found["second"])
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] < 0.01
    assert found["delong_p"] < 0.01


def test_the_order_of_the_models_only_changes_the_sign() -> None:
    there = compare(model(2, 0), model(1, 1), PATIENTS)
    back = compare(model(1, 1), model(2, 0), PATIENTS)
    for name, found in there.items():
        assert found["difference"] == pytest.approx(-back[name]["difference"])
        assert found["p"] == pytest.approx(back[name]["p"], abs=0.002)
        assert found["low"] == pytest.approx(-back[name]["high"])


def test_a_model_does_not_differ_from_itself() -> None:
    for name, found in compare(model(1, 0), model(1, 0), PATIENTS).items():
        assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1), name


def test_equal_models_differ_by_chance_as_often_as_p_says() -> None:
    """200 pairs of equal skill: p < 0.1 in 10 % of them, by binomial 95 % between 6 and 14 %."""
    below = sum(
        compare(model(1, k), model(1, k + 1000), SINGLE, resamples=199)["auroc"]["p"] < 0.1
        for k in range(200)
    )
    assert 10 <= below <= 30


def test_values_and_survival_are_compared_too() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    patients = [str(i) for i in range(60)]
    good = ValueAnswers("regression", truth, truth + rng.normal(0, 0.1, 60))
    bad = ValueAnswers("regression", truth, rng.normal(size=60))
    found = compare(good, bad, patients)
    assert found["mean_absolute_error"]["high"] < 0
    assert found["pearson"]["low"] > 0
    time, event = np.exp(-truth) + 0.01, np.ones(60, bool)
    answers = [SurvivalAnswers("survival", time, event, risk, np.array([]), np.empty((60, 0)))
               for risk in (truth, bad.predicted)]  # fmt: skip
    assert compare(answers[0], answers[1], patients)["c_index"]["p"] < 0.01


def test_tables_that_do_not_ask_the_same_are_refused() -> None:
    one = model(1, 0)
    other = ClassAnswers("binary", ("a", "c"), one.targets, one.scores)
    with pytest.raises(PredictionTableError, match="different classes"):
        compare(one, other, PATIENTS)
    flipped = ClassAnswers("binary", ("a", "b"), 1 - one.targets, one.scores)
    with pytest.raises(PredictionTableError, match="differ in what is true"):
        compare(one, flipped, PATIENTS)
    values = ValueAnswers("regression", np.zeros(80), np.zeros(80))
    with pytest.raises(PredictionTableError, match="task binary, the other regression"):
        compare(one, values, PATIENTS)


def test_chance() -> None:
    found = against_chance(model(3, 0), SINGLE)
    assert found["p"] == pytest.approx(1 / 1001)  # no permutation comes near
    assert found["chance"] == pytest.approx(0.5, abs=0.02)
    none = against_chance(model(0, 3), SINGLE)
    assert none["p"] > 0.05


def test_patients_stay_together_when_truths_change_places() -> None:
    """Twenty patients of one answer each say as much as twenty slides, not as two hundred."""
    rng = np.random.default_rng(1)
    y = np.arange(20) % 2
    s = np.clip(0.45 + 0.1 * y + rng.normal(0, 0.15, 20), 0, 1)
    few = ClassAnswers("binary", ("a", "b"), y, np.stack([1 - s, s], axis=1))
    many = few.take(np.repeat(np.arange(20), 10))
    single = against_chance(few, [str(i) for i in range(20)])
    ten = against_chance(many, np.repeat(np.arange(20), 10).astype(str).tolist())
    assert ten["value"] == pytest.approx(single["value"])
    assert ten["p"] == pytest.approx(single["p"])
    assert against_chance(many, [str(i) for i in range(200)])["p"] < ten["p"]


def test_chance_that_cannot_be_told() -> None:
    one: Answers = ClassAnswers("binary", ("a", "b"), np.array([0, 0]), np.array([[1, 0.0]] * 2))
    assert against_chance(one, ["p", "q"])["reason"] == "the figure is not defined"
    two = ClassAnswers("binary", ("a", "b"), np.array([0, 1]), np.array([[1, 0], [0.0, 1]]))
    found = against_chance(two, ["p", "q"])
    assert found["p"] is None
    assert found["reason"] == "fewer than 5 patients can change places"


def test_subgroups_have_figures_of_their_own() -> None:
    answers = model(2, 0)
    sites = ["north" if i < 60 else "" for i in range(80)]
    found = subgroups(answers, PATIENTS, sites, resamples=50)
    assert {k: (v["slides"], v["patients"]) for k, v in found.items()} == {
        "(none)": (20, 5), "north": (60, 15),
    }  # fmt: skip
    assert found["north"]["auroc"] != found["(none)"]["auroc"]
