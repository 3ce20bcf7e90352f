"""Every reader sees the same slide, whatever it is stored as: exactly, at native scale.

Readers that a kind does not name may refuse it; whoever opens it must agree.
"""

from __future__ import annotations

import functools
import itertools
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.dicom_slides import write_series
from tests.equality.kinds import (
    APERIO,
    AREA,
    AREA_SIZE,
    TILE_PX,
    Kind,
    jpeg,
    kinds,
    shrunk,
    stored_tiles,
    tissue,
    without_tables,
)
from tests.equality.reference import area_mean
from tiling import Slide, open_slide
from tiling.errors import SlideOpenError
from tiling.readers.registry import READERS

RATIOS = [1.0, 1.98, 2.0, 2.058, 4.1]
FAST_MEAN, FAST_OFFSET = 4.0, 0.3
"""Grey levels by which tiles that are shrunk in the transform may differ from exact ones: on the
average pixel, and in brightness."""
LOSSY = 12.0
"""Grey levels that JPEG at quality 85 takes from this tissue; wrong colours take over 20."""


@pytest.fixture(scope="session")
def slides_of_all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    paths = {}
    for number, (name, kind) in enumerate(kinds().items()):
        paths[name] = folder / f"{number}{kind.suffix}"
        kind.write(paths[name])
    return paths


@pytest.fixture(params=list(kinds()))
def kind(request: pytest.FixtureRequest) -> Kind:
    return kinds()[request.param]


@pytest.fixture
def readers(
    request: pytest.FixtureRequest, slides_of_all_kinds: dict[str, Path]
) -> dict[str, Slide]:
    """The slide of the test's kind, opened by every reader that opens it."""
    [name] = [n for n, k in kinds().items() if k is request.getfixturevalue("kind")]
    found = {}
    with ExitStack() as stack:
        for reader in READERS:
            try:
                found[reader] = stack.enter_context(
                    open_slide(slides_of_all_kinds[name], reader=reader)
                )
            except SlideOpenError:
                assert reader not in kinds()[name].opens
        yield found


def whole(slide: Slide, level: int) -> NDArray[np.int16]:
    size = slide.level_sizes[level]
    return slide.read_region((0, 0), level=level, size=size).astype(np.int16)


def test_who_must_open_it_does(kind: Kind, readers: dict[str, Slide]) -> None:
    assert set(kind.opens) <= set(readers)


def test_levels_are_the_same_in_every_reader(kind: Kind, readers: dict[str, Slide]) -> None:
    """From the corner, where no reader has to round a level-0 position to the level's pixels."""
    base, *others = [r for r in readers if r not in kind.differs] or list(readers)
    for name in [*others, *kind.differs]:
        slide = readers[name]
        shared = min(len(slide.level_sizes), len(readers[base].level_sizes))
        assert slide.level_sizes[:shared] == readers[base].level_sizes[:shared]
        limit, _ = kind.differs.get(name, (0, ""))
        for level in range(shared):
            assert np.abs(whole(slide, level) - whole(readers[base], level)).max() <= limit, name


def test_levels_are_what_was_stored(kind: Kind, readers: dict[str, Slide]) -> None:
    """Lossless kinds to the last bit, others near the tissue they were made of."""
    for name, slide in readers.items():
        limit, _ = kind.differs.get(name, (0, ""))
        if kind.levels is not None:
            for level, stored in enumerate(kind.levels[: len(slide.level_sizes)]):
                assert slide.level_sizes[level] == (stored.shape[1], stored.shape[0])
                assert np.abs(whole(slide, level) - stored).max() <= limit, name
        elif name not in kind.differs:
            x0, y0 = AREA if slide.vendor == "leica" else (0, 0)
            found = slide.read_region((x0, y0), level=0, size=AREA_SIZE)
            error = np.abs(found.astype(int) - tissue()[: AREA_SIZE[1], : AREA_SIZE[0]])
            assert np.median(error) < LOSSY, name  # the median: a sparse slide lacks a tile


