"""CAMELYON17's classes, stages and kappa, by the challenge's rules."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from mil_models.staging import STAGES, node_class, patient_stage, stage_agreement


@pytest.mark.parametrize(
    ("diameter", "cells", "expected"),
    [(0, None, "negative"), (1e-9, None, "itc"), (0.2 - 1e-9, None, "itc"), (0.2, None, "micro"),
     (0.2, 199, "itc"), (0.2, 200, "micro"), (0.1, 500, "itc"), (2.0, None, "micro"),
     (2.0 + 1e-9, None, "macro"), (5, 100, "macro")],
)  # fmt: skip
def test_node_classes(diameter: float, cells: int | None, expected: str) -> None:
    """ITC below 0.2 mm or 200 cells, micro 0.2 to 2 mm, macro above 2 mm."""
    assert node_class(diameter, cells) == expected


@pytest.mark.parametrize(
    ("nodes", "stage"),
    [
        ("0 0 0 0 0", "pN0"), ("i 0 0 0 0", "pN0(i+)"), ("i i i i i", "pN0(i+)"),
        ("m i 0 0 0", "pN1mi"), ("m m m m m", "pN1mi"), ("M 0 0 0 0", "pN1"),
        ("M m m 0 0", "pN1"), ("M m m i i", "pN1"), ("M m m m 0", "pN2"), ("M M M M M", "pN2"),
    ],
)  # fmt: skip
def test_stages(nodes: str, stage: str) -> None:
    """4 positive nodes are pN2 only with a macro among them; ITC nodes are not counted."""
    names = {"0": "negative", "i": "itc", "m": "micro", "M": "macro"}
    assert patient_stage([names[n] for n in nodes.split()]) == stage


def test_without_draws_there_is_no_interval() -> None:
    stages = {"a": "pN0", "b": "pN2"}
    found = stage_agreement(stages, stages, resamples=0)
    assert (found.kappa, found.interval) == (1.0, None)


def test_kappa_by_hand() -> None:
    """One of four off by two grades: observed 4, expected by chance (sum of r_i c_j d^2) / 4."""
    truth = {"a": "pN0", "b": "pN0", "c": "pN1mi", "d": "pN1mi"}
    said = truth | {"b": "pN1mi"}
    # Rows 2 at grade 0 and 2 at grade 2; columns 1 and 3; d^2 = 4: (2 * 3 + 2 * 1) * 4 / 4 = 8.
    found = stage_agreement(truth, said)
    assert found.kappa == pytest.approx(1 - 4 / 8)
    assert found.accuracy == 0.75
    assert found.confusion[0].tolist() == [1, 0, 1, 0, 0]


def test_kappa_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    is_, said = rng.choice(STAGES, (2, 60))
    names = [f"p{i}" for i in range(60)]
    found = stage_agreement(dict(zip(names, is_, strict=True)), dict(zip(names, said, strict=True)))
    expected = cohen_kappa_score(is_, said, labels=list(STAGES), weights="quadratic")
    assert found.kappa == pytest.approx(expected)
    low, high = found.interval or (np.nan, np.nan)
    assert low < expected < high


def test_what_cannot_be_said_or_is_wrong() -> None:
    assert stage_agreement({"a": "pN0"}, {"a": "PN0", "b": "pN1"}).kappa is None
    for truth, said, message in (
        ({"a": "pN0"}, {}, "no predicted stage for a"),
        ({}, {}, "any patient"),
        ({"a": "pN0"}, {"a": "pN3"}, "a: stage 'pN3' is none of pN0"),
    ):
        with pytest.raises(ValueError, match=message):
            stage_agreement(truth, said)
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="diameter_mm="):
            node_class(bad)
    with pytest.raises(ValueError, match=r"nodes \['Macro'\]"):
        patient_stage(["Macro"])
