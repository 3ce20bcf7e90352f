"""What every reader must do; a reader's test class inherits this and sets `reader`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.conftest import CODED_SIZE, coded_pixels
from tiling import open_slide
from tiling.errors import SlideOpenError, SlideReadError


class ReaderContract:
    """A reader of other than TIFF gives `coded_path` and `corrupt_path` as fixtures of its own."""

    reader: ClassVar[str]
    corrupt_message: ClassVar[str] = r"corrupt\.tif: level 0"

    def test_sizes_and_downsamples(self, coded_path: Path) -> None:
        with open_slide(coded_path, reader=self.reader) as slide:
            assert slide.level_sizes == (CODED_SIZE, (651, 503))
            assert slide.level_downsamples == (1.0, 2.0)
            assert slide.reader == self.reader
            assert self.reader in slide.reader_version

    @pytest.mark.parametrize(("x0", "y0"), [(0, 0), (257, 3), (1021, 508), (1301, 1005)])
    def test_location_is_level_0(self, coded_path: Path, x0: int, y0: int) -> None:
        with open_slide(coded_path, reader=self.reader) as slide:
            pixel = slide.read_region((x0, y0), level=0, size=(1, 1))[0, 0]
        assert pixel.tolist() == [x0 % 256, y0 % 256, 7]

    def test_location_is_level_0_at_level_1_too(self, coded_path: Path) -> None:
        """OpenSlide's rule: location is (x, y) in level 0, size in pixels of the level."""
        with open_slide(coded_path, reader=self.reader) as slide:
            pixels = slide.read_region((600, 200), level=1, size=(3, 2))
        assert pixels[:, :, 0].tolist() == [[88, 90, 92]] * 2
        assert pixels[:, :, 1].tolist() == [[200] * 3, [202] * 3]

    def test_outside_is_white(self, coded_path: Path) -> None:
        with open_slide(coded_path, reader=self.reader) as slide:
            before = slide.read_region((-2, -1), level=0, size=(4, 3))
            after = slide.read_region((1300, 1004), level=0, size=(4, 4))
            beyond = slide.read_region((5000, 5000), level=0, size=(2, 2))
            padding = slide.read_region((1303, 10), level=0, size=(5, 5))  # of a stored tile
        assert (padding == 255).all()
        assert before[:, :, 0].tolist() == [[255] * 4, [255, 255, 0, 1], [255, 255, 0, 1]]
        assert (after[:2, :2] == coded_pixels(*CODED_SIZE)[1004:, 1300:]).all()
        assert (after[2:] == 255).all()
        assert (after[:, 2:] == 255).all()
        assert (beyond == 255).all()

    def test_corrupt_tile_raises_and_the_slide_stays_usable(self, corrupt_path: Path) -> None:
        with open_slide(corrupt_path, reader=self.reader) as slide:
            before = slide.read_region((512, 256), level=0, size=(64, 64))
            with pytest.raises(SlideReadError, match=self.corrupt_message):
                slide.read_region((1024, 768), level=0, size=(256, 256))
            after = slide.read_region((512, 256), level=0, size=(64, 64))
        assert np.array_equal(before, after)

    def test_a_bad_tile_does_not_spoil_what_other_threads_read(self, corrupt_path: Path) -> None:
        """OpenSlide: an error makes the handle fail for every thread that is in it."""
        corners = [(x0, y0) for y0 in range(256, 1280, 128) for x0 in range(512, 1536, 128)]
        with open_slide(corrupt_path, reader=self.reader) as slide:

            def is_bad(corner: tuple[int, int]) -> bool:
                try:
                    slide.read_region(corner, level=0, size=(128, 128))
                except SlideReadError:
                    return True
                return False

            with ThreadPoolExecutor(4) as pool:
                for _ in range(5):
                    bad = [c for c, b in zip(corners, pool.map(is_bad, corners), strict=True) if b]
                    assert bad == [(1024, 768), (1152, 768), (1024, 896), (1152, 896)]

    def test_not_a_slide(self, tmp_path: Path) -> None:
        path = tmp_path / "text.tif"
        path.write_text("this is no TIFF")
        with pytest.raises(SlideOpenError, match=r"text\.tif"):
            open_slide(path, reader=self.reader)
