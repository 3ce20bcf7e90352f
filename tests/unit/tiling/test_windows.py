"""Windows that lie on the map's own pixels, and their blending."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiling.windows import Blender, WindowGrid, ramp, window_grid


def grid_of(width: int, height: int, *, tile: int = 16, overlap: int = 4) -> WindowGrid:
    return window_grid((width, height), (1.0, 1.0), tile_px=tile, mpp=1.0, overlap_px=overlap)


def blended(grid: WindowGrid, windows: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """Return the whole map that a Blender makes of windows by (row, column)."""
    step = grid.stride_px
    found = np.zeros((grid.cells[1] * step, grid.cells[0] * step), np.uint8)
    blender = Blender(grid)
    for strip in range(grid.cells[1]):
        own = [(c, windows[strip, c]) for c in range(grid.windows[0]) if (strip, c) in windows]
        for column, pixels in blender.strip(own):
            found[strip * step : (strip + 1) * step, column * step : (column + 1) * step] = pixels
    return found[: grid.size[1], : grid.size[0]]


def plainly(grid: WindowGrid, windows: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """The obvious way: weighted sum and sum of weights over the whole map."""
    step, tile = grid.stride_px, grid.tile_px
    shape = [(n - 1) * step + tile + tile for n in reversed(grid.windows)]
    total, weight = np.zeros(shape), np.zeros(shape)
    along = np.ones(tile)
    shared = grid.overlap_px
    along[:shared] = [math.sin(math.pi / 2 * (k + 0.5) / shared) ** 2 for k in range(shared)]
    along[tile - shared :] *= along[:shared][::-1]
    for (row, column), values in windows.items():
        here = np.s_[row * step : row * step + tile, column * step : column * step + tile]
        total[here] += values * np.outer(along, along)
        weight[here] += np.outer(along, along)
    share = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return np.rint(255 * share).astype(np.uint8)[: grid.size[1], : grid.size[0]]


@pytest.mark.parametrize("overlap", [0, 4, 8])
@pytest.mark.parametrize("kept", [1.0, 0.6, 0.2])
def test_strips_are_what_the_whole_map_would_be(overlap: int, kept: float) -> None:
    rng = np.random.default_rng(overlap)
    grid = grid_of(107, 75, overlap=overlap)
    columns, rows = grid.windows
    windows = {
        (r, c): rng.random((16, 16), np.float32)
        for r in range(rows)
        for c in range(columns)
        if rng.random() < kept
    }
    found, expected = blended(grid, windows), plainly(grid, windows)
    assert np.abs(found.astype(int) - expected).max() <= 1  # float32 against float64 at .5
    assert (found != expected).mean() < 0.001


def test_a_constant_stays_what_it_is() -> None:
    grid = grid_of(50, 40)
    columns, rows = grid.windows
    half = np.full((16, 16), 0.5, np.float32)
    windows = {(r, c): half for r in range(rows) for c in range(columns)}
    assert (blended(grid, windows) == 128).all()  # 127.5 rounded to even


@pytest.mark.parametrize("overlap", [4, 8])
def test_weights_of_neighbours_sum_to_one(overlap: int) -> None:
    weights = ramp(16, overlap)
    assert weights[-overlap:] + weights[:overlap] == pytest.approx(np.ones(overlap))
    assert (weights[overlap : 16 - overlap] == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 16), (28, 29), (1000, 331)])
def test_windows_cover_the_map_and_no_more(size: tuple[int, int]) -> None:
    grid = grid_of(*size)
    for length, windows, cells in zip(grid.size, grid.windows, grid.cells, strict=True):
        assert (windows - 1) * 12 + 16 >= length
        assert windows == 1 or (windows - 2) * 12 + 16 < length
        assert cells * 12 >= length > (cells - 1) * 12
        assert cells in (windows, windows + 1)


@pytest.mark.parametrize("mpp0", [0.2201, 0.243, 0.25, 0.2738, 0.5])
def test_windows_lie_on_whole_pixels_of_both(mpp0: float) -> None:
    """Every window begins at a whole level-0 pixel and at a whole pixel of the map."""
    grid = window_grid((9001, 7001), (mpp0, mpp0), tile_px=256, mpp=0.5, overlap_px=64)
    coords = grid.coords(3)
    assert coords[:, 0].tolist() == [grid.stride[0] * c for c in range(grid.windows[0])]
    assert (coords[:, 1] == 3 * grid.stride[1]).all()
    assert grid.stride[0] * grid.tile_px == grid.stride_px * grid.extent[0]
    assert grid.mpp[0] == pytest.approx(0.5, rel=2 / 400)


@pytest.mark.parametrize("overlap", [-16, 144, 3, 256])
def test_other_overlaps_are_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="0 to half of 256 px and a multiple of 16"):
        window_grid((900, 900), (0.5, 0.5), tile_px=256, mpp=0.5, overlap_px=overlap)
