"""Regions are clusters of neighbouring high tiles, in an order that nothing else decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import coded_pixels, write_lossless
from tiling import open_slide
from tiling.geometry import Region
from viewers.review.regions import rank_regions, region_thumbnail

GRID = {"extent": (10, 20), "stride": (10, 20), "slide_size": (195, 400)}


def grid(columns: int = 20, rows: int = 20) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([x.ravel() * 10, y.ravel() * 20], axis=1).astype(np.int64)


def scores(high: dict[tuple[int, int], float]) -> np.ndarray:
    """Low everywhere, all different; high at (column, row)."""
    values = np.linspace(0, 0.1, 400)
    for (column, row), value in high.items():
        values[row * 20 + column] = value
    return values


def test_neighbours_are_one_region_and_the_peak_decides_the_order() -> None:
    """Corners touch: (3, 3) and (4, 4) are one region. A gap of one tile parts (7, 3) from it."""
    high = {(3, 3): 0.8, (4, 4): 0.7, (5, 3): 0.6, (7, 3): 0.9, (12, 12): 0.75, (13, 12): 0.75}
    regions = rank_regions(grid(), scores(high), **GRID, share=6 / 400)[:3]
    assert [r.rank for r in regions] == [1, 2, 3]
    assert [r.peak for r in regions] == [0.9, 0.8, 0.75]
    assert regions[1].tiles.tolist() == [63, 84, 65]  # highest first
    assert regions[1].box == Region(30, 60, 30, 40)
    assert regions[1].mass == pytest.approx(2.1)
    assert regions[2].box == Region(120, 240, 20, 20)
    assert (regions[0].percentile, regions[1].percentile) == (1.0, 399 / 400)


def test_of_equal_peaks_the_larger_sum_is_first() -> None:
    high = {(1, 1): 0.9, (9, 9): 0.9, (10, 9): 0.5}
    regions = rank_regions(grid(), scores(high), **GRID)
    assert [r.box.x0 for r in regions[:2]] == [90, 10]


def test_the_box_ends_at_the_slides_end() -> None:
    """Column 19 reaches to x = 200, the slide to 195."""
    [first, *_] = rank_regions(grid(), scores({(19, 19): 1.0}), **GRID, share=0)
    assert first.box == Region(100, 380, 95, 20)  # with the nine that are next, left of it


def test_a_full_region_leaves_the_rest_to_others_and_no_tile_is_lost() -> None:
    high = {(c, r): 1 + c / 100 + r / 1000 for c in range(8) for r in range(8)}
    regions = rank_regions(grid(), scores(high), **GRID, share=64 / 400, most_tiles=36)
    assert len(regions[0].tiles) == 36
    assert max(len(r.tiles) for r in regions) == 36
    together = np.concatenate([r.tiles for r in regions])
    assert sorted(together) == sorted(r * 20 + c for c in range(8) for r in range(8))
    assert regions[0].tiles[0] == 7 * 20 + 7


def test_the_order_of_tiles_in_the_store_changes_nothing() -> None:
    coords, values = grid(), scores({(3, 3): 0.8, (4, 4): 0.8, (9, 9): 0.8})
    turn = np.random.default_rng(0).permutation(400)
    plain = rank_regions(coords, values, **GRID)
    mixed = rank_regions(coords[turn], values[turn], **GRID)
    assert [r.box for r in plain] == [r.box for r in mixed]
    assert [turn[r.tiles].tolist() for r in mixed] == [r.tiles.tolist() for r in plain]


def test_tiles_that_could_not_be_read_are_none() -> None:
    values = scores({(3, 3): 0.8, (4, 4): 0.7})
    values[84] = np.nan
    [first, *_] = rank_regions(grid(), values, **GRID)
    assert first.tiles.tolist() == [63]


@pytest.mark.parametrize("values", [np.zeros(0), np.full(400, 0.25), np.full(400, np.nan)])
def test_without_a_difference_there_is_nowhere_to_look(values: np.ndarray) -> None:
    assert rank_regions(grid()[: len(values)], values, **GRID) == []


def test_the_thumbnail_is_square_around_the_region_and_white_beyond_the_slide(
    tmp_path: Path,
) -> None:
    path = write_lossless(tmp_path / "a.tif", [coded_pixels(100, 80)], 0.5)
    with open_slide(path) as slide:
        picture = region_thumbnail(slide, Region(10, 20, 40, 20), size_px=40)
        edge = region_thumbnail(slide, Region(80, 0, 20, 40), size_px=40)
    assert picture.shape == (40, 40, 3)
    assert picture[0, 0].tolist() == [10, 10, 7]  # 40 px square from (10, 10)
    assert edge[5, 0].tolist() == [70, 5, 7]
    assert edge[5, 35].tolist() == [255, 255, 255]
