"""Nothing is ever shifted: slides whose pixels say where they are, read at any scale.

A shift of half a level-0 pixel fails here, at every ratio and level, in the middle, at the corner
and at the far end, for every reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.dicom_slides import jpeg, jpeg_ls, write_series
from tests.equality.kinds import shrunk
from tests.equality.reference import SLOPE, area_mean, coded_ramps, ramp, shifts
from tests.zarr_slides import write_ome_zarr
from tiling import Slide, TileSpec, open_slide, tile_array, tile_grid
from tiling.errors import SlideOpenError
from tiling.readers.registry import READERS

SIZE = (1303, 1051)
RATIOS = [0.9, 1.0, 1.98, 1.985, 2.0, 2.058, 3.9, 4.1, 8.3]
PYRAMIDS = {"one level": (1,), "by 2": (1, 2), "by 4": (1, 4), "by 2, 4, 8": (1, 2, 4, 8)}
SHIFT_PX = 0.05
"""Level-0 px; what is measured is below 0.02."""
OPENSLIDE_PX = 0.7
"""OpenSlide takes positions in whole level-0 pixels, which seldom fall on a coarser level's own: it
interpolates, half a level-0 px away at most, and at the end white comes in."""


CONTAINERS = {"dicom": "dicom", "ome-zarr": "zarr"}
"""What a reader's slides are, where they are no TIFF."""
Pyramids = Callable[[str, str, str], Path]
"""Reader, pyramid and codec to a slide that the reader must open."""


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> Pyramids:
    folder = tmp_path_factory.mktemp("positions")
    level0 = coded_ramps(*SIZE)

    def path_of(reader: str, pyramid: str, codec: str) -> Path:
        container = CONTAINERS.get(reader, "tiff")
        name = f"{container}_{codec}_{list(PYRAMIDS).index(pyramid)}"
        path = folder / (f"{name}.tif" if container == "tiff" else name)
        if path.exists():
            return path
        levels = [shrunk(level0, downsample) for downsample in PYRAMIDS[pyramid]]
        if container == "tiff":
            write(path, level0, PYRAMIDS[pyramid], codec)
        elif container == "zarr":
            write_ome_zarr(path, levels, chunk=128, scale=(0.25, 0.25))
        else:
            form = (
                {"encode": jpeg} if codec == "jpeg" else {"encode": jpeg_ls, "photometric": "RGB"}
            )
            write_series(path, levels, tile=(128, 128), mpp=(0.25, 0.25), **form)
        return path

    return path_of


def write(path: Path, level0: np.ndarray, downsamples: tuple[int, ...], codec: str) -> None:
    """Write levels whose last pixels are dropped, as scanners do; JPEG near to lossless."""
    options = {"compression": "adobe_deflate", "compressionargs": {"level": 1}}
    if codec == "jpeg":
        options = {"compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": (1, 1)}
    with tifffile.TiffWriter(path) as tiff:
        for downsample in downsamples:
            tiff.write(
                shrunk(level0, downsample), tile=(128, 128), photometric="rgb", metadata=None,
                subfiletype=int(downsample > 1), resolutionunit="CENTIMETER",
                resolution=(1e4 / 0.25 / downsample,) * 2, **options,
            )  # fmt: skip


def open_for(reader: str, path: Path) -> Slide:
    """Open a slide that the reader is there for; its package may be missing, nothing else."""
    try:
        return open_slide(path, reader=reader)
    except SlideOpenError as err:
        if "is not installed" not in str(err):
            raise
        pytest.skip(str(err))


