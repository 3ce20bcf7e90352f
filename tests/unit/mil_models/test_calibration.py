"""Calibration by hand, on sets whose truth is known, and never judged where it was fitted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from mil_models.calibration import (
    ByParts,
    Isotonic,
    Method,
    Temperature,
    brier_score,
    calibration_error,
    calibration_from_dict,
    cross_fitted,
    fit,
    fit_isotonic,
    fit_temperature,
    reliability,
)
from mil_models.errors import CalibrationError

Floats = NDArray[np.float64]


def softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def drawn(n: int, classes: int, sharp: float, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Return labels drawn from known probabilities, and those made `sharp` times too sure."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, classes))
    chance = softmax(logits)
    targets = (chance.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return targets, softmax(logits * sharp)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("sharp", [0.5, 1.0, 3.0])
def test_the_temperature_is_how_much_too_sure_the_scores_are(classes: int, sharp: float) -> None:
    """Labels drawn from softmax(z), scores softmax(s z): the best temperature is s."""
    targets, scores = drawn(20_000, classes, sharp)
    assert fit_temperature(targets, scores).temperature == pytest.approx(sharp, rel=0.04)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_miscalibrated_set_is_mended_on_patients_not_fitted_on(
    method: Method, classes: int
) -> None:
    targets, scores = drawn(2000, classes, 3.0)
    patients = [str(i // 2) for i in range(2000)]
    mended = cross_fitted(method, targets, scores, patients)
    assert calibration_error(targets, scores) > 0.12
    assert calibration_error(targets, mended) < 0.04
    assert brier_score(targets, mended) < brier_score(targets, scores)
    assert mended.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_calibrated_set_is_left_alone(classes: int) -> None:
    targets, scores = drawn(2000, classes, 1.0)
    mended = cross_fitted("temperature", targets, scores, [str(i) for i in range(2000)])
    assert np.abs(mended - scores).max() < 0.03
    assert calibration_error(targets, mended) < calibration_error(targets, scores) + 0.01


def test_cross_fitting_never_sees_the_held_patient() -> None:
    """Slides of a held patient in another fold are left out too: labels there do not matter."""
    targets, scores = drawn(60, 2, 2.0)
    patients = [str(i // 3) for i in range(60)]
    folds = [str(i % 3) for i in range(60)]  # every patient in every fold: a leaky table
    with pytest.raises(CalibrationError, match="0 slides of 0 classes"):
        cross_fitted("temperature", targets, scores, patients, folds=folds)
    folds = [str(i // 3 % 4) for i in range(60)]
    before = cross_fitted("isotonic", targets, scores, patients, folds=folds)
    held = np.array(folds) == "0"
    flipped = np.where(held, 1 - targets, targets)
    after = cross_fitted("isotonic", flipped, scores, patients, folds=folds)
    assert (before[held] == after[held]).all()
    assert (before[~held] != after[~held]).any()


def test_temperature_by_hand() -> None:
    """Odds of 0.8 to 0.2 are 4; at a temperature of 2 they are 2."""
    found = Temperature(2.0).apply(np.array([[0.2, 0.8], [1.0, 0.0]]))
    assert found[0] == pytest.approx([1 / 3, 2 / 3])
    assert found[1] == pytest.approx([1, 1e-6], rel=1e-3, abs=1e-5)
    assert Temperature(1.0).apply(np.array([[0.2, 0.3, 0.5]]))[0] == pytest.approx([0.2, 0.3, 0.5])


def test_isotonic_by_hand() -> None:
    """Pool adjacent violators: 0, 1, 0, 1 at rising scores become 0, 1/2, 1/2, 1."""
    targets = np.array([0, 1, 0, 1])
    score = np.array([0.1, 0.2, 0.3, 0.4])
    found = fit_isotonic(targets, np.stack([1 - score, score], axis=1))
    at = np.array([0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.9])
    calibrated = found.apply(np.stack([1 - at, at], axis=1))[:, 1]
    assert calibrated == pytest.approx([0, 0, 0.5, 0.5, 0.5, 1, 1])


def test_a_slide_that_every_curve_calls_impossible_is_anyones() -> None:
    flat = ((0.0, 1.0), (0.0, 0.0))
    assert Isotonic((flat,) * 3).apply(np.array([[0.2, 0.3, 0.5]])).tolist() == [[1 / 3] * 3]


def test_calibration_error_by_hand() -> None:
    """Equal width: 0.1 and 0.15 in one bin, 1 of 2 true; 0.9 true; 1.0 in the last bin, true.

    (2 · |0.125 - 0.5| + 2 · |0.95 - 1|) / 4; two bins of equal mass are the same slides.
    """
    score = np.array([0.1, 0.15, 0.9, 1.0])
    targets, scores = np.array([0, 1, 1, 1]), np.stack([1 - score, score], axis=1)
    assert calibration_error(targets, scores) == pytest.approx((0.75 + 0.1) / 4)
    found = calibration_error(targets, scores, bins=2, equal_mass=True)
    assert found == pytest.approx((0.75 + 0.1) / 4)
    rows = reliability(score, targets == 1)
    assert [(r.slides, r.frequency) for r in rows] == [(2, 0.5), (2, 1.0)]


def test_brier_by_hand() -> None:
    assert brier_score(np.array([1, 0]), np.array([[0.4, 0.6], [0.9, 0.1]])) == pytest.approx(0.085)
    three = brier_score(np.array([0]), np.array([[0.5, 0.3, 0.2]]))
    assert three == pytest.approx(0.25 + 0.09 + 0.04)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_calibration_survives_a_card(method: Method, classes: int) -> None:
    targets, scores = drawn(50, classes, 2.0)
    found = fit(method, targets, scores)
    again = calibration_from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert (again.apply(scores) == found.apply(scores)).all()


@pytest.mark.parametrize(
    "card",
    [
        {}, {"method": "platt"}, {"method": "temperature"},
        {"method": "temperature", "temperature": 0}, {"method": "isotonic", "curves": []},
        {"method": "isotonic", "curves": [{"scores": [1], "probabilities": []}]},
    ],
)  # fmt: skip
def test_a_card_without_a_calibration_is_refused(card: dict[str, object]) -> None:
    with pytest.raises(CalibrationError, match="no calibration"):
        calibration_from_dict(card)


def test_one_class_cannot_calibrate() -> None:
    with pytest.raises(CalibrationError, match="2 slides of 1 class"):
        fit_temperature(np.array([1, 1]), np.array([[0.5, 0.5]] * 2))
    with pytest.raises(CalibrationError, match="one patient only"):
        cross_fitted("isotonic", np.array([0, 1]), np.array([[0.5, 0.5]] * 2), ["p", "p"])


def test_parts_are_calibrated_each_by_itself() -> None:
    """A label, three classes, and a value that is no probability."""
    scores = np.array([[0.8, 0.7, 0.2, 0.1, -4.0], [0.3, 0.2, 0.2, 0.6, 9.0]])
    two, three = Temperature(2.0), Temperature(0.5)
    parts = ByParts(((1, two), (3, three), (1, None)))
    again = calibration_from_dict(json.loads(json.dumps(parts.to_dict())))
    assert again == parts
    found = again.apply(scores)
    label = np.sqrt(0.8) / (np.sqrt(0.8) + np.sqrt(0.2))  # odds to the power of 1/2
    assert found[0, 0] == pytest.approx(label)
    assert found[:, 1:4] == pytest.approx(three.apply(scores[:, 1:4]))
    assert found[:, 4].tolist() == [-4.0, 9.0]
    nested = {"method": "parts", "parts": [{"columns": 1, "calibration": parts.to_dict()}]}
    with pytest.raises(CalibrationError, match="no calibration"):
        calibration_from_dict(nested)
