"""Levels: which there are, that their pixels are the slide's, decoded once and within bounds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import coded_pixels, write_lossless
from tiling import Slide, open_slide
from viewers.level_plan import SMALL_PX, chunk_size, plan_levels
from viewers.levels import ChunkCache, SlidePyramid, stripes

TILE = (256, 256)


def test_levels_lie_a_factor_of_two_apart_until_the_last_is_small() -> None:
    """An Aperio scan of 1, 4, 16, 32: napari finds a level at most twice as fine as the screen."""
    sizes = [(92001, 60001), (23000, 15000), (5750, 3750), (2875, 1875)]
    plans = plan_levels(sizes, [TILE] * 4)
    assert [p.stored for p in plans] == [0, None, 1, None, 2, 3, None, None]
    assert [p.downsample[0] for p in plans] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [p.size for p in plans][:3] == [(92001, 60001), (46000, 30000), (23000, 15000)]
    assert max(plans[-1].size) <= SMALL_PX < max(plans[-2].size)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 200_000), height=st.integers(1, 200_000),
    factors=st.lists(st.sampled_from([2, 3, 4, 8]), max_size=4),
)  # fmt: skip
def test_every_pyramid_shrinks_and_stays_in_place(
    width: int, height: int, factors: list[int]
) -> None:
    """Placed by the ratio of sizes, as viewers do, the far edge is off by at most 1 of its px."""
    sizes, divisor = [(width, height)], 1
    for factor in factors:
        divisor *= factor
        if min(width, height) // divisor < 1:
            break
        sizes.append((width // divisor, height // divisor))
    plans = plan_levels(sizes, [TILE] * len(sizes))
    for finer, coarser in itertools.pairwise(plans):
        assert coarser.size[0] <= finer.size[0]
        assert coarser.size[1] <= finer.size[1]
        assert coarser.size != finer.size
    for plan in plans:
        for axis in (0, 1):
            if plan.size[axis] > 1:
                overhang = plan.size[axis] * plan.downsample[axis] - plans[0].size[axis]
                assert abs(overhang) <= plan.downsample[axis]


def test_chunks_are_whole_stored_tiles() -> None:
    assert chunk_size((240, 240)) == (480, 480)
    assert chunk_size((1024, 1024)) == (1024, 1024)
    assert chunk_size((100_000, 1)) == (100_000, 2)


@pytest.fixture
def pyramid(coded_slide: Slide) -> SlidePyramid:
    return SlidePyramid(coded_slide, cache=ChunkCache(threads=2))


@pytest.mark.parametrize(
    "selection",
    [
        np.s_[:, :], np.s_[500:530, 1000:1302], np.s_[-3:, :2], np.s_[7], np.s_[7, 9, 1],
        np.s_[..., 0], np.s_[10:300:7, ::50], np.s_[90:10:-3, 5], np.s_[4:4], np.s_[2000:, :],
        np.s_[511:513, 511:513, ::-1],
    ],
)  # fmt: skip
def test_slices_are_numpys(pyramid: SlidePyramid, selection: object) -> None:
    expected = coded_pixels(1302, 1006)[selection]  # type: ignore[index]
    found = pyramid.levels[0][selection]
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_an_index_beyond_the_level_is_an_error(pyramid: SlidePyramid) -> None:
    with pytest.raises(IndexError, match="1006 is out of bounds"):
        pyramid.levels[0][1006]


def test_a_level_is_an_array_to_numpy(pyramid: SlidePyramid) -> None:
    level = pyramid.levels[1]
    assert (level.shape, level.ndim, level.dtype, len(level)) == ((503, 651, 3), 3, np.uint8, 503)
    assert np.array_equal(np.asarray(level), coded_pixels(1302, 1006)[::2, ::2])


def test_levels_in_between_are_the_mean_of_what_they_cover(tmp_path: Path) -> None:
    """1, 4: the level at 2 and those above 4 are box means of level 0 and 4, odd edges too."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 255, (2051, 2563, 3), dtype=np.uint8)
    coarse = np.ascontiguousarray(pixels[2:2050:4, 2:2562:4])
    path = write_lossless(tmp_path / "s.tif", [pixels, coarse], 0.25)
    with open_slide(path) as slide:
        pyramid = SlidePyramid(slide, cache=ChunkCache(threads=2))
        assert [p.stored for p in pyramid.plans] == [0, None, 1]
        half = np.asarray(pyramid.levels[1])
    assert half.shape == (1026, 1282, 3)
    blocks = pixels[:2048, :2560].reshape(1024, 2, 1280, 2, 3).mean(axis=(1, 3))
    # The last chunk is stretched to the slide's edge: the others are exact.
    assert np.abs(half[:1024, :1024].astype(int) - blocks[:, :1024]).max() <= 1


