"""One stored tile is overwritten: what touches it is masked, counted and named, all else is right.

Whatever the reader, the scale, the overlap, and which tiles are read together.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.wsi_pipeline.test_cli import ENCODER, QUIET, table, wsi
from tiling import Slide, TileSpec, TissueMask, open_slide, open_store, tile_array, tile_grid
from tiling.errors import SlideReadError
from tiling.grid import TileGrid
from tiling.tiles import TileGeometry, TileStatus, read_tiles

BAD_BOX = (1024, 768, 1280, 1024)
"""Level-0 px under the bad stored tile of `corrupt_path`: left, top, right, bottom."""
READERS = ("tiff", "openslide", "tiffslide")
SPECS = {
    "aligned": TileSpec(256, 0.5),
    "several to a stored tile": TileSpec(100, 0.5, min_tissue=0),
    "overlapping": TileSpec(120, 0.5, overlap=70, min_tissue=0.5),
    "resampled": TileSpec(96, 0.77, min_tissue=0, edge="pad"),
    "scaled while decoded": TileSpec(111, 1.0, min_tissue=0),
    "larger than a stored tile": TileSpec(300, 0.9, min_tissue=0),
}


def grid_of(slide: Slide, spec: TileSpec) -> TileGrid:
    mask = TissueMask(np.ones((2, 2), np.bool_), slide.size, slide.require_mpp())
    return tile_grid(slide, spec, mask)


def touches(grid: TileGrid) -> NDArray[np.bool_]:
    low, high = grid.coords, grid.coords + np.asarray(grid.extent)
    return ((low < BAD_BOX[2:]) & (high > BAD_BOX[:2])).all(axis=1)


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("reader", READERS)
def test_only_tiles_that_touch_it_are_bad(
    reader: str,
    kind: str,
    corrupt_path: Path,
    tissue_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        open_slide(tissue_path, reader=reader) as good,
        open_slide(corrupt_path, reader=reader) as bad,
        caplog.at_level(logging.WARNING, "tiling"),
    ):
        grid = grid_of(bad, SPECS[kind])
        is_bad = touches(grid)
        assert 0 < is_bad.sum() < len(grid) / 2
        expected, _ = read_tiles(good, grid.coords, TileGeometry.of(grid))
        assert caplog.messages == []
        pixels, status = read_tiles(bad, grid.coords, TileGeometry.of(grid))
        assert np.array_equal(status == TileStatus.UNREADABLE, is_bad)
        assert (pixels[is_bad] == 255).all()
        assert np.array_equal(pixels[~is_bad], expected[~is_bad])
        x0, y0 = grid.coords[is_bad][0].tolist()
        [message] = caplog.messages
        named = f"{is_bad.sum()} of {len(grid)} tiles cannot be decoded, the first at level-0 "
        assert message.startswith(f"{named}({x0}, {y0}): {corrupt_path}: level 0, ")

        lazy = tile_array(bad, grid, tiles_per_block=7)
        for index, start in enumerate(range(0, len(grid), 7)):
            here = slice(start, start + 7)
            if is_bad[here].any():
                with pytest.raises(SlideReadError, match="cannot be decoded, the first at level-0"):
                    lazy.blocks[index].compute(scheduler="synchronous")
            else:
                block = lazy.blocks[index].compute(scheduler="synchronous")
                assert np.array_equal(block, expected[here])


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_stored_tiles_and_embeddings(
    reader: str, corrupt_path: Path, tissue_path: Path, tmp_path: Path
) -> None:
    """Tiles of 120 px: nine of them share the bad stored tile with tiles around them."""
    options = ["--tile-px", 120, "--min-tissue", 0, "--reader", reader, *QUIET]
    slides = [tissue_path, corrupt_path]
    assert wsi("tile", *slides, "-o", tmp_path, "--save-tiles", *options) == 0
    assert wsi("embed", *slides, "-o", tmp_path, *ENCODER, "--allow-mismatch", *options) == 0
    good, bad = (open_store(tmp_path / "stores" / f"{n}.zarr") for n in ("tissue", "corrupt"))
    is_bad = touches(bad.grid)
    assert is_bad.sum() == 9
    assert table(tmp_path)["corrupt", "embed"]["bad_tiles"] == "9"
    for store, expected in ((good, np.zeros_like(is_bad)), (bad, is_bad)):
        for rows in (store.rows("tiles"), store.embeddings()):
            assert rows.attrs["bad_tiles"] == expected.sum()
            assert np.array_equal(rows.status[:] == TileStatus.UNREADABLE, expected)
    assert np.array_equal(bad.rows("tiles").data[:][~is_bad], good.rows("tiles").data[:][~is_bad])
    embeddings = bad.embeddings().data[:]
    assert np.array_equal(np.isnan(embeddings).all(axis=1), is_bad)
    assert np.array_equal(embeddings[~is_bad], good.embeddings().data[:][~is_bad])
