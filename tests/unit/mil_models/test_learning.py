"""Heads learn what made-up bags hold: the truth is known, so what is found can be compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from mil_models import survival
from mil_models.noise import label_issues
from tests.unit.mil_models.synthetic import learn, shifted_bags, task_of

SLIDES = 240


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Bags this small are quickest on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    return float(survival.concordance(time, event, risk, np.ones((1, len(time))))[0])


def latent(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SLIDES)


@pytest.mark.parametrize("kind", ["cox", "discrete"])
def test_a_known_hazard_is_recovered(kind: str) -> None:
    """Exponential times with hazard exp(1.5 z), a third censored: nearly the c-index of z."""
    z = latent()
    rng = np.random.default_rng(1)
    time = rng.exponential(np.exp(-1.5 * z))
    watched = rng.exponential(2.0, size=SLIDES)
    event = time <= watched
    seen = np.minimum(time, watched) + 1e-3
    rows = [{"time": f"{t:.6f}", "event": str(int(e))} for t, e in zip(seen, event, strict=True)]
    found = learn(
        task_of("survival", rows, survival=kind, times=(0.5, 1.0)), rows, shifted_bags(z),
        epochs=25 if kind == "cox" else 15, batch=16, learning_rate=1e-2,
    )  # fmt: skip
    test = found.indices
    best = concordance(seen[test], event[test], z[test])
    assert 0.25 < 1 - event.mean() < 0.45
    assert concordance(seen[test], event[test], found.values[:, 0]) > best - 0.03
    survived = found.values[:, 1:]
    assert (survived[:, 0] >= survived[:, 1]).all()
    true = np.exp(-np.exp(1.5 * z[test])[:, None] * [0.5, 1.0])
    assert np.abs(survived - true).mean() < 0.12


def test_ordinal_grades_are_recovered() -> None:
    z = latent()
    grades = np.digitize(z, [-0.8, 0.0, 0.8])
    rows = [{"label": str(grade)} for grade in grades]
    found = learn(task_of("ordinal", rows), rows, shifted_bags(z), epochs=15)
    said = [int(found.task.label(values)) for values in found.values]
    kappa = cohen_kappa_score(grades[found.indices], said, weights="quadratic")
    assert kappa > 0.8
    assert found.values.sum(axis=1) == pytest.approx(1)


def test_a_number_is_recovered_in_its_own_unit() -> None:
    z = latent()
    rows = [{"value": f"{100 + 30 * value:.4f}"} for value in z]
    found = learn(task_of("regression", rows), rows, shifted_bags(z), epochs=15)
    error = found.values[:, 0] - (100 + 30 * z[found.indices])
    assert np.abs(error).mean() < 9  # a bag of 20 tells z to within 0.22, 6.7 here


def test_flipped_labels_are_found() -> None:
    """A fifth of the labels is wrong; each is judged by a head that did not see it."""
    z = latent()
    truth = (z > 0).astype(int)
    bags = shifted_bags(np.where(truth == 1, 1.0, -1.0))
    flipped = np.random.default_rng(2).random(SLIDES) < 0.2
    labels = np.where(flipped, 1 - truth, truth)
    rows = [{"label": str(label)} for label in labels]
    scores = np.zeros((SLIDES, 2))
    for fold in range(3):
        found = learn(task_of("binary", rows, loss="gce"), rows, bags, fold=fold, epochs=8)
        scores[found.indices] = found.values
    issues = label_issues(labels, scores)
    assert issues.is_issue[flipped].mean() > 0.9
    assert flipped[issues.is_issue].mean() > 0.8
    assert (issues.suggested[flipped] == truth[flipped]).mean() > 0.9
    assert issues.quality[flipped].max() < np.median(issues.quality[~flipped])


@pytest.mark.parametrize("uncertain", ["ignore", "soft"])
def test_labels_are_learned_though_some_are_uncertain_and_some_not_known(uncertain: str) -> None:
    z, other = latent(), latent(5)
    bags = shifted_bags(z)
    for bag, value in zip(bags, other, strict=True):
        bag[:, 1] += value
    rng = np.random.default_rng(3)
    rows = []
    for a, b in zip(z, other, strict=True):
        first, second = str(int(a > 0)), str(int(b > 0))
        doubt, absent = rng.random(2) < 0.2
        rows.append({"label_first": "-1" if doubt and a > 0 else first,
                     "label_second": "" if absent else second})  # fmt: skip
    task = task_of("multilabel", rows, uncertain=uncertain)
    found = learn(task, rows, bags, epochs=12)
    for column, value in enumerate((z, other)):
        assert roc_auc_score(value[found.indices] > 0, found.values[:, column]) > 0.95


def test_several_tasks_share_a_head_though_answers_are_missing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    z = latent()
    (tmp_path / "tasks.toml").write_text(
        '[tumor]\ntask = "binary"\n[size]\ntask = "regression"\nweight = 0.5\n'
        '[outcome]\ntask = "survival"\n'
    )
    rng = np.random.default_rng(4)
    time = rng.exponential(np.exp(-1.5 * z)) + 1e-3
    rows = [
        {"tumor": str(int(v > 0)) if kind != 0 else "",
         "size": f"{10 + v:.4f}" if kind != 1 else "",
         "outcome_time": f"{t:.5f}" if kind != 2 else "",
         "outcome_event": "1" if kind != 2 else ""}
        for v, t, kind in zip(z, time, rng.integers(0, 4, SLIDES), strict=True)
    ]  # fmt: skip
    task = task_of(str(tmp_path / "tasks.toml"), rows)
    assert list(task.outputs)[:4] == ["tumor.0", "tumor.1", "size.predicted", "outcome.risk"]
    found = learn(task, rows, shifted_bags(z), epochs=20, batch=8,
                  learning_rate=1e-2)  # fmt: skip
    test = found.indices
    assert roc_auc_score(z[test] > 0, found.values[:, 1]) > 0.95
    assert np.corrcoef(z[test], found.values[:, 2])[0, 1] > 0.9
    assert concordance(time[test], np.ones(len(test), bool), found.values[:, 3]) > 0.78


@pytest.mark.slow
def test_attention_finds_one_instance_in_a_thousand_and_the_mean_does_not() -> None:
    """Ten witnesses in a bag of 10,000 move its mean by less than slides differ anyway."""
    rng = np.random.default_rng(0)
    labels = np.arange(72) // 3 % 2
    bags = []
    for label in labels:
        bag = rng.normal(size=(10_000, 8)) + 0.1 * rng.normal(size=8)
        bag[:10, :4] += 6 * label
        bags.append(bag)
    rows = [{"label": str(label)} for label in labels]
    aucs = {}
    for head, arguments in (("abmil", {"hidden": 16, "width": 16, "dropout": 0.0}),
                            ("mean", {"hidden": 16, "dropout": 0.0})):  # fmt: skip
        found = learn(
            task_of("binary", rows), rows, bags, head=head, arguments=arguments, epochs=30,
            max_instances=10_000, patience=30, learning_rate=5e-3,
        )  # fmt: skip
        aucs[head] = roc_auc_score(labels[found.indices], found.values[:, 1])
    assert aucs["abmil"] > 0.95
    assert aucs["mean"] < 0.85
