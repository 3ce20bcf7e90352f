"""Dice, IoU and boundary F1 by hand; parts add up to the whole; lesions are compared one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mil_models.segmentation.lesion_agreement import compare_lesions
from mil_models.segmentation.lesion_measures import lesion_labels
from mil_models.segmentation.metrics import Agreement, agreement, boundary, halo_px

MPP = (1.0, 1.0)


def rectangle(x0: int, y0: int, x1: int, y1: int, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_overlap_by_hand() -> None:
    """10 x 10 against the same moved by 3: 70 shared of 100 and 100."""
    found, there = rectangle(10, 10, 20, 20), rectangle(13, 10, 23, 20)
    result = agreement(found, there, MPP, tolerance_um=0)
    assert (result.both, result.found, result.there) == (70, 100, 100)
    assert result.dice == 0.7
    assert result.iou == 70 / 130
    assert result.precision == result.recall == 0.7


@pytest.mark.parametrize(
    ("tolerance", "hits"),
    [
        # Each boundary has 36 pixels. Top and bottom share 7 columns each: 14.
        (0, 14),
        # Within 2: two more columns of top and bottom, and of the right side two rows below the
        # other's top and two above its bottom.
        (2, 22),
        # Within 3 the sides, too, all along.
        (2.999, 22),
        (3, 36),
    ],
)
def test_boundaries_by_hand(tolerance: float, hits: int) -> None:
    found, there = rectangle(10, 10, 20, 20), rectangle(13, 10, 23, 20)
    result = agreement(found, there, MPP, tolerance_um=tolerance)
    assert (result.found_edge, result.there_edge) == (36, 36)
    assert (result.found_edge_hits, result.there_edge_hits) == (hits, hits)
    assert result.boundary_f1 == pytest.approx(hits / 36)


def test_tolerance_is_in_um_along_each_axis() -> None:
    found = rectangle(10, 10, 11, 11)
    right, below = rectangle(12, 10, 13, 11), rectangle(10, 12, 11, 13)
    wide = (3.0, 0.1)
    assert agreement(found, right, wide, tolerance_um=5.9).boundary_f1 == 0
    assert agreement(found, right, wide, tolerance_um=6.0).boundary_f1 == 1
    assert agreement(found, below, wide, tolerance_um=0.2).boundary_f1 == 1
    assert agreement(found, below, wide, tolerance_um=0.19).boundary_f1 == 0


def test_boundary_f1_weighs_what_is_missing_and_what_is_too_much() -> None:
    """Found: one of two squares. All of its boundary is right, half of the true one is found."""
    one, other = rectangle(2, 2, 12, 12), rectangle(30, 20, 40, 30)
    result = agreement(one, one | other, MPP, tolerance_um=1)
    assert result.boundary_f1 == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert result.dice == pytest.approx(2 * 100 / 300)


def test_empty_masks() -> None:
    empty, full = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    nothing = agreement(empty, empty, MPP, tolerance_um=1)
    assert nothing == Agreement()
    assert {nothing.dice, nothing.iou, nothing.boundary_f1, nothing.recall} == {None}
    missed = agreement(empty, full, MPP, tolerance_um=1)
    assert (missed.dice, missed.iou, missed.boundary_f1, missed.precision) == (0, 0, 0, None)
    assert boundary(full).sum() == 16  # beyond the picture is outside


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="must be the same"):
        agreement(np.zeros((2, 3), bool), np.zeros((3, 2), bool), MPP, tolerance_um=1)
    with pytest.raises(ValueError, match="tolerance_um=-1"):
        agreement(np.zeros((2, 3), bool), np.zeros((2, 3), bool), MPP, tolerance_um=-1)


@pytest.mark.parametrize(("mpp", "tolerance"), [((1.0, 1.0), 3.0), ((0.5, 0.8), 2.3)])
def test_parts_add_up_to_the_whole(mpp: tuple[float, float], tolerance: float) -> None:
    rng = np.random.default_rng(0)
    found, there = (ndimage.gaussian_filter(rng.normal(size=(93, 117)), 3) > 0.05 for _ in range(2))
    whole = agreement(found, there, mpp, tolerance_um=tolerance)
    halo, total = halo_px(mpp, tolerance), Agreement()
    for top in range(0, 93, 30):
        for left in range(0, 117, 40):
            up, back = max(top - halo, 0), max(left - halo, 0)
            part = np.s_[up : top + 30 + halo, back : left + 40 + halo]
            core = (
                slice(top - up, min(top + 30, 93) - up),
                slice(left - back, min(left + 40, 117) - back),
            )
            total += agreement(found[part], there[part], mpp, tolerance_um=tolerance, core=core)
    assert total == whole
    assert 0 < whole.found_edge_hits < whole.found_edge


def test_the_obvious_way_says_the_same() -> None:
    """A distance transform of the whole mask."""
    rng = np.random.default_rng(1)
    found, there = (ndimage.gaussian_filter(rng.normal(size=(80, 90)), 2) > 0.1 for _ in range(2))
    result = agreement(found, there, (0.7, 0.4), tolerance_um=1.7)
    distance = ndimage.distance_transform_edt(~boundary(there), sampling=(0.4, 0.7))
    assert result.found_edge_hits == (distance[boundary(found)] <= 1.7).sum()


def test_lesions_one_by_one() -> None:
    shape = (60, 100)
    there = (
        rectangle(5, 5, 15, 15, shape) | rectangle(30, 5, 40, 15, shape)
        | rectangle(70, 40, 80, 50, shape)
    )  # fmt: skip
    found = (
        rectangle(5, 5, 15, 10, shape)  # half of the first
        | rectangle(28, 5, 42, 15, shape)  # the second, and two columns on either side
        | rectangle(90, 5, 95, 10, shape)  # nothing is there
    )
    report = compare_lesions(
        lesion_labels(found, MPP, merge=False), lesion_labels(there, MPP, merge=False), MPP,
        tolerance_um=2,
    )  # fmt: skip
    dice = [one.agreement.dice for one in report.lesions]
    assert dice == [2 * 50 / 150, pytest.approx(2 * 100 / 240), 0]
    assert [one.agreement.boundary_f1 for one in report.lesions][1:] == [1.0, 0]
    assert [one.is_hit for one in report.lesions] == [True, True, False]
    assert report.hits == 2
    assert [le.box for le in report.false] == [(90, 5, 95, 10)]


def test_one_region_over_two_lesions_is_judged_on_each() -> None:
    there = rectangle(0, 0, 10, 10) | rectangle(20, 0, 30, 10)
    found = rectangle(0, 0, 30, 10)
    report = compare_lesions(
        lesion_labels(found, MPP, merge=False), lesion_labels(there, MPP, merge=False), MPP,
        tolerance_um=0,
    )  # fmt: skip
    # The 100 px between count against each; those of the other lesion do not.
    assert [one.agreement.dice for one in report.lesions] == [2 * 100 / (100 + 200)] * 2
