"""The outline of the tissue lies on the edge of the mask's pixels, holes too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from shapely import Polygon

from tiling.tissue import TissueMask
from viewers.tissue_outline import rings_of, tissue_outlines


def test_rings_lie_on_the_mask_in_level_0_pixels() -> None:
    """Rows 2 to 7 and columns 3 to 9 of 16 x 32 level-0 px, a pixel of them a hole."""
    mask = np.zeros((10, 12), bool)
    mask[2:8, 3:10] = True
    mask[4, 5] = False
    rings = rings_of(TissueMask(mask, (12 * 16, 10 * 32), (0.5, 0.5)))
    assert len(rings) == 2
    outer, hole = sorted(rings, key=lambda ring: -Polygon(ring).area)
    assert (outer[0] == outer[-1]).all()
    # A contour cuts the corners of pixels; its middles lie on their edges.
    assert outer.min(axis=0).tolist() == [2 * 32, 3 * 16]
    assert outer.max(axis=0).tolist() == [8 * 32, 10 * 16]
    assert hole.min(axis=0).tolist() == [4 * 32, 5 * 16]
    assert hole.max(axis=0).tolist() == [5 * 32, 6 * 16]


def test_the_outline_of_a_slide_is_around_its_tissue(tissue_path: Path) -> None:
    """The tissue is the rectangle from (512, 256) to (1536, 1280); a mask pixel is 16 px."""
    [ring] = tissue_outlines(str(tissue_path))
    assert np.abs(ring.min(axis=0) - (256, 512)).max() <= 24
    assert np.abs(ring.max(axis=0) - (1280, 1536)).max() <= 24
