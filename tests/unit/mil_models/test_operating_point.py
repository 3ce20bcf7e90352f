"""Operating points by hand, and whatever the scores are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mil_models.errors import CalibrationError
from mil_models.operating_point import OperatingPoint, operating_point


@pytest.mark.parametrize(
    ("rule", "at_least", "threshold", "sensitivity", "specificity"),
    [
        ("youden", 0.95, 0.65, 2 / 3, 1.0),
        ("sensitivity", 0.9, 0.35, 1.0, 1 / 3),
        ("specificity", 0.5, 0.65, 2 / 3, 1.0),
        ("specificity", 0.3, 0.35, 1.0, 1 / 3),
        ("specificity", 1.0, 0.65, 2 / 3, 1.0),
    ],
)
def test_operating_points_by_hand(
    rule: str, at_least: float, threshold: float, sensitivity: float, specificity: float
) -> None:
    """Scores 0.9 and 0.8 (positive), 0.5 (negative), 0.4 (negative, positive), 0.3 (negative).

    The threshold stands halfway between the lowest score called positive and the next.
    """
    scores = np.array([0.9, 0.8, 0.5, 0.4, 0.4, 0.3])
    positive = np.array([True, True, False, False, True, False])
    found = operating_point(positive, scores, rule=rule, at_least=at_least)  # type: ignore[arg-type]
    assert (found.threshold, found.sensitivity, found.specificity) == pytest.approx(
        (threshold, sensitivity, specificity)
    )
    again = OperatingPoint.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=25),
    st.sampled_from(["youden", "sensitivity", "specificity"]),
    st.floats(0.05, 1),
)
@settings(max_examples=80, deadline=None)
def test_an_operating_point_does_what_it_says(
    slides: list[tuple[bool, int]], rule: str, at_least: float
) -> None:
    positive = np.array([p for p, _ in slides])
    scores = np.array([s / 8 for _, s in slides])
    if positive.all() or not positive.any():
        with pytest.raises(CalibrationError, match="both classes"):
            operating_point(positive, scores)
        return
    found = operating_point(positive, scores, rule=rule, at_least=at_least)  # type: ignore[arg-type]
    called = found.is_positive(scores)
    assert found.sensitivity == pytest.approx(called[positive].mean())
    assert found.specificity == pytest.approx(1 - called[~positive].mean())
    for cut in [*np.unique(scores), 2.0]:  # no other threshold is better by the rule
        sens, spec = (scores >= cut)[positive].mean(), 1 - (scores >= cut)[~positive].mean()
        if rule == "youden":
            assert found.sensitivity + found.specificity >= sens + spec - 1e-9
        elif rule == "sensitivity":
            assert found.sensitivity >= at_least - 1e-9
            assert sens < at_least - 1e-9 or spec <= found.specificity + 1e-9
        else:
            assert found.specificity >= at_least - 1e-9
            assert spec < at_least - 1e-9 or sens <= found.sensitivity + 1e-9


def test_a_rule_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="use youden, sensitivity, specificity"):
        operating_point(np.array([True, False]), np.array([1.0, 0]), rule="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at_least=1.5"):
        operating_point(np.array([True, False]), np.array([1.0, 0]), at_least=1.5)
