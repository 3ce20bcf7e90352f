"""Slides that are, or claim to be, larger than any memory: bounded or refused, never allocated."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import tiling.grid
import tiling.readers.base
import tiling.slide
import tiling.tiles
import tiling.tissue
from tests.conftest import CODED_SIZE, coded_pixels, write_lossless
from tests.robustness.fuzz_mutations import Target
from tiling import Slide, TileSpec, TissueMask, level_array, open_slide, tile_grid, tissue_mask
from tiling.errors import SlideReadError, SlideTooLargeError, UnsoundSlideError
from tiling.grid import in_squares


def full_mask(slide: Slide) -> TissueMask:
    return TissueMask(np.ones((4, 4), np.bool_), slide.size, slide.require_mpp())


@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide", "tiffslide"])
def test_a_billion_pixels_a_side_are_refused(coded_path: Path, tmp_path: Path, reader: str) -> None:
    target = Target.of(coded_path.read_bytes())
    for tag in target.find(256, 257):
        target.restate(tag, 10**9)
    path = tmp_path / "giant.tif"
    path.write_bytes(target.content)
    with pytest.raises(UnsoundSlideError, match="1000000000 x 1000000000 px"):
        open_slide(path, reader=reader)


def test_the_longest_side(coded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no check of the file finds: formats other than TIFF."""
    monkeypatch.setattr(tiling.readers.base, "MAX_SIDE_PX", 1302)
    open_slide(coded_path).close()
    monkeypatch.setattr(tiling.readers.base, "MAX_SIDE_PX", 1301)
    with pytest.raises(UnsoundSlideError, match="level 0 states 1302 x 1006 px"):
        open_slide(coded_path)


@pytest.mark.parametrize("part_px", [37, 100, 700])
@pytest.mark.parametrize(
    ("location", "extent", "size"),
    [((0, 0), (2051, 1537), (651, 503)), ((13, 7), (1301, 977), (400, 300)),
     ((-50, 1000), (700, 700), (333, 331)), ((5, 9), (1024, 1024), (1024, 1024)),
     ((5, 9), (1024, 1024), (256, 256))],
)  # fmt: skip
@pytest.mark.parametrize("exact", [False, True])
def test_what_is_read_in_parts_is_the_same(
    tissue_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part_px: int,
    location: tuple[int, int],
    extent: tuple[int, int],
    size: tuple[int, int],
    exact: bool,
) -> None:
    """But for what rounding does: a sum of floats in another order."""
    with open_slide(tissue_path) as slide:
        whole = slide.read_scaled(location, extent, size, exact=exact)
        monkeypatch.setattr(tiling.slide, "PART_PX", part_px)
        parts = slide.read_scaled(location, extent, size, exact=exact)
    difference = np.abs(whole.astype(int) - parts)
    assert difference.max() <= 1
    assert difference.mean() < 0.001