def test_a_chunk_that_many_want_is_decoded_once() -> None:
    cache, calls, gate = ChunkCache(threads=2), [], threading.Event()

    def decode(key: Hashable) -> np.ndarray:
        gate.wait(5)
        calls.append(key)
        return np.zeros((4, 4, 3), np.uint8)

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda: list(cache.read(["a", "b"], decode))) for _ in range(8)]
        gate.set()
        assert {key for found in asked for key, _ in found.result()} == {"a", "b"}
    assert sorted(map(str, calls)) == ["a", "b"]


def test_the_cache_keeps_what_was_used_last_and_no_more_than_its_bytes() -> None:
    cache, calls = ChunkCache(limit_bytes=3 * 48, threads=1), []

    def decode(key: Hashable) -> np.ndarray:
        calls.append(key)
        return np.full((4, 4, 3), ord(str(key)), np.uint8)

    for key in "abcabd":  # d drops c
        list(cache.read([key], decode))
    assert "".join(map(str, calls)) == "abcd"
    for key in "abdc":
        [(_, chunk)] = cache.read([key], decode)
        assert chunk[0, 0, 0] == ord(key)
    assert "".join(map(str, calls)) == "abcdc"
    assert cache.size_bytes == 3 * 48


def test_a_failed_chunk_is_tried_again() -> None:
    cache = ChunkCache(threads=1)

    def fail(_: Hashable) -> np.ndarray:
        raise OSError("the drive is gone")

    with pytest.raises(OSError, match="the drive is gone"):
        list(cache.read(["a"], fail))
    [(_, chunk)] = cache.read(["a"], lambda _: np.ones((1, 1, 3), np.uint8))
    assert chunk.all()


def test_what_cannot_be_decoded_is_striped_and_told_once(corrupt_path: Path) -> None:
    """One stored tile, x0 1024, y0 768, is zeros: it alone is striped at level 0."""
    told: list[str] = []
    with open_slide(corrupt_path) as slide:
        pyramid = SlidePyramid(slide, cache=ChunkCache(threads=2))
        pyramid.on_unreadable = told.append
        found = np.asarray(pyramid.levels[0])
        half = np.asarray(pyramid.levels[1])
    bad = found[768:1024, 1024:1280]
    assert np.array_equal(bad, stripes((256, 256)))
    assert not np.isin(found[512:768, 1024:1280], (150, 190)).all(axis=-1).any()
    assert np.isin(half[400:500, 530:620], (150, 190)).all()
    assert len(told) == 1
    assert "copy the slide again" in told[0]


def test_colours_for_display_have_chunks_of_their_own(coded_slide: Slide) -> None:
    pyramid = SlidePyramid(coded_slide, cache=ChunkCache(threads=1))
    plain = pyramid.levels[0][:4, :4]
    pyramid.to_display = lambda pixels: 255 - pixels
    assert np.array_equal(pyramid.levels[0][:4, :4], 255 - plain)
    pyramid.to_display = None
    assert np.array_equal(pyramid.levels[0][:4, :4], plain)
