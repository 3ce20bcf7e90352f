"""Our pixels are OpenSlide's, and the readers agree, on every real slide."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import openslide
import pytest

from tiling import level_array, open_slide
from tiling.errors import SlideOpenError
from tiling.readers.registry import READERS

SLIDES = [
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.jpeg.tiff",
    "boxes.tiff",
    "small.svs",
    "boxes_dicom/boxes_0.dcm",
    "boxes_dicom/boxes_1.dcm",
]
TIFFS = SLIDES[:4]
BETWEEN_PIXELS = 1.0
"""Mean grey levels: OpenSlide interpolates where a position falls between a level's pixels."""


def random_regions(slide: openslide.OpenSlide, level: int, count: int) -> list[tuple[int, ...]]:
    """Return x0, y0 and size of regions, some of which reach over the slide's edges."""
    rng = np.random.default_rng(level)
    width, height = slide.dimensions
    return [
        (int(x), int(y), int(w), int(h))
        for x, y, w, h in zip(
            rng.integers(-40, width + 20, count),
            rng.integers(-40, height + 20, count),
            rng.integers(1, 300, count),
            rng.integers(1, 300, count),
            strict=True,
        )
    ]


@pytest.mark.parametrize("name", SLIDES)
def test_a_hundred_random_regions_of_every_level_equal_openslides(
    real_slides: Path, name: str
) -> None:
    with (
        openslide.OpenSlide(real_slides / name) as theirs,
        open_slide(real_slides / name, reader="openslide") as ours,
    ):
        assert ours.level_sizes == theirs.level_dimensions
        for level in range(theirs.level_count):
            for x0, y0, width, height in random_regions(theirs, level, 100):
                rgba = np.asarray(theirs.read_region((x0, y0), level, (width, height)))
                found = ours.read_region((x0, y0), level=level, size=(width, height))
                opaque = rgba[..., 3] == 255
                assert np.array_equal(found[opaque], rgba[opaque][:, :3])
                assert (found[rgba[..., 3] == 0] == 255).all()


@pytest.mark.parametrize("name", SLIDES)
def test_the_reader_of_choice_gives_openslides_pixels_in_a_hundred_regions(
    real_slides: Path, name: str
) -> None:
    """White outside, also above the padding of a last stored tile.

    Against parts of OpenSlide's whole level: asked for a place between two pixels of a coarse
    level, OpenSlide blends them, and we give the nearest.
    """
    with openslide.OpenSlide(real_slides / name) as theirs, open_slide(real_slides / name) as ours:
        for level, (width, height) in enumerate(theirs.level_dimensions):
            margin = 400  # px around the level, as far as a region may reach
            whole = np.full((height + 2 * margin, width + 2 * margin, 3), 255, np.uint8)
            inside = whole[margin : margin + height, margin : margin + width]
            inside[...] = theirs.read_region((0, 0), level, (width, height)).convert("RGB")
            downsample = ours.level_downsamples[level]
            rng = np.random.default_rng(level)
            for _ in range(100):
                x, y = (int(rng.integers(-40, length + 40)) for length in (width, height))
                size = int(rng.integers(1, 300)), int(rng.integers(1, 300))
                location = math.ceil(x * downsample), math.ceil(y * downsample)
                found = ours.read_region(location, level=level, size=size)
                top, left = y + margin, x + margin
                assert np.array_equal(found, whole[top : top + size[1], left : left + size[0]])


@pytest.mark.parametrize("name", SLIDES)
def test_lazy_levels_equal_openslides(real_slides: Path, name: str) -> None:
    with openslide.OpenSlide(real_slides / name) as theirs, open_slide(real_slides / name) as ours:
        for level, size in enumerate(theirs.level_dimensions):
            expected = np.asarray(theirs.read_region((0, 0), level, size).convert("RGB"))
            assert np.array_equal(level_array(ours, level).compute(), expected)


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("name", SLIDES)
def test_all_readers_agree(real_slides: Path, name: str, reader: str) -> None:
    """To the last bit: each level from its corner, and tiles at a scale that is never aligned."""
    try:
        slide = open_slide(real_slides / name, reader=reader)
    except SlideOpenError:
        pytest.skip(f"{reader} does not open it")
    with slide, open_slide(real_slides / name, reader="openslide") as reference:
        assert slide.level_sizes == reference.level_sizes
        for level, size in enumerate(slide.level_sizes):
            found, expected = (
                s.read_region((0, 0), level=level, size=size) for s in (slide, reference)
            )
            assert np.array_equal(found, expected), level
        px = max(int(min(slide.size) / 2.058), 1)
        extent = (round(px * 2.058),) * 2
        for place in ((0, 0), (slide.size[0] - extent[0], slide.size[1] - extent[1])):
            found, expected = (
                s.read_scaled(place, extent, (px, px), exact=True) for s in (slide, reference)
            )
            limit = 0 if slide.level_for(extent[0] / px) == 0 else BETWEEN_PIXELS
            assert np.abs(found.astype(int) - expected).mean() <= limit, place


def test_who_opens_what(real_slides: Path) -> None:
    """Every reader opens the kinds it is there for: none of the comparisons above is empty."""
    for reader in ("tiff", "openslide", "tiffslide"):
        for name in TIFFS:
            with open_slide(real_slides / name, reader=reader) as slide:
                assert slide.reader == reader


def test_the_implausible_pixel_size_is_stated_and_refused(real_slides: Path) -> None:
    from tiling.errors import ImplausibleMppError

    with open_slide(real_slides / "CMU-1-Small-Region.jpeg.tiff") as slide:
        assert slide.mpp == pytest.approx((0.00499, 0.00499))
        with pytest.raises(ImplausibleMppError, match=r"0\.00499 .*allowed 0\.05 to 20"):
            slide.require_mpp()
    with open_slide(real_slides / "CMU-1-Small-Region.jpeg.tiff", mpp=0.499) as slide:
        assert slide.require_mpp() == (0.499, 0.499)
