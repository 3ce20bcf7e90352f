"""Survival figures by hand, and against scikit-survival where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mil_models import survival

Floats = NDArray[np.float64]
ONE = np.ones((1, 5))


def cohort(n: int, seed: int) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Return times (some equal), events and risks; the hazard rises with the risk."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    died, censored = rng.exponential(5 * np.exp(-risk)), rng.exponential(8, n)
    time = np.ceil(np.minimum(died, censored) * 2) / 2
    return time, died <= censored, risk


def test_concordance_by_hand() -> None:
    """Known pairs: 1 before each of the others (4), 3 before 4 and 5 (2): 2 is censored.

    Risks 9 > 8, 1, 9 (a half), 0 and 1 < 9, > 0: 3.5 + 1 of 6.
    """
    time = np.array([1.0, 2, 3, 4, 5])
    event = np.array([True, False, True, False, False])
    risk = np.array([9.0, 8, 1, 9, 0])
    assert survival.concordance(time, event, risk, ONE) == pytest.approx([4.5 / 6])


def test_an_event_at_the_time_of_a_censoring_comes_first() -> None:
    time, event = np.array([2.0, 2.0]), np.array([True, False])
    one = np.ones((1, 2))
    assert survival.concordance(time, event, np.array([1.0, 0]), one) == 1
    assert np.isnan(survival.concordance(time, np.array([True, True]), np.array([1.0, 0]), one))


def test_censoring_curve_by_hand() -> None:
    """At 2 one of the 3 still there after the event at 2 is lost; at 4 one of one."""
    time = np.array([1.0, 2, 2, 3, 4])
    event = np.array([True, True, False, True, False])
    found = survival.uncensored(time, event, ONE, np.array([0.5, 2, 3.9, 4]))
    assert found[0].tolist() == pytest.approx([1, 2 / 3, 2 / 3, 0])


def test_without_censoring_brier_is_a_mean_square() -> None:
    time, event = np.arange(1.0, 6), np.ones(5, bool)
    predicted = np.array([0.1, 0.4, 0.6, 0.8, 0.9])
    free = time > 2.5
    found = survival.brier_at(time, event, predicted, ONE, 2.5)
    assert found == pytest.approx([((free - predicted) ** 2).mean()])


def test_weights_are_repeated_slides() -> None:
    time, event, risk = cohort(40, 0)
    weights = np.random.default_rng(1).integers(0, 4, 40)
    again = np.repeat(np.arange(40), weights)
    whole, many = weights[None] * 1.0, np.ones((1, len(again)))
    chance = np.exp(-time / 9)
    pairs = [
        (survival.concordance(time, event, risk, whole),
         survival.concordance(time[again], event[again], risk[again], many)),
        (survival.auc_at(time, event, risk, whole, 2.0),
         survival.auc_at(time[again], event[again], risk[again], many, 2.0)),
        (survival.brier_at(time, event, chance, whole, 2.0),
         survival.brier_at(time[again], event[again], chance[again], many, 2.0)),
    ]  # fmt: skip
    for found, expected in pairs:
        assert found == pytest.approx(expected, rel=1e-12)


def test_blocks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    time, event, risk = cohort(50, 3)
    whole = survival.concordance(time, event, risk, np.ones((1, 50)))
    monkeypatch.setattr("mil_models.survival.BLOCK_ROWS", 7)
    assert survival.concordance(time, event, risk, np.ones((1, 50))) == pytest.approx(whole)


@pytest.mark.parametrize("seed", range(4))
def test_figures_equal_scikit_survivals(seed: int) -> None:
    """scikit-survival 0.28: concordance_index_censored, cumulative_dynamic_auc, brier_score."""
    metrics = pytest.importorskip("sksurv.metrics")
    from sksurv.util import Surv

    time, event, risk = cohort(120, seed)
    truth = Surv.from_arrays(event, time)
    at = np.array([1.0, 2.5, 4.0])
    predicted = np.exp(-at[None] * np.exp(risk)[:, None] / 6)
    one = np.ones((1, 120))
    expected = metrics.concordance_index_censored(event, time, risk)[0]
    assert survival.concordance(time, event, risk, one) == pytest.approx([expected])
    areas, _ = metrics.cumulative_dynamic_auc(truth, truth, risk, at)
    found = [float(survival.auc_at(time, event, risk, one, t)[0]) for t in at]
    assert found == pytest.approx(areas.tolist())
    _, scores = metrics.brier_score(truth, truth, predicted, at)
    found = [float(survival.brier_at(time, event, predicted[:, k], one, t)[0])
             for k, t in enumerate(at)]  # fmt: skip
    assert found == pytest.approx(scores.tolist())
    whole = metrics.integrated_brier_score(truth, truth, predicted, at)
    assert survival.integrated_brier(time, event, predicted, one, at) == pytest.approx([whole])
