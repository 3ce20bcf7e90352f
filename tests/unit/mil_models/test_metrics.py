"""Every figure by hand or against a library, its interval against draws made one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    r2_score,
    roc_auc_score,
    roc_curve,
)

from mil_models import weighted
from mil_models.answers import ClassAnswers, SurvivalAnswers, ValueAnswers
from mil_models.metrics import answer_metrics, figures_of, task_metrics
from mil_models.resampling import bootstrap, patient_draws, percentile_interval


def binary_columns(labels: Sequence[int], scores: Sequence[float]) -> dict[str, list[str]]:
    return {
        "slide_id": [f"s{i}" for i in range(len(labels))],
        "label": ["tumour" if v else "benign" for v in labels],
        "score_benign": [f"{1 - v:.6f}" for v in scores],
        "score_tumour": [f"{v:.6f}" for v in scores],
    }


def random_classes(classes: int, n: int, seed: int, task: str = "multiclass") -> ClassAnswers:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, n)
    scores = rng.dirichlet(np.ones(classes), n) + 0.3 * np.eye(classes)[targets]
    scores = np.round(scores / scores.sum(axis=1, keepdims=True), 1)  # with ties
    return ClassAnswers(task, tuple("abcdef"[:classes]), targets, scores)


def test_binary_figures_by_hand() -> None:
    """Pairs: 0.6 beats 0.4 and 0.1, 0.35 beats 0.1 only: 3 of 4. Steps: 1/2 · 1 + 1/2 · 2/3."""
    columns = binary_columns([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.6])
    found = task_metrics("binary", columns, list("abcd"))
    assert found["auroc"] == 0.75
    assert found["auprc"] == pytest.approx(5 / 6)
    assert (found["sensitivity"], found["specificity"]) == (0.5, 1.0)
    assert found["balanced_accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["kappa"] == 0.5
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.16) / 4)
    assert found["sensitivity_at_90_specificity"] == 0.5
    assert (found["slides"], found["patients"]) == (4, 4)


def test_ordinal_kappa_by_hand() -> None:
    """Cost seen: 1. By chance: (2 · (1 · 0 + 1 · 1 + 2 · 4) + 2 · (1 · 4 + 1 · 1)) / 4 = 7.

    Targets are counted (2, 0, 2), answers (1, 1, 2).
    """
    targets = np.array([0, 0, 2, 2])
    said = np.array([0, 1, 2, 2])
    found = answer_metrics(
        ClassAnswers("ordinal", ("1", "2", "3"), targets, np.eye(3)[said]), list("abcd")
    )
    assert found["quadratic_kappa"] == pytest.approx(1 - 1 / 7)
    assert found["auroc"] is None
    assert found["reasons"]["auroc"] == "no slide of class 2"


def test_what_is_not_defined_is_none_with_its_reason() -> None:
    found = task_metrics("binary", binary_columns([1, 1], [0.2, 0.9]), ["p", "q"])
    assert found["auroc"] is None
    assert found["auroc_low"] is None
    assert found["balanced_accuracy"] is None
    assert found["reasons"]["auroc"] == "no slide of class benign"
    assert found["sensitivity"] == 0.5


def test_no_prediction_at_all() -> None:
    columns = binary_columns([0, 1], [0.5, 0.5])
    columns["score_benign"] = columns["score_tumour"] = ["", ""]
    assert task_metrics("binary", columns, ["p", "q"]) == {"slides": 0, "patients": 0}


def test_slides_that_no_fold_tested_are_left_out() -> None:
    columns = binary_columns([0, 1, 1], [0.1, 0.9, 0.5])
    for name in ("score_benign", "score_tumour"):
        columns[name][2] = ""
    assert task_metrics("binary", columns, list("abc"))["slides"] == 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 4])
def test_weighted_figures_are_those_of_repeated_slides(classes: int, seed: int) -> None:
    """A weight of k is k copies of the slide; scikit-learn computes the figures of the copies."""
    answers = random_classes(classes, 40, seed, "binary" if classes == 2 else "ordinal")
    weights = np.random.default_rng(seed + 100).integers(0, 4, 40)
    again = np.repeat(np.arange(40), weights)
    y, s = answers.targets[again], answers.scores[again]
    said = s.argmax(axis=1)
    sides = [1] if classes == 2 else range(classes)
    found = {k: float(v[0]) for k, v in figures_of(answers)(weights[None] * 1.0).items()}
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(y == c, s[:, c]) for c in sides]))
    assert found["auprc"] == pytest.approx(
        np.mean([average_precision_score(y == c, s[:, c]) for c in sides])
    )
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, said))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(y, said))
    average = "binary" if classes == 2 else "macro"
    assert found["f1"] == pytest.approx(f1_score(y, said, average=average))
    if classes == 4:
        quadratic = cohen_kappa_score(y, said, weights="quadratic")
        assert found["quadratic_kappa"] == pytest.approx(quadratic)
    else:
        fpr, tpr, _ = roc_curve(y, s[:, 1], drop_intermediate=False)
        expected = tpr[fpr <= 0.1 + 1e-12].max()
        assert found["sensitivity_at_90_specificity"] == pytest.approx(expected)


def test_weighted_values_are_those_of_repeated_slides() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 30) * 1.0
    predicted = np.round(values + rng.normal(size=30))
    weights = rng.integers(0, 4, 30)
    again = np.repeat(np.arange(30), weights)
    answers = ValueAnswers("regression", values, predicted)
    found = {k: float(v[0]) for k, v in figures_of(answers)(weights[None] * 1.0).items()}
    v, p = values[again], predicted[again]
    assert found["r2"] == pytest.approx(r2_score(v, p))
    assert found["pearson"] == pytest.approx(pearsonr(v, p).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(v, p).statistic)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(v - p).mean())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_auroc_is_the_share_of_ordered_pairs(slides: list[tuple[bool, int]]) -> None:
    y, s = np.array([v for v, _ in slides]), np.array([v for _, v in slides], float)
    found = weighted.auroc(s, y[None] * 1.0, ~y[None] * 1.0)[0]
    if y.all() or not y.any():
        assert np.isnan(found)
        return
    gap = s[y][:, None] - s[~y][None, :]
    assert found == pytest.approx(((gap > 0) + 0.5 * (gap == 0)).mean())


def test_several_labels_leave_unknown_ones_out() -> None:
    """-1 (uncertain) and nothing (missing) prove nothing about a score."""
    columns = {
        "label_a": ["1", "0", "-1", ""], "score_a": ["0.9", "0.1", "0.0", "1.0"],
        "label_b": ["1", "1", "1", "1"], "score_b": ["0.5"] * 4,
    }  # fmt: skip
    found = task_metrics("multilabel", columns, list("abcd"))
    assert found["a.auroc"] == 1.0
    assert found["a.brier"] == pytest.approx(0.01)
    assert found["b.auroc"] is None
    assert found["auroc"] is None
    assert found["reasons"]["auroc"] == "label b has one known value only"


def test_constant_values_have_no_correlation() -> None:
    columns = {"value": ["2", "2", "2"], "predicted": ["1", "2", "3"]}
    found = task_metrics("regression", columns, list("abc"))
    assert found["r2"] is None
    assert found["pearson"] is None
    assert found["mean_absolute_error"] == pytest.approx(2 / 3)


def test_survival_without_an_event() -> None:
    answers = SurvivalAnswers(
        "survival", np.array([1.0, 2]), np.array([False, False]), np.array([1.0, 0]),
        np.array([]), np.empty((2, 0)),
    )  # fmt: skip
    found = answer_metrics(answers, ["p", "q"])
    assert found["c_index"] is None
    assert found["reasons"]["c_index"] == "no slide has an event"


def test_the_bootstrap_draws_patients_and_is_the_same_for_the_same_seed() -> None:
    """A patient with ten slides moves together: its slides have one weight in every draw."""
    patients = ["a"] * 10 + list("bcdefg")
    [draws] = patient_draws(patients, seed=3, resamples=200)
    assert draws.shape == (200, 16)
    assert (draws[:, :10] == draws[:, :1]).all()
    one_each = draws[:, 9:]
    assert (one_each.sum(axis=1) == 7).all()  # as many patients as there are
    [again] = patient_draws(patients, seed=3, resamples=200)
    [other] = patient_draws(patients, seed=4, resamples=200)
    assert (draws == again).all()
    assert (draws != other).any()


def test_draws_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(patient_draws(list("abcd"), seed=0, resamples=50)))
    monkeypatch.setattr("mil_models.resampling.BLOCK_VALUES", 28)
    blocks = list(patient_draws(list("abcd"), seed=0, resamples=50))
    assert len(blocks) == 8
    assert (np.concatenate(blocks) == whole).all()


def test_an_interval_over_patients_is_wider_than_over_their_slides() -> None:
    """Ten equal slides of a patient say no more than one of them."""
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 10)
    s = np.clip(0.3 + 0.4 * y + rng.normal(0, 0.25, 20), 0, 1)
    answers = ClassAnswers("binary", ("0", "1"), np.repeat(y, 10),
                           np.repeat(np.stack([1 - s, s], axis=1), 10, axis=0))  # fmt: skip
    by_patient = answer_metrics(answers, np.repeat(np.arange(20), 10).astype(str).tolist())
    by_slide = answer_metrics(answers, [str(i) for i in range(200)])
    single = answer_metrics(answers.take(np.arange(0, 200, 10)), [str(i) for i in range(20)])
    width = lambda m, k="auroc": m[f"{k}_high"] - m[f"{k}_low"]  # noqa: E731
    assert width(by_patient) > 2 * width(by_slide)
    # The same draws give the same interval, whether a patient has one slide or ten.
    assert by_patient["auroc_low"] == pytest.approx(single["auroc_low"])
    assert width(by_patient, "auroc_delong") == pytest.approx(width(single, "auroc_delong"))


def test_an_interval_of_mostly_undefined_draws_is_none() -> None:
    assert percentile_interval(np.array([1.0, np.nan, np.nan])) is None
    assert percentile_interval(np.array([0.0, 1.0, np.nan])) == pytest.approx((0.025, 0.975))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Scores N(1, 1) against N(0, 1): AUROC = Phi(1 / sqrt 2) = 0.7602; 95 % of 200 is 190."""
    hits = {"bootstrap": 0, "delong": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1], 60)
        s = 1 / (1 + np.exp(-rng.normal(y, 1)))
        answers = ClassAnswers("binary", ("0", "1"), y, np.stack([1 - s, s], axis=1))
        found = answer_metrics(answers, [str(i) for i in range(120)], seed=seed, resamples=300)
        hits["bootstrap"] += found["auroc_low"] <= 0.7602 <= found["auroc_high"]
        hits["delong"] += found["auroc_delong_low"] <= 0.7602 <= found["auroc_delong_high"]
    assert 180 <= hits["bootstrap"] <= 199
    assert 180 <= hits["delong"] <= 199


def test_bootstrap_of_a_mean_by_hand() -> None:
    values = np.array([0.0, 10.0])
    draws = bootstrap(lambda w: {"mean": weighted.mean(values, w)}, ["a", "b"], seed=0)["mean"]
    assert set(draws) == {0.0, 5.0, 10.0}
    assert np.mean(draws == 5) == pytest.approx(0.5, abs=0.06)
