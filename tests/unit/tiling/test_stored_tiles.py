"""Stored tiles whose colours are easily got wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tiling import open_slide

DATA = Path(__file__).resolve().parents[2] / "data"
APERIO = "Aperio Image Library v10\r\n{0}x{0} [0,0 {0}x{0}] (128x128)|AppMag = 20|MPP = 0.5"


@pytest.mark.parametrize("compression", [33003, 33005])
def test_jpeg2000_with_colour_at_half_the_width_is_what_openslide_reads(
    tmp_path: Path, compression: int
) -> None:
    """Aperio's 33003 is YCbCr, mostly 4:2:2; libraries convert it, though not always, to RGB."""
    codestream = (DATA / "ycbcr_422.j2k").read_bytes()
    path = tmp_path / "aperio.svs"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter([codestream] * 4), shape=(256, 256, 3), dtype=np.uint8, tile=(128, 128),
            photometric="rgb", compression=compression, metadata=None,
            description=APERIO.format(256),
        )  # fmt: skip
    with open_slide(path, reader="tiff") as slide:
        found = slide.read_region((0, 0), level=0, size=(256, 256)).astype(int)
    if compression == 33003:
        with openslide.OpenSlide(path) as theirs:
            rgba = np.asarray(theirs.read_region((0, 0), 0, (256, 256)))
        assert np.abs(found - rgba[..., :3]).max() <= 1
    red, green, blue = found.mean(axis=(0, 1))
    assert red > blue > green  # eosin: as YCbCr read twice, it would be blue


def test_a_native_tile_over_the_edge_is_padded_where_openslide_pads(tissue_path: Path) -> None:
    """A stored tile decoded in place must not be wiped, and its padding must not show."""
    from tiling import TileSpec, tile_array, tile_grid

    spec = TileSpec(256, 0.5, min_tissue=0, edge="pad")
    with open_slide(tissue_path, reader="tiff") as ours:
        grid = tile_grid(ours, spec)
        found = tile_array(ours, grid).compute()
    with open_slide(tissue_path, reader="openslide") as theirs:
        assert np.array_equal(found, tile_array(theirs, grid).compute())
    assert len(grid) == 9 * 7  # 2051 x 1537 px
