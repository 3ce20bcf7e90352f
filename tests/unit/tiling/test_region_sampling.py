"""Tiles for training: drawn where they should be, and the same from the same seed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapely import MultiPolygon, box

from tiling import open_slide, tissue_mask
from tiling.errors import SlideReadError
from tiling.region_masks import OutlineMask
from tiling.region_sampling import (
    CellSet,
    LabelledSlideTiles,
    SamplingError,
    TilePool,
    labelled_tiles,
)

BLOCK = box(600, 300, 900, 700)


def tiles_of(path: Path, area: MultiPolygon) -> LabelledSlideTiles:
    with open_slide(path) as slide:
        truth = OutlineMask(area, slide.size)
        return labelled_tiles(slide, truth, tissue_mask(slide), tile_px=64, mpp=1.0)


@pytest.fixture(scope="module")
def annotated(tissue_path: Path) -> LabelledSlideTiles:
    return tiles_of(tissue_path, MultiPolygon([BLOCK]))


def test_every_cell_is_drawn_as_often() -> None:
    cells = np.zeros((3, 11), bool)
    cells[[0, 2, 2, 2], [10, 0, 3, 9]] = True
    found = CellSet.of(cells)
    assert len(found) == 4
    rng = np.random.default_rng(0)
    drawn = [found.draw(rng) for _ in range(4000)]
    counts = {cell: drawn.count(cell) for cell in {*drawn}}
    assert set(counts) == {(10, 0), (0, 2), (3, 2), (9, 2)}
    assert max(abs(n - 1000) for n in counts.values()) < 110  # four standard deviations


def test_centres_lie_where_they_were_asked_for(annotated: LabelledSlideTiles) -> None:
    """Tissue is the rectangle from (512, 256) to (1536, 1280); a cell has 16 level-0 px."""
    rng = np.random.default_rng(0)
    for inside in (True, False):
        centres = np.stack([annotated.draw(inside=inside, rng=rng) + 64 for _ in range(300)])
        low, high = (600, 300), (900, 700)
        within = ((centres >= np.subtract(low, 16)) & (centres <= np.add(high, 16))).all(axis=1)
        well_within = ((centres > np.add(low, 16)) & (centres < np.subtract(high, 16))).all(axis=1)
        if inside:
            assert within.all()
        else:
            assert not well_within.any()
            assert (centres >= (512 - 32, 256 - 32)).all()
            assert (centres <= (1536 + 32, 1280 + 32)).all()


def test_a_batch_is_half_and_half_and_repeats(annotated: LabelledSlideTiles) -> None:
    pool = TilePool([annotated])
    pixels, masks = pool.batch(10, inside_share=0.5, seed=7)
    assert pixels.shape == (10, 64, 64, 3)
    assert masks.shape == (10, 64, 64)
    centre = masks[:, 30:34, 30:34].any(axis=(1, 2))
    assert centre[:5].all()
    again = pool.batch(10, inside_share=0.5, seed=7)
    assert np.array_equal(pixels, again[0])
    assert np.array_equal(masks, again[1])
    assert not np.array_equal(pixels, pool.batch(10, inside_share=0.5, seed=8)[0])
    assert pool.batch(6, inside_share=1.0, seed=0)[1].any(axis=(1, 2)).all()


def test_pixels_and_masks_belong_together(tissue_path: Path, annotated: LabelledSlideTiles) -> None:
    """A tile at 1 µm covers 128 level-0 px of 0.5 µm; its mask is the outline's part in it."""
    with open_slide(tissue_path) as slide:
        read = annotated.read(slide, np.array([560, 260]))
        expected = slide.read_scaled((560, 260), (128, 128), (64, 64))
    assert read is not None
    pixels, mask = read
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], columns[0]) == ((300 - 260) // 2, (600 - 560) // 2)
    assert np.array_equal(pixels, expected)


def test_one_kind_stands_in_for_the_other(tissue_path: Path) -> None:
    nothing = TilePool([tiles_of(tissue_path, MultiPolygon())])
    assert not nothing.batch(4, inside_share=1.0, seed=0)[1].any()


def test_an_outline_smaller_than_a_cell_is_drawn(tissue_path: Path) -> None:
    tiny = tiles_of(tissue_path, MultiPolygon([box(801, 401, 803, 403)]))
    assert len(tiny.inside) == 1


def test_neither_tissue_nor_annotation(blank_path: Path) -> None:
    with pytest.raises(SamplingError, match=r"blank.tif: no tissue found and nothing annotated"):
        tiles_of(blank_path, MultiPolygon())
    with pytest.raises(SamplingError, match="no slide"):
        TilePool([])
    # What is annotated is believed, tissue or not.
    assert len(tiles_of(blank_path, MultiPolygon([BLOCK])).inside)


def test_tiles_that_cannot_be_decoded_are_drawn_again(
    corrupt_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stored tile from (1024, 768) to (1280, 1024) is broken."""
    broken = TilePool([tiles_of(corrupt_path, MultiPolygon([box(1100, 850, 1200, 950)]))])
    with pytest.raises(SlideReadError, match="16 tiles in a row cannot be decoded"):
        broken.batch(2, inside_share=1.0, seed=0)
    mixed = TilePool([tiles_of(corrupt_path, MultiPolygon([box(900, 850, 1200, 950)]))])
    assert len(mixed.batch(8, inside_share=1.0, seed=0)[0]) == 8


def test_slides_are_drawn_alike(annotated: LabelledSlideTiles) -> None:
    """A slide with one annotated cell is drawn as often as one with hundreds."""
    small = replace(annotated, inside=CellSet.of(np.eye(1, dtype=bool)))
    pool = TilePool([annotated, small])
    masks = pool.batch(60, inside_share=1.0, seed=0)[1]
    # The one cell is the slide's corner, where nothing is drawn.
    assert 15 < (~masks.any(axis=(1, 2))).sum() < 45


def test_slides_stay_open_up_to_a_number(
    tissue_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiling.region_sampling.OPEN_SLIDES", 2)
    paths = [Path(shutil.copy(tissue_path, tmp_path / f"{n}.tif")) for n in range(3)]
    pool = TilePool([tiles_of(path, MultiPolygon([BLOCK])) for path in paths])
    pool.batch(12, inside_share=0.5, seed=0)
    assert len(pool._open) == 2