def test_a_pixel_that_covers_more_than_a_part(
    coded_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_slide(coded_path) as slide:
        whole = slide.read_scaled((0, 0), slide.size, (3, 2), exact=True)
        monkeypatch.setattr(tiling.slide, "PART_PX", 50)
        parts = slide.read_scaled((0, 0), slide.size, (3, 2), exact=True)
    assert np.abs(whole.astype(int) - parts).max() <= 1
    # Red of level 0 runs from 0 to 255 over and over; the last third is 434 px from 868 on.
    expected = coded_pixels(*CODED_SIZE)[:503, 868:].mean(axis=(0, 1))
    assert parts[0, 2] == pytest.approx(expected, abs=1)


def test_a_bad_part_makes_the_picture_bad(
    corrupt_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling.slide, "PART_PX", 100)
    with open_slide(corrupt_path) as slide:
        out = np.zeros((2, 300, 300, 3), np.uint8)
        errors = slide.read_into(out, np.array([[900, 700], [500, 300]]), (300, 300))
    assert list(errors) == [0]
    assert "stored tile 4, 3" in str(errors[0])
    assert (out[0] == 255).all()
    assert not (out[1] == 0).all(axis=-1).any()


def test_no_level_is_coarse_enough(coded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    width, height = 651, 503  # of level 1, which thumbnail and mask are made from
    monkeypatch.setattr(tiling.slide, "MAX_SOURCE_PX", width * height)
    with open_slide(coded_path) as slide:
        slide.thumbnail(50)
        tissue_mask(slide)
        monkeypatch.setattr(tiling.slide, "MAX_SOURCE_PX", width * height - 1)
        for read in (lambda: slide.thumbnail(50), lambda: tissue_mask(slide)):
            with pytest.raises(SlideTooLargeError, match=r"coded\.tif: 1302 x 1006 px as"):
                read()


def test_the_mask_of_a_very_large_slide_is_coarser(
    tissue_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2051 x 1537 px at 0.5 µm: 128 x 96 pixels of 8 µm, or 64 x 48 of 16 µm."""
    with open_slide(tissue_path) as slide:
        fine = tissue_mask(slide)
        monkeypatch.setattr(tiling.tissue, "MAX_MASK_PX", 64 * 48)
        coarse = tissue_mask(slide)
    assert fine.parameters["working_mpp"] == 8.0
    assert coarse.parameters["working_mpp"] == pytest.approx(16, abs=0.03)
    assert coarse.mask.shape == (48, 64)
    assert coarse.area_mm2 == pytest.approx(0.512**2, rel=0.05)


def test_a_slide_of_which_much_is_bad_is_not_searched_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pixel can be read. Blocks are searched in quarters only until enough have failed."""
    path = write_lossless(tmp_path / "s.tif", [coded_pixels(1024, 1024)], 0.5)
    target = Target.of(path.read_bytes())
    for tag in target.find(325):
        for index in range(tag.count):
            target.put(tag.valueoffset + index * (4 if tag.dtype == 4 else 2), "H", 1)
    path.write_bytes(target.content)
    monkeypatch.setattr(tiling.tissue, "_BLOCK_PX", 8)
    monkeypatch.setattr(tiling.tissue, "_SMALLEST_BLOCK_PX", 1)
    monkeypatch.setattr(tiling.tissue, "MAX_FAILURES", 5)
    reads = []
    with open_slide(path) as slide:
        read = slide.read_scaled
        monkeypatch.setattr(
            slide, "read_scaled", lambda *args: (reads.append(args), read(*args))[1]
        )
        with pytest.raises(SlideReadError):
            tissue_mask(slide)
    # 64 x 64 mask pixels in blocks of 8; the first is searched down to single pixels.
    blocks, quarters = 8 * 8, 3 * 4
    assert len(reads) == blocks + quarters


def test_the_grid_does_not_depend_on_how_many_rows_are_laid_at_once(
    coded_slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TileSpec(tile_px=16, mpp=0.5, min_tissue=0.3)
    mask = TissueMask(np.random.default_rng(2).random((40, 50)) > 0.5, coded_slide.size, (0.5, 0.5))
    whole = tile_grid(coded_slide, spec, mask)
    monkeypatch.setattr(tiling.grid, "CANDIDATES_PER_STEP", 81 * 8)
    steps = tile_grid(coded_slide, spec, mask)
    candidates = in_squares(np.arange(81) * 16, np.arange(62) * 16)
    fraction = mask.fraction(candidates, (16, 16))
    for grid in (whole, steps):
        assert grid.candidates == 81 * 62
        assert np.array_equal(grid.coords, candidates[fraction >= 0.3])
        assert np.array_equal(grid.tissue_fraction, fraction[fraction >= 0.3])


def test_too_many_tiles(coded_slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling.grid, "MAX_CANDIDATES", 81 * 62)
    spec = TileSpec(tile_px=16, mpp=0.5, min_tissue=0)
    assert len(tile_grid(coded_slide, spec, full_mask(coded_slide))) == 81 * 62
    monkeypatch.setattr(tiling.grid, "MAX_CANDIDATES", 81 * 62 - 1)
    with pytest.raises(SlideTooLargeError, match="room for 5022 tiles .* larger tiles or less"):
        tile_grid(coded_slide, spec, full_mask(coded_slide))


def test_too_many_chunks(coded_slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling.tiles, "MAX_LEVEL_CHUNKS", 7 * 6)
    assert level_array(coded_slide, 0, chunk_px=192).numblocks == (6, 7, 1)
    with pytest.raises(SlideTooLargeError, match="level 0 is 1302 x 1006 px, 336 chunks"):
        level_array(coded_slide, 0, chunk_px=64)


def test_chunks_of_strips_are_as_long_and_thin(tmp_path: Path) -> None:
    """A chunk 1024 px high of a slide in strips would be the slide's width times 1024."""
    import tifffile

    path = tmp_path / "strips.tif"
    pixels = coded_pixels(2000, 700)
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=10, metadata=None)
    with open_slide(path) as slide:
        lazy = level_array(slide, 0, chunk_px=500)
        assert lazy.chunksize == (120, 2000, 3)  # 500 x 500 px, in whole strips
        assert np.array_equal(lazy.compute(), pixels)


def test_a_file_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    """Lazy arrays open slides by path; another file at that path is another slide."""
    path = tmp_path / "slide.tif"
    for number, size in enumerate([(200, 150), (100, 90)]):
        write_lossless(path, [coded_pixels(*size)], 0.5)
        os.utime(path, ns=(number, number))
        with open_slide(path) as slide:
            assert np.array_equal(level_array(slide, 0).compute(), coded_pixels(*size))
