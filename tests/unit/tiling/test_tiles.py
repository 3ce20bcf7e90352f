from __future__ import annotations

import pickle
from pathlib import Path

import dask
import numpy as np
import pytest

from tests.conftest import CODED_SIZE, coded_pixels
from tiling import Slide, TileSpec, TissueMask, level_array, open_slide, tile_array, tile_grid
from tiling.errors import SlideReadError
from tiling.grid import TileGrid
from tiling.tiles import TileGeometry, TileStatus, read_tiles


def grid_of(slide: Slide, spec: TileSpec) -> TileGrid:
    mask = TissueMask(np.ones((2, 2), np.bool_), slide.size, slide.require_mpp())
    return tile_grid(slide, spec, mask)


def test_tiles_at_native_resolution_are_the_slides_pixels(coded_slide: Slide) -> None:
    grid = grid_of(coded_slide, TileSpec(tile_px=100, mpp=0.5))
    pixels = tile_array(coded_slide, grid).compute()
    whole = coded_pixels(*CODED_SIZE)
    for tile, (x0, y0) in zip(pixels, grid.coords, strict=True):
        assert np.array_equal(tile, whole[y0 : y0 + 100, x0 : x0 + 100])


def test_tiles_at_twice_the_mpp_come_from_level_1(coded_slide: Slide) -> None:
    """Level 1 is every second pixel, so a wrong level or an average would show."""
    grid = grid_of(coded_slide, TileSpec(tile_px=64, mpp=1.0))
    pixels = tile_array(coded_slide, grid).compute()
    x0, y0 = grid.coords[5]
    expected = coded_pixels(*CODED_SIZE)[y0 : y0 + 128 : 2, x0 : x0 + 128 : 2]
    assert np.array_equal(pixels[5], expected)


def test_a_fractional_scale_averages_each_pixels_own_area(tmp_path: Path) -> None:
    """3 px of the slide make 2 of the tile: weights 1, 1/2 and 1/2, 1."""
    from tests.conftest import write_lossless

    row = np.tile(np.array([10, 100, 200], np.uint8), 64)
    pixels = np.repeat(np.repeat(row[None, :, None], 192, 0), 3, 2)
    with open_slide(write_lossless(tmp_path / "s.tif", [pixels], 0.5)) as slide:
        tile = slide.read_scaled((0, 0), (192, 192), (128, 128))
    assert tile[0, :4, 0].tolist() == [40, 167, 40, 167]


@pytest.mark.parametrize("tiles_per_block", [1, 7, 64])
def test_bytes_do_not_depend_on_blocks_or_threads(coded_slide: Slide, tiles_per_block: int) -> None:
    grid = grid_of(coded_slide, TileSpec(tile_px=64, mpp=0.7))
    lazy = tile_array(coded_slide, grid, tiles_per_block=tiles_per_block)
    with dask.config.set(scheduler="synchronous"):
        expected = tile_array(coded_slide, grid).compute()
    assert np.array_equal(lazy.compute(scheduler="threads"), expected)


def test_the_graph_is_per_block_not_per_tile(coded_slide: Slide) -> None:
    """100,000 tiles give at most a few thousand tasks."""
    import dataclasses

    grid = grid_of(coded_slide, TileSpec(tile_px=64, mpp=0.5))
    many = dataclasses.replace(grid, coords=np.zeros((100_000, 2), np.int64))
    lazy = tile_array(coded_slide, many)
    assert len(dict(lazy.__dask_graph__())) <= 2000
    assert lazy.dtype == np.uint8
    assert lazy.shape == (100_000, 64, 64, 3)


def test_no_tiles_are_an_empty_array(coded_slide: Slide) -> None:
    grid = grid_of(coded_slide, TileSpec(tile_px=512, mpp=4))
    assert tile_array(coded_slide, grid).compute().shape == (0, 512, 512, 3)


def test_padded_tiles_are_white_outside_and_say_so(coded_slide: Slide) -> None:
    grid = grid_of(coded_slide, TileSpec(tile_px=100, mpp=0.5, edge="pad"))
    pixels, status = read_tiles(coded_slide, grid.coords, TileGeometry.of(grid))
    last = pixels[-1]  # x0 1300, y0 1000 of 1302 x 1006
    assert (last[6:] == 255).all()
    assert (last[:, 2:] == 255).all()
    assert last[5, 1].tolist() == [1301 % 256, 1005 % 256, 7]
    assert np.array_equal(status == TileStatus.PADDED, grid.is_padded)


def test_one_corrupt_tile_is_counted_and_the_others_are_read(corrupt_path: Path) -> None:
    with open_slide(corrupt_path) as slide:
        grid = grid_of(slide, TileSpec(tile_px=256, mpp=0.5))
        pixels, status = read_tiles(slide, grid.coords, TileGeometry.of(grid))
        bad = np.flatnonzero(status == TileStatus.UNREADABLE)
        assert grid.coords[bad].tolist() == [[1024, 768]]
        assert (pixels[bad] == 255).all()
        assert (status[status != TileStatus.UNREADABLE] == TileStatus.READ).all()
        with pytest.raises(SlideReadError, match=r"1 of 48 tiles .* \(1024, 768\)"):
            tile_array(slide, grid).compute()


@pytest.mark.parametrize("level", [0, 1])
def test_level_array_is_the_level(coded_slide: Slide, level: int) -> None:
    lazy = level_array(coded_slide, level, chunk_px=200)
    step = 2**level
    assert lazy.chunksize == (192, 192, 3)  # whole stored tiles of 64 px
    assert np.array_equal(lazy.compute(), coded_pixels(*CODED_SIZE)[::step, ::step])


def test_level_out_of_range(coded_slide: Slide) -> None:
    with pytest.raises(ValueError, match="levels 0 to 1"):
        level_array(coded_slide, 2)


def test_slides_and_lazy_arrays_travel_to_other_processes(coded_slide: Slide) -> None:
    again = pickle.loads(pickle.dumps(coded_slide))  # noqa: S301 (our own bytes)
    assert again.level_sizes == coded_slide.level_sizes
    again.close()
    lazy = level_array(coded_slide, 1)
    with dask.config.set({"multiprocessing.context": "spawn"}):
        assert lazy[:4, :4].compute(scheduler="processes", num_workers=1).shape == (4, 4, 3)


def test_thumbnail_keeps_the_shape_and_never_grows(coded_slide: Slide) -> None:
    assert coded_slide.thumbnail(651).shape == (503, 651, 3)
    assert coded_slide.thumbnail(9999).shape == (1006, 1302, 3)
