"""Maps to detections: components and maxima, in level-0 pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mil_models.detection import Detection, components, detect
from mil_models.froc import froc, hits_of
from mil_models.lesions import find_lesions

NAN = np.nan
MAP = np.array(
    [
        [0.6, 0.9, NAN, 0.1, 0.0],
        [0.1, 0.2, 0.7, 0.1, 0.8],
        [0.0, NAN, 0.1, 0.1, 0.8],
        [0.5, 0.1, 0.1, 0.1, 0.8],
    ]
)
"""At 0.5: three cells that touch by a corner, a column of equal ones, and one that just counts."""


def test_a_detection_for_each_component_at_its_highest_cell() -> None:
    """Corners join. Of equal cells that next to the centroid. Rows are y: cells are 100 x 10 px."""
    found = detect(MAP, cell_px=(100, 10), origin=(1000, 50))
    assert found == [
        Detection(0.9, 1150, 55), Detection(0.8, 1450, 75), Detection(0.5, 1050, 85),
    ]  # fmt: skip


def test_the_threshold_is_reached_by_equal_values_and_small_components_are_left_out() -> None:
    assert [d.score for d in detect(MAP, cell_px=(1, 1), threshold=0.51)] == [0.9, 0.8]
    assert [d.score for d in detect(MAP, cell_px=(1, 1), min_area=3)] == [0.9, 0.8]
    assert [d.score for d in detect(MAP, cell_px=(1, 1), min_area=4)] == []


def test_maxima_suppress_what_is_no_further_than_the_radius() -> None:
    """From 0.9 at (0, 1) the 0.6 is 10 px away, the 0.7 14.1; of three 0.8 the first takes one."""
    found = detect(MAP, cell_px=(10, 10), method="nms", radius_px=14.1)
    assert [(d.score, d.x0, d.y0) for d in found] == [
        (0.9, 15, 5), (0.8, 45, 15), (0.8, 45, 35), (0.7, 25, 15), (0.5, 5, 35),
    ]  # fmt: skip
    assert 0.7 not in [d.score for d in detect(MAP, cell_px=(10, 10), method="nms", radius_px=14.2)]
    every = detect(MAP, cell_px=(10, 10), method="nms", radius_px=0)
    assert len(every) == 7


def test_the_radius_is_in_pixels_on_both_axes() -> None:
    """Cells of 10 x 40 px: 30 px reach three cells across and none down."""
    values = np.full((3, 5), 0.5)
    values[0, 0] = 0.9
    found = detect(values, cell_px=(10, 40), method="nms", radius_px=30)
    first_row = [d.x0 for d in found if d.y0 == 20]
    assert first_row == [5, 45]
    assert {d.y0 for d in found} == {20, 60, 100}


def test_diameters_reach_from_corner_to_corner() -> None:
    found = components(MAP, cell_px=(3, 4))
    assert [c.cells for c in found] == [3, 3, 1]
    # the column of three: 3 wide, 12 high; the one cell: 3 by 4
    assert found[1].diameter_px == pytest.approx(math.hypot(3, 12))
    assert found[2].diameter_px == pytest.approx(5)
    # from the top left corner of (0, 0) to the bottom right one of (1, 2)
    assert found[0].diameter_px == pytest.approx(math.hypot(9, 8))


def test_a_map_without_tiles_or_tumour() -> None:
    assert detect(np.full((2, 3), NAN), cell_px=(1, 1)) == []
    assert detect(np.zeros((0, 0)), cell_px=(1, 1)) == []
    assert detect(np.zeros((2, 3)), cell_px=(1, 1), method="nms", radius_px=1.0) == []


def test_the_map_of_the_truth_finds_every_lesion() -> None:
    """A mask of level 5 as its own map: each component lies in its lesion, none outside."""
    mask = np.zeros((200, 300), bool)
    mask[20:70, 30:90] = mask[30:60, 150:250] = True
    mask[120:180, 40:100] = True
    mask[130:170, 50:90] = False  # a ring, whose centre of mass is a hole
    found = detect(mask.astype(np.float32), cell_px=(32, 32))
    scores, x0, y0 = (np.array([getattr(d, k) for d in found]) for k in ("score", "x0", "y0"))
    hits = hits_of(scores, x0, y0, find_lesions(mask))
    assert (hits.lesions, hits.hits, len(hits.false_positives)) == (3, 3, 0)
    assert froc([hits], resamples=0).score == 0.0  # one threshold, the lowest: no point of a curve
    assert froc([hits], corrected=True, resamples=0).score == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0"),
        ({"threshold": 1.1}, "threshold=1.1"),
        ({"min_area": 0}, "min_area=0"),
        ({"method": "nms"}, "radius_px=None"),
        ({"method": "peaks"}, "method='peaks'"),
    ],
)
def test_what_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect(MAP, cell_px=(1, 1), **changes)  # type: ignore[arg-type]


def test_logits_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match="must be probabilities"):
        detect(MAP * 2, cell_px=(1, 1))