def places(extent: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Return where to read: the corner, across stored tiles, the far end, and over it."""
    end = SIZE[0] - extent[0], SIZE[1] - extent[1]
    return {
        "corner": (0, 0),
        "middle": (min(211, end[0]), min(173, end[1])),
        "end": end,
        "over": (end[0] + 37, end[1] + 29),
    }


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("codec", ["deflate", "jpeg"])
@pytest.mark.parametrize("pyramid", list(PYRAMIDS))
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "fast"])
def test_no_tile_is_shifted(
    pyramids: Pyramids, reader: str, codec: str, pyramid: str, exact: bool
) -> None:
    if reader == "ome-zarr" and codec == "jpeg":
        pytest.skip("OME-Zarr has no JPEG codec")
    with open_for(reader, pyramids(reader, pyramid, codec)) as slide:
        for ratio in RATIOS:
            px = int(700 / ratio)
            extent = round(px * ratio), round(px * ratio)
            step = extent[0] / px
            level = slide.level_for(step)
            limit = OPENSLIDE_PX if reader == "openslide" and level else SHIFT_PX
            for name, place in places(extent).items():
                found = slide.read_scaled(place, extent, (px, px), exact=exact)
                inside = min(px, int((SIZE[0] - place[0]) / step), int((SIZE[1] - place[1]) / step))
                if name == "over":  # what the end cuts through; cubic interpolation reaches further
                    inside -= 1 if ratio >= 1 else 3
                seen = inside * step, inside * step
                x, y = shifts(found[:inside, :inside], place, seen)
                assert abs(x) < limit, (ratio, name, x)
                assert abs(y) < limit, (ratio, name, y)


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("ratio", [1.0, 1.98, 2.0, 2.058, 4.1, 8.3])
def test_exact_tiles_are_area_means_to_the_last_column(
    pyramids: Pyramids, reader: str, ratio: float
) -> None:
    """Every pixel, the slide's own edge and what lies over it included."""
    level0 = coded_ramps(*SIZE)
    with open_for(reader, pyramids(reader, "one level", "deflate")) as slide:
        px = int(400 / ratio)
        extent = round(px * ratio), round(px * ratio * 0.9)  # and not square
        for place in places(extent).values():
            found = slide.read_scaled(place, extent, (px, px), exact=True)
            if ratio * 0.9 >= 1:
                expected = area_mean(level0, place, extent, (px, px))
                assert np.abs(found - expected).max() <= 0.501, place


def test_enlarged_pixels_keep_their_middles(pyramids: Pyramids) -> None:
    """0.9: the middle of result pixel j is at (j + 1/2) * 0.9, as everywhere."""
    with open_slide(pyramids("tiff", "by 2", "deflate"), reader="tiff") as slide:
        found = slide.read_scaled((0, 0), (90, 90), (100, 100))
    middles = ramp((np.arange(100) + 0.5) * 0.9)
    assert np.abs(found[50, 3:-3, 0] - middles[3:-3]).max() <= 1
    assert np.abs(found[3:-3, 50, 1] - middles[3:-3]).max() <= 1


def test_the_end_of_a_level_is_not_squeezed(pyramids: Pyramids) -> None:
    """1303 px are 325 of level 1 and 3 px dropped: the last pixel stands for them, no more.

    Squeezing the tile into what is there would shift its last third by up to a pixel of the level.
    """
    with open_slide(pyramids("tiff", "by 4", "deflate"), reader="tiff") as slide:
        extent, px = (500, 500), 120
        x0, y0 = SIZE[0] - 500, SIZE[1] - 500
        found = slide.read_scaled((x0, y0), extent, (px, px))
    step = 500 / px
    position = x0 + (np.arange(px) + 0.5) * step
    error = found[..., 0].astype(float).mean(axis=0) - ramp(position)
    assert np.abs(error[60:-1][_on_a_ramp(position[60:-1])]).max() < 0.6 * SLOPE
    assert abs(error[-1]) <= SLOPE * step


def _on_a_ramp(position: np.ndarray) -> np.ndarray:
    within = position % 255
    return np.minimum.reduce([within, 255 - within, np.abs(within - 127.5)]) > 12


def test_no_period_is_taken_for_another(pyramids: Pyramids) -> None:
    """Blue numbers the periods: a shift by a whole one would show there alone."""
    level0 = coded_ramps(*SIZE)
    for reader in READERS:
        with open_for(reader, pyramids(reader, "by 4", "deflate")) as slide:
            for place in ((20, 20), (540, 300), (1050, 800)):
                found = slide.read_scaled(place, (164, 164), (40, 40))[..., 2].astype(int)
                expected = area_mean(level0, place, (164, 164), (40, 40))[..., 2]
                assert np.median(np.abs(found - expected)) < 1


@pytest.mark.parametrize("mpp", [0.226, 0.243, 0.2525])
def test_grids_at_half_a_micrometre_lie_where_they_say(tmp_path: Path, mpp: float) -> None:
    """Real pixel sizes, of which 0.5 µm is no multiple; every tile, borders of blocks included."""
    level0 = coded_ramps(1303, 620)
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tiff:
        for downsample in (1, 4):
            tiff.write(
                shrunk(level0, downsample), tile=(128, 128), photometric="rgb", metadata=None,
                compression="adobe_deflate", subfiletype=int(downsample > 1),
                resolution=(1e4 / mpp / downsample,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip
    spec = TileSpec(tile_px=64, mpp=0.5, min_tissue=0, edge="pad", exact=True)
    for reader in READERS:
        try:
            slide = open_slide(path, reader=reader)
        except SlideOpenError:
            continue
        with slide:
            grid = tile_grid(slide, spec)
            edge = round(64 * 0.5 / mpp)
            assert grid.extent == (edge, edge)
            tiles = tile_array(slide, grid, tiles_per_block=5).compute()
            for (x0, y0), tile in zip(grid.coords.tolist(), tiles, strict=True):
                expected = area_mean(level0, (x0, y0), grid.extent, (64, 64))
                assert np.abs(tile - expected).max() <= 0.501, (reader, x0, y0)


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.tif"
    write(path, coded_ramps(50_003, 268), (1, 4), "deflate")
    return path


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_downsample_of_4_00012_is_taken_for_the_4_that_it_is(
    long_path: Path, reader: str
) -> None:
    """50,003 px become 12,500: 3 dropped, as the stated downsample of 4.00012 says.

    Taken literally, the far end would be 1.5 level-0 px off, and 6 at 200,000 px.
    """
    with open_slide(long_path, reader=reader) as slide:
        assert slide.level_downsamples[1] == pytest.approx(4.00012, abs=1e-6)
        for x0 in (0, 24_000, 50_003 - 516):
            found = slide.read_scaled((x0, 0), (516, 268), (126, 65))
            x, y = shifts(found, (x0, 0), (516, 268))
            limit = OPENSLIDE_PX if reader == "openslide" else SHIFT_PX
            assert abs(x) < limit, x0
            assert abs(y) < limit, x0


def test_pixels_that_are_not_square_are_averaged_by_axis(
    pyramids: Pyramids,
) -> None:
    """0.25 x 0.20 µm: 2 px across and 2.5 down make one of 0.5 µm."""
    level0 = coded_ramps(*SIZE)
    with open_slide(pyramids("tiff", "one level", "deflate"), mpp=(0.25, 0.2)) as slide:
        grid = tile_grid(slide, TileSpec(tile_px=64, mpp=0.5, min_tissue=0, exact=True))
        assert grid.extent == (128, 160)
        tiles = tile_array(slide, grid).compute()
    for (x0, y0), tile in zip(grid.coords.tolist(), tiles, strict=True):
        expected = area_mean(level0, (x0, y0), (128, 160), (64, 64))
        assert np.abs(tile - expected).max() <= 0.501


@pytest.mark.parametrize("by", [0.5, 1.0, -1.5])
def test_these_tests_would_see_a_shift(by: float) -> None:
    """Half a pixel is measured as half a pixel: what the limits above rely on."""
    x = ramp(np.arange(1000) + 0.5 - by)
    pixels = np.rint(np.stack([np.broadcast_to(x, (900, 1000))] * 3, axis=2)).astype(np.uint8)
    pixels[..., 1] = ramp(np.arange(900) + 0.5)[:, None]
    assert shifts(pixels, (0, 0), (1000, 900)) == (pytest.approx(by, abs=0.02), 0)
