from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiling import Slide, TileSpec, TissueMask, open_slide, tile_grid
from tiling.errors import MissingMppError


def full_mask(slide: Slide) -> TissueMask:
    return TissueMask(np.ones((4, 4), np.bool_), slide.size, (0.5, 0.5))


def test_coordinates_are_level_0_in_storage_order(coded_slide: Slide) -> None:
    """1302 x 1006 px at 0.5 µm; a tile of 100 px at 2 µm is 400 px."""
    grid = tile_grid(coded_slide, TileSpec(tile_px=100, mpp=2.0), full_mask(coded_slide))
    assert grid.coords.dtype == np.int64
    assert grid.coords.tolist() == [[0, 0], [400, 0], [800, 0], [0, 400], [400, 400], [800, 400]]
    assert grid.extent == (400, 400)
    assert grid.effective_mpp == (2.0, 2.0)
    assert not grid.is_padded.any()


def test_pad_covers_the_whole_slide(coded_slide: Slide) -> None:
    spec = TileSpec(tile_px=100, mpp=2.0, edge="pad")
    grid = tile_grid(coded_slide, spec, full_mask(coded_slide))
    assert len(grid) == 4 * 3
    assert grid.coords[grid.is_padded].tolist() == [
        [1200, 0], [1200, 400], [0, 800], [400, 800], [800, 800], [1200, 800],
    ]  # fmt: skip
    assert grid.tissue_fraction.tolist() == [1.0] * 12


def test_overlap_shortens_the_step(coded_slide: Slide) -> None:
    spec = TileSpec(tile_px=100, mpp=2.0, overlap=50)
    grid = tile_grid(coded_slide, spec, full_mask(coded_slide))
    assert grid.stride == (200, 200)
    assert np.unique(grid.coords[:, 0]).tolist() == [0, 200, 400, 600, 800]


def test_the_extent_is_rounded_per_axis_and_the_effective_mpp_says_so(coded_path: Path) -> None:
    with open_slide(coded_path, mpp=(0.243, 0.25)) as slide:
        grid = tile_grid(slide, TileSpec(tile_px=64, mpp=0.5), full_mask(slide))
    assert grid.extent == (132, 128)  # 64 * 0.5 / 0.243 = 131.69
    assert grid.effective_mpp == pytest.approx((0.5011875, 0.5))


@pytest.mark.parametrize(("min_tissue", "kept"), [(0.0, 4), (0.25, 3), (0.5, 2), (0.500001, 1)])
def test_minimum_tissue_is_inclusive(coded_slide: Slide, min_tissue: float, kept: int) -> None:
    """Tiles of 503 px: fractions 1, 0.5, 0.25, 0 of a mask with that many pixels a tile."""
    mask = np.zeros((4, 6), np.bool_)
    mask[0:2, 0:2] = True
    mask[0:1, 2:4] = True
    mask[2:3, 0:1] = True
    tissue = TissueMask(mask, (1509, 1006), (0.5, 0.5))
    grid = tile_grid(coded_slide, TileSpec(503, 0.5, min_tissue=min_tissue), tissue)
    assert grid.candidates == 4
    assert len(grid) == kept


def test_a_slide_narrower_than_a_tile_gives_none_and_says_why(coded_slide: Slide) -> None:
    grid = tile_grid(coded_slide, TileSpec(tile_px=512, mpp=2.0))
    assert len(grid) == 0
    assert grid.coords.shape == (0, 2)
    assert "1302 x 1006 px, narrower than a tile of 2048 x 2048 px" in grid.reason


def test_no_tissue_gives_none_and_says_why(blank_path: Path) -> None:
    with open_slide(blank_path) as slide:
        grid = tile_grid(slide, TileSpec())
    assert len(grid) == 0
    assert grid.reason == "no tile of 16 has at least 10% tissue"


def test_tissue_is_found_if_no_mask_is_given(tissue_path: Path) -> None:
    """Tissue is x 512..1536, y 256..1280: 4 x 4 tiles of 256 px exactly, and edges below 10 %."""
    with open_slide(tissue_path) as slide:
        grid = tile_grid(slide, TileSpec(min_tissue=0.5))
    assert len(grid) == 16
    assert grid.coords.min(axis=0).tolist() == [512, 256]
    assert grid.coords.max(axis=0).tolist() == [1280, 1024]


def test_needs_a_pixel_size(no_mpp_path: Path) -> None:
    with open_slide(no_mpp_path) as slide, pytest.raises(MissingMppError, match="no_mpp.tif"):
        tile_grid(slide, TileSpec())


@pytest.mark.parametrize(
    "wrong",
    [{"tile_px": 0}, {"mpp": 0}, {"mpp": -1}, {"mpp": float("nan")}, {"mpp": 0.049},
     {"overlap": 256},
     {"overlap": -1}, {"min_tissue": 1.1}, {"edge": "mirror"}],
)  # fmt: skip
def test_spec_names_the_wrong_value(wrong: dict[str, object]) -> None:
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        TileSpec(**wrong)  # type: ignore[arg-type]