def test_exact_tiles_are_the_mean_of_level_0_in_every_reader(
    kind: Kind, readers: dict[str, Slide]
) -> None:
    """Half a grey level of rounding, and no more, where level 0 is the source."""
    for (name, slide), ratio in itertools.product(readers.items(), RATIOS):
        level0 = whole(slide, 0).astype(np.uint8)
        px = int(min(slide.size) / ratio / 1.3)
        extent = round(px * ratio), round(px * ratio)
        if slide.level_for(extent[0] / px) > 0:
            continue
        for place in ((0, 0), (slide.size[0] - extent[0], slide.size[1] - extent[1]), (31, 17)):
            found = slide.read_scaled(place, extent, (px, px), exact=True)
            expected = area_mean(level0, place, extent, (px, px))
            assert np.abs(found - expected).max() <= 0.501, (name, place, ratio)


def test_the_fast_way_is_close_to_the_exact_one(kind: Kind, readers: dict[str, Slide]) -> None:
    """Shrunk in the transform first: another filter, so sharper or softer, but as bright."""
    for name, slide in readers.items():
        for ratio in (2.058, 3.7):
            px = int(min(slide.size) / ratio)
            extent = round(px * ratio), round(px * ratio)
            fast, exact = (
                slide.read_scaled((0, 0), extent, (px, px), exact=exact).astype(int)
                for exact in (False, True)
            )
            assert np.abs(fast - exact).mean() <= FAST_MEAN, name
            assert abs((fast - exact).mean()) <= FAST_OFFSET, name


def test_the_area_of_a_leica_slide_lies_where_its_bounds_say(
    slides_of_all_kinds: dict[str, Path],
) -> None:
    """Positions are level-0 pixels of the whole slide, OpenSlide's bounds are an offset in it."""
    with open_slide(slides_of_all_kinds["leica"]) as slide:
        assert slide.reader == "openslide"
        assert slide.properties["openslide.bounds-x"] == str(AREA[0])
        assert slide.level_sizes == ((1000, 800), (250, 200))
        for level, step in enumerate((1, 4)):
            found = slide.read_region((0, 0), level=level, size=slide.level_sizes[level])
            left, top, right, bottom = (
                v // step for v in (*AREA, AREA[0] + AREA_SIZE[0], AREA[1] + AREA_SIZE[1])
            )
            area = found[top:bottom, left:right].astype(int)
            expected = shrunk(tissue()[: AREA_SIZE[1], : AREA_SIZE[0]], step)
            assert np.abs(area - expected).mean() < LOSSY
            found[top:bottom, left:right] = 255
            assert (found == 255).all()


@pytest.mark.parametrize("name", ["sparse jpeg", "sparse deflate"])
def test_what_was_never_scanned_is_white(slides_of_all_kinds: dict[str, Path], name: str) -> None:
    """Stored tile 5 of 7 columns: x 320 to 384, y 0 to 64; its neighbours are tissue."""
    for reader in kinds()[name].opens:
        with open_slide(slides_of_all_kinds[name], reader=reader) as slide:
            assert (slide.read_region((320, 0), level=0, size=(64, 64)) == 255).all(), reader
            assert (slide.read_region((319, 0), level=0, size=(1, 64)) < 250).any(), reader
            tile = slide.read_scaled((256, 0), (128, 64), (64, 32))
            assert (tile[:, 32:] == 255).all(), reader
            assert (tile[:, :32] < 250).any(axis=2).all(), reader


def test_philips_levels_are_halved_not_padded(slides_of_all_kinds: dict[str, Path]) -> None:
    """448 x 320 px as stored; 256 x 192 stored, 224 x 160 meant; OpenSlide's rule."""
    with open_slide(slides_of_all_kinds["philips"], reader="tiff") as slide:
        assert slide.level_sizes == ((448, 320), (224, 160), (112, 80), (56, 40))
        assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)


