"""Regions of a mask against the challenge program's own steps: distance, fill, label, axis."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from mil_models.lesions import find_lesions


def plain(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The program's steps, one call each (`Evaluation_FROC.py`)."""
    near = ndimage.distance_transform_edt(~mask) < 75 / (0.243 * 2**5 * 2)
    labels = label(ndimage.binary_fill_holes(near), connectivity=2)
    itc = [p.label for p in regionprops(labels) if p.axis_major_length < 275 / (0.243 * 2**5)]
    return labels, itc


@pytest.mark.parametrize("seed", range(6))
def test_random_masks_give_the_regions_of_the_distance_transform(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((210, 333), bool)
    for _ in range(rng.integers(1, 12)):
        y, x, h, w = rng.integers(0, [210, 333, 60, 60])
        mask[y : y + h + 1, x : x + w + 1] ^= True
    labels, itc = plain(mask)
    found = find_lesions(mask)
    np.testing.assert_array_equal(found.labels, labels)
    assert (found.regions, list(found.itc)) == (labels.max(), itc)
    assert found.lesions == labels.max() - len(itc)


@pytest.mark.parametrize(("gap", "regions"), [(8, 1), (9, 2)])
def test_what_is_nearer_than_twice_37_5_um_is_one_lesion(gap: int, regions: int) -> None:
    """4 px grow at each side (4 < 4.82 < 5), which closes a gap of 8 columns, and not of 9."""
    mask = np.zeros((60, 160), bool)
    mask[30, 20:60] = mask[30, 60 + gap : 120] = True
    assert find_lesions(mask).regions == regions


@pytest.mark.parametrize(("side", "is_itc"), [(22, True), (23, False)])
def test_itc_are_shorter_than_275_um(side: int, is_itc: bool) -> None:
    """The long axis of the ellipse of equal moments below 275 / (0.243 * 32) = 35.37 px."""
    mask = np.zeros((80, 80), bool)
    mask[20 : 20 + side, 20 : 20 + side] = True
    axis = regionprops(plain(mask)[0])[0].axis_major_length
    assert (axis < 275 / (0.243 * 32)) is is_itc
    assert (find_lesions(mask).itc == (1,)) is is_itc


def test_a_hole_is_tumour_but_a_bay_is_none() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    mask[35:65, 35:65] = False
    assert find_lesions(mask).labels[50, 50] == 1
    mask[46:54, 65:] = False
    assert find_lesions(mask).labels[50, 50] == 1  # 8 px wide: 4 grow at each side
    mask[46:55, 65:] = False
    assert find_lesions(mask).labels[50, 50] == 0


def test_no_tumour() -> None:
    found = find_lesions(np.zeros((5, 7), bool))
    assert (found.labels.shape, found.regions, found.itc) == ((5, 7), 0, ())
