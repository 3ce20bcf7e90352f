"""DeLong's variance from mid-ranks against the same from all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from mil_models.delong import delong

Floats = NDArray[np.float64]


def plain_components(y: NDArray[np.bool_], s: Floats) -> tuple[Floats, Floats]:
    """DeLong et al. 1988: V10 of every positive, V01 of every negative, from all pairs."""
    gap = s[y][:, None] - s[~y][None, :]
    order = (gap > 0) + 0.5 * (gap == 0)
    return order.mean(axis=1), order.mean(axis=0)


def plain_covariance(y: NDArray[np.bool_], scores: Floats) -> Floats:
    """DeLong et al. 1988: S10 / m + S01 / n, with one slide per patient."""
    parts = [plain_components(y, s) for s in scores]
    v10, v01 = np.stack([p[0] for p in parts]), np.stack([p[1] for p in parts])
    return np.cov(v10) / y.sum() + np.cov(v01) / (~y).sum()


def slides(n: int, seed: int) -> tuple[NDArray[np.bool_], Floats]:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    y[:2], y[2:4] = True, False
    return y, np.round(y * 0.5 + rng.normal(size=(2, n)), 1)  # with ties


@pytest.mark.parametrize("seed", range(5))
def test_midranks_give_what_all_pairs_give(seed: int) -> None:
    y, scores = slides(61, seed)
    found = delong(y, scores, [str(i) for i in range(61)])
    assert found.auroc == pytest.approx([plain_components(y, s)[0].mean() for s in scores])
    assert found.covariance == pytest.approx(plain_covariance(y, scores), rel=1e-9)


def test_patients_with_several_slides_follow_obuchowski() -> None:
    """Obuchowski 1997, equations for S10, S01 and S11, written out over patients."""
    y, scores = slides(50, 7)
    patient = np.random.default_rng(0).integers(0, 17, 50)
    v10, v01 = plain_components(y, scores[0])
    theta, m, n = v10.mean(), y.sum(), (~y).sum()
    s10 = s01 = s11 = 0.0
    names = np.unique(patient)
    for name in names:
        up = (v10 - theta)[patient[y] == name].sum()
        down = (v01 - theta)[patient[~y] == name].sum()
        s10, s01, s11 = s10 + up * up, s01 + down * down, s11 + up * down
    i10, i01, i = len(set(patient[y])), len(set(patient[~y])), len(names)
    variance = (
        i10 / ((i10 - 1) * m) * s10 / m
        + i01 / ((i01 - 1) * n) * s01 / n
        + 2 * i / (i - 1) * s11 / (m * n)
    )
    found = delong(y, scores[:1], patient.astype(str).tolist())
    assert found.covariance[0, 0] == pytest.approx(variance)


def test_difference_of_two_models() -> None:
    y, scores = slides(80, 1)
    variance = np.array([1, -1]) @ plain_covariance(y, scores) @ np.array([1, -1])
    gap, error, p = delong(y, scores, [str(i) for i in range(80)]).difference()
    assert error == pytest.approx(np.sqrt(variance))
    assert p == pytest.approx(2 * norm.sf(abs(gap) / np.sqrt(variance)))
    same = delong(y, scores[[0, 0]], [str(i) for i in range(80)]).difference()
    assert same == (0.0, 0.0, 1.0)


def test_equal_models_differ_by_chance_as_often_as_the_p_value_says() -> None:
    """Under the null p < 0.05 in about 5 % of 400 data sets (binomial 95 %: 3 to 7.3 %)."""
    below = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        y = np.repeat([True, False], [40, 60])
        shared = rng.normal(size=100)
        scores = y + shared + rng.normal(size=(2, 100))
        p = delong(y, scores, [str(i) for i in range(100)]).difference()[2]
        below += p is not None and p < 0.05
    assert 8 <= below <= 34


def test_separated_classes_have_no_interval() -> None:
    y = np.array([True, True, False, False])
    found = delong(y, np.array([[3.0, 2, 1, 0]]), list("abcd"))
    assert found.auroc[0] == 1
    assert found.interval() is None


def test_one_patient_of_a_class_has_no_variance() -> None:
    y = np.array([True, True, False, False])
    found = delong(y, np.array([[3.0, 0, 1, 0]]), list("aabc"))
    assert np.isnan(found.covariance).all()
    assert found.interval() is None


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="2 positive and 0 negative slides"):
        delong(np.array([True, True]), np.array([[0.0, 1]]), ["a", "b"])
