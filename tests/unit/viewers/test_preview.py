"""A slide without coarse levels: read once in blocks, shown as it comes, in bounded memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import write_lossless
from tiling import open_slide
from viewers import level_plan, levels
from viewers.level_plan import LevelPlan
from viewers.levels import SlidePyramid
from viewers.preview import BLOCK_PX, PENDING, Preview

_Y, _X = np.indices((1503, 2101))
PIXELS = np.stack([_Y / 6, _X / 9, (_X + _Y) / 15], axis=2).astype(np.uint8)


@pytest.fixture
def flat_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiled TIFF of one level, which counts as huge here."""
    monkeypatch.setattr(level_plan, "SMALL_PX", 64)
    monkeypatch.setattr(levels, "PREVIEW_SOURCE_PX", 1)
    return write_lossless(tmp_path / "flat.tif", [PIXELS], 0.25)


def wait_for(preview: Preview) -> None:
    end = time.monotonic() + 60
    while preview.done < 1 and time.monotonic() < end:
        time.sleep(0.005)
    assert preview.done == 1


def test_when_all_is_read_the_levels_are_those_of_a_plain_read(flat_path: Path) -> None:
    """Coarser ones than the one that is read are means of its pixels."""
    with open_slide(flat_path) as slide:
        plain, window = SlidePyramid(slide), SlidePyramid(slide)
        preview = window.start_preview()
        assert preview is not None
        assert window.start_preview() is preview
        assert preview.plans[0].downsample == (16.0, 16.0)
        wait_for(preview)
        first = len(window.plans) - len(preview.plans)
        for number in range(first, len(plain.plans)):
            found, wanted = np.asarray(window.levels[number]), np.asarray(plain.levels[number])
            assert found.shape == wanted.shape
            # What reaches the slide's edge is stretched to it: a block here, a chunk there.
            assert np.abs(found.astype(int) - wanted).max() <= (1 if number == first else 2)


def test_finer_levels_are_read_at_once_and_colours_hold_for_all(flat_path: Path) -> None:
    with open_slide(flat_path) as slide:
        window = SlidePyramid(slide, to_display=lambda pixels: 255 - pixels)
        preview = window.start_preview()
        assert preview is not None
        there = np.s_[700:720, 900:930]
        assert np.array_equal(window.levels[0][there], 255 - PIXELS[there])
        preview.stop()
        coarse = window.levels[-1][:]
        assert np.isin(coarse, [255 - PENDING]).any() or preview.done == 1


@pytest.mark.parametrize("limit", ["PREVIEW_RATIO", "PREVIEW_SOURCE_PX"])
def test_a_slide_that_needs_none_has_no_preview(
    flat_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(levels, limit, 1 << 40)
    with open_slide(flat_path) as slide:
        assert SlidePyramid(slide).start_preview() is None


def test_no_more_than_a_block_is_read_at_once_nearest_to_the_view_first() -> None:
    """Before anything is read all is grey; then the block that is looked at comes first."""
    plans = tuple(
        LevelPlan((400 // n, 300 // n), (16.0 * n, 16.0 * n), (512, 512), None) for n in (1, 2)
    )
    asked: list[tuple[tuple[int, int], tuple[int, int]]] = []
    go, is_waiting = threading.Semaphore(0), threading.Semaphore(0)

    def read(corner: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint8]:
        asked.append((corner, size))
        is_waiting.release()
        go.acquire()
        return np.full((size[1], size[0], 3), 7, np.uint8)

    preview = Preview(plans, read, (128, 128))
    assert is_waiting.acquire(timeout=30)  # the first block, before anything is looked at
    assert preview.done == 0
    assert np.unique(preview.read(0, range(300), range(400))).tolist() == [PENDING]
    corner = preview.read(1, range(130, 150), range(190, 200))  # at the far end, in level 1
    assert corner.shape == (20, 10, 3)
    go.release()
    assert is_waiting.acquire(timeout=30)
    assert asked[-1] == ((384, 256), (16, 44))
    preview.stop()
    go.release()
    preview._thread.join(timeout=30)
    assert not preview._thread.is_alive()
    assert len(asked) == 2
    assert max(max(size) for _, size in asked) <= BLOCK_PX // 16
    assert np.unique(preview.read(0, range(256, 300), range(384, 400))).tolist() == [7]


def test_reading_ends_when_the_slide_is_let_go(flat_path: Path) -> None:
    with open_slide(flat_path) as slide:
        window = SlidePyramid(slide)
        preview = window.start_preview()
        assert preview is not None
        thread = preview._thread
        del window, preview
        thread.join(timeout=30)
        assert not thread.is_alive()