def test_the_padding_of_stored_tiles_never_shows(slides_of_all_kinds: dict[str, Path]) -> None:
    """Tiles are padded with black; shrunk by 2, the last of 397 px would be half black."""
    for name in ("jpeg 4:2:0 in whole streams", "jpeg 4:4:4 with tables in a tag"):
        with open_slide(slides_of_all_kinds[name], reader="tiff") as slide:
            for ratio in (2.0, 2.058, 4.1, 8.2):
                px = 20
                extent = round(px * ratio), round(px * ratio)
                place = slide.size[0] - extent[0] // 2, slide.size[1] - extent[1] // 2
                fast = slide.read_scaled(place, extent, (px, px)).astype(int)
                exact = slide.read_scaled(place, extent, (px, px), exact=True).astype(int)
                assert (fast - exact).min() > -60, (name, ratio)
                assert (fast[px // 2 + 1 :] == 255).all()
                assert (fast[:, px // 2 + 1 :] == 255).all()


def test_the_padding_of_dicom_frames_never_shows(tmp_path: Path) -> None:
    """As above, through the reader that puts frames together."""
    pytest.importorskip("wsidicom")
    padded = np.zeros((320, 448, 3), np.uint8)
    padded[:301, :397] = 230, 120, 180
    write_series(
        tmp_path, [padded], tile=(64, 64), mpp=(0.25, 0.25),
        TotalPixelMatrixColumns=397, TotalPixelMatrixRows=301,
    )  # fmt: skip
    with open_slide(tmp_path, reader="dicom") as slide:
        assert slide.size == (397, 301)
        for ratio in (2.0, 2.058, 4.1, 8.2):
            extent = round(20 * ratio), round(20 * ratio)
            place = slide.size[0] - extent[0] // 2, slide.size[1] - extent[1] // 2
            fast = slide.read_scaled(place, extent, (20, 20)).astype(int)
            assert (fast - (230, 120, 180)).min() > -30, ratio
            assert (fast[11:] == 255).all()
            assert (fast[:, 11:] == 255).all()


@pytest.mark.parametrize("exact", [True, False])
def test_a_tile_that_aperio_left_out_of_a_coarse_level_comes_from_the_finer_one(
    tmp_path: Path, exact: bool
) -> None:
    """An encoder's fault that OpenSlide mends: white there would be tissue that no mask finds."""
    level0 = tissue()[:300, :396]
    path = tmp_path / "holed.svs"
    encode = functools.partial(jpeg, rgb=True)
    tables = without_tables(encode(level0[:TILE_PX, :TILE_PX]))[0]
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((level0, shrunk(level0, 2))):
            tiles = [without_tables(encode(tile))[1] for tile in stored_tiles(level)]
            if number:
                tiles[1] = b""  # x 64 to 128 of 198, y 0 to 64 of 150
            tiff.write(
                iter(tiles), shape=level.shape, dtype=np.uint8, tile=(TILE_PX, TILE_PX),
                photometric="rgb", compression="jpeg", compressionargs={"outcolorspace": "rgb"},
                jpegtables=tables, metadata=None, subfiletype=number,
                description=None if number else APERIO,
            )  # fmt: skip
    with (
        open_slide(path, reader="tiff") as slide,
        open_slide(path, reader="openslide") as reference,
    ):
        assert slide.level_sizes == reference.level_sizes == ((396, 300), (198, 150))
        hole = shrunk(level0, 2)[:64, 64:128].astype(int)
        for one in (slide, reference):
            found = one.read_region((128, 0), level=1, size=(64, 64))
            assert np.abs(found - hole).mean() < 2  # of pixels that went through JPEG once
        found, expected = (whole(one, 1) for one in (slide, reference))
        found[:64, 64:128] = expected[:64, 64:128]
        assert np.array_equal(found, expected)
        part = (132, 4), (112, 112), (28, 28)
        tile = slide.read_scaled(*part, exact=exact).astype(int)
        assert np.abs(tile - area_mean(level0, *part)).mean() < 3
