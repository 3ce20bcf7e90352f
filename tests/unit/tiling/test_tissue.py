from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import write_lossless
from tiling import TissueMask, open_slide, tissue_mask
from tiling.errors import MissingMppError, SlideReadError
from tiling.tissue import (
    SATURATION_CEILING,
    SATURATION_FLOOR,
    clean_mask,
    saturation,
    tissue_threshold,
)


def test_the_rectangle_of_tissue_is_found_where_it_is(tissue_path: Path) -> None:
    with open_slide(tissue_path) as slide:
        found = tissue_mask(slide)
    assert found.mask.shape == (96, 128)  # 1537 x 2051 px at 0.5 µm, 8 µm per mask pixel
    rows, columns = np.nonzero(found.mask)
    assert (columns.min(), columns.max()) == pytest.approx((32, 95), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((16, 79), abs=1)
    assert found.mask[20:76, 36:92].all()
    assert found.area_mm2 == pytest.approx(0.512**2, rel=0.05)


def test_a_blank_slide_has_no_tissue(blank_path: Path) -> None:
    """Otsu alone cuts every picture in two, also one of glass."""
    with open_slide(blank_path) as slide:
        found = tissue_mask(slide)
    assert not found.mask.any()
    assert found.parameters["threshold"] == SATURATION_FLOOR


def test_a_slide_that_is_all_tissue_stays_whole(tmp_path: Path) -> None:
    """Otsu alone would throw away the paler half."""
    pixels = np.full((1024, 1024, 3), (230, 190, 215), np.uint8)
    pixels[:, 512:] = (150, 60, 120)
    path = write_lossless(tmp_path / "full.tif", [pixels], 0.5)
    with open_slide(path) as slide:
        found = tissue_mask(slide)
    assert found.mask.all()
    assert found.parameters["threshold"] == SATURATION_CEILING


def test_an_undecodable_part_counts_as_tissue(corrupt_path: Path) -> None:
    """So that its tiles are tried and reported. Level 1 is whole here: cut it off."""
    with open_slide(corrupt_path) as slide:
        assert tissue_mask(slide).parameters["unreadable_fraction"] == 0


def test_single_level_slide_with_a_corrupt_tile(tmp_path: Path) -> None:
    import tifffile

    from tests.conftest import tissue_pixels
    from tiling.write import write_slide

    path = write_slide(tmp_path / "one.tif", tissue_pixels(), mpp=0.5, downsamples=(1,))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        start, length = page.dataoffsets[0], page.databytecounts[0]  # glass, at (0, 0)
    content = bytearray(path.read_bytes())
    content[start : start + length] = b"\x00" * length
    path.write_bytes(content)
    with open_slide(path) as slide:
        found = tissue_mask(slide)
    assert 0 < found.parameters["unreadable_fraction"] < 0.1
    assert found.mask[:16, :16].all()
    assert not found.mask[:14, 40:].any()


def test_a_slide_of_which_nothing_decodes_is_an_error(real_slides: Path) -> None:
    with (
        open_slide(real_slides / "broken" / "unreadable.svs") as slide,
        pytest.raises(SlideReadError, match="unreadable.svs"),
    ):
        tissue_mask(slide)


def test_needs_a_pixel_size(no_mpp_path: Path) -> None:
    with open_slide(no_mpp_path) as slide, pytest.raises(MissingMppError):
        tissue_mask(slide)


def test_saturation_is_steady_in_the_dark() -> None:
    black, grey, red = saturation(np.array([[3, 0, 2], [90, 90, 90], [200, 100, 100]], np.uint8))
    assert black < 0.03
    assert grey == 0
    assert red == pytest.approx(0.5)


def test_threshold_is_otsus_between_floor_and_ceiling() -> None:
    values = np.concatenate([np.full(500, 0.05), np.full(500, 0.16)]).astype(np.float32)
    values += np.random.default_rng(0).normal(0, 0.02, 1000).astype(np.float32)
    assert SATURATION_FLOOR < tissue_threshold(values) < SATURATION_CEILING
    assert tissue_threshold(np.zeros(0, np.float32)) == SATURATION_FLOOR


def test_specks_and_holes_at_the_boundary() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[1:3, 1:3] = True  # 4 px: stays
    mask[1:2, 6:9] = True  # 3 px: goes
    mask[6:18, 6:18] = True
    mask[8:10, 8:9] = False  # a hole of 2 px: filled
    mask[12:15, 12:13] = False  # a hole of 3 px: stays
    cleaned = clean_mask(mask, min_object_px=4, max_hole_px=3)
    assert cleaned[1:3, 1:3].all()
    assert not cleaned[1, 6:9].any()
    assert cleaned[8:10, 8].all()
    assert not cleaned[12:15, 12].any()


def test_fraction_is_exact_between_mask_pixels() -> None:
    """A 100 x 80 px slide, mask pixels of 10 px; tissue is x 20..40, y 10..30."""
    mask = np.zeros((8, 10), np.bool_)
    mask[1:3, 2:4] = True
    found = TissueMask(mask, (100, 80), (0.5, 0.5))
    coords = np.array([[20, 10], [15, 10], [0, 0], [23, 17], [90, 70]])
    expected = [1.0, 0.75, 0.0, (17 * 13) / 400, 0.0]
    assert found.fraction(coords, (20, 20)) == pytest.approx(expected)


def test_fraction_counts_only_what_lies_inside_the_slide() -> None:
    found = TissueMask(np.ones((8, 10), np.bool_), (100, 80), (0.5, 0.5))
    coords = np.array([[90, 70], [95, 0]])
    assert found.fraction(coords, (20, 20)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("no-tissue.png", 0, 0), ("no-tissue-line.png", 0, 0), ("almost-white-2.png", 0, 0.05),
     ("very-low-nuclei-score-level0.png", 0.99, 1), ("medium-nuclei-score-level2.png", 0.7, 0.95)],
)  # fmt: skip
def test_real_tiles(shared_data: Path, tmp_path: Path, name: str, low: float, high: float) -> None:
    pixels = np.array(Image.open(shared_data / "he_tiles" / name).convert("RGB"))
    path = write_lossless(tmp_path / "tile.tif", [pixels], 1.0)
    with open_slide(path) as slide:
        share = tissue_mask(slide).mask.mean()
    assert low <= share <= high
