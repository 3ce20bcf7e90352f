"""Lesions by hand: merged within 75 µm, measured from corner to corner."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mil_models.segmentation.lesion_measures import (
    burden,
    lesion_labels,
    longest_diameter_mm,
    measure_lesions,
)

MPP = (10.0, 10.0)


def two_squares(gap: int) -> np.ndarray:
    """Squares of 20 px, `gap` px of background between them."""
    mask = np.zeros((60, 120), bool)
    mask[20:40, 20:40] = True
    mask[20:40, 40 + gap : 60 + gap] = True
    return mask


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_foci_up_to_75_um_apart_are_one(gap: int, lesions: int) -> None:
    """At 10 µm, each is grown by the pixels nearer than 3.75 px: 3 on either side fill 6."""
    labels = lesion_labels(two_squares(gap), MPP)
    assert labels.max() == lesions
    assert np.array_equal(labels > 0, two_squares(gap))  # what was grown is not measured
    assert lesion_labels(two_squares(gap), MPP, merge=False).max() == 2


def test_measures_by_hand() -> None:
    found = measure_lesions(lesion_labels(two_squares(6), MPP), MPP)
    assert [(f.number, f.box) for f in found] == [(1, (20, 20, 66, 40))]
    assert found[0].area_mm2 == pytest.approx(2 * 20 * 20 * 1e-4)
    assert found[0].diameter_mm == pytest.approx(math.hypot(0.46, 0.2))


def test_diameters_on_pixels_that_are_no_squares() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2, 3:7] = True
    assert longest_diameter_mm(mask, (30.0, 40.0)) == pytest.approx(math.hypot(0.12, 0.04))
    assert longest_diameter_mm(mask & False, MPP) == 0
    ring = np.zeros((101, 101), bool)
    y, x = np.mgrid[-50:51, -50:51]
    ring[np.hypot(x, y) <= 50] = True
    # The corners farthest out are those of the last pixels of a row or column.
    assert longest_diameter_mm(ring, MPP) == pytest.approx(
        2 * math.hypot(50.5, 0.5) / 100, rel=0.01
    )


def test_merging_wants_square_pixels() -> None:
    with pytest.raises(ValueError, match="merged on square pixels"):
        lesion_labels(two_squares(6), (10.0, 11.0))
    assert lesion_labels(two_squares(6), (10.0, 11.0), merge=False).max() == 2


def test_the_share_of_the_tissue() -> None:
    mask, tissue = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    tissue[:, :5] = True
    mask[:4, :8] = True
    assert burden(mask, tissue) == 20 / 50
    assert burden(mask, tissue & False) is None
    assert burden(mask & False, tissue) == 0
