from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import tissue_pixels
from tiling import open_slide
from tiling.samples import sample_label, sample_pixels, write_sample_slide
from tiling.write import write_slide


def test_colours_places_levels_and_pixel_size_survive(tmp_path: Path) -> None:
    pixels = tissue_pixels(1111, 999)
    path = write_slide(tmp_path / "s.tif", pixels, mpp=0.25, downsamples=(1, 4), quality=95)
    with open_slide(path) as slide:
        assert slide.level_sizes == ((1111, 999), (277, 249))
        assert slide.mpp == pytest.approx((0.25, 0.25))
        level_0 = slide.read_region((0, 0), level=0, size=slide.size).astype(int)
        level_1 = slide.read_region((0, 0), level=1, size=(277, 249)).astype(int)
    assert np.abs(level_0 - pixels).mean() < 2
    averaged = pixels[:996, :1108].reshape(249, 4, 277, 4, 3).mean(axis=(1, 3))
    assert np.abs(level_1 - averaged).mean() < 2


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    class Broken:
        shape = (512, 512, 3)

        def __getitem__(self, key: object) -> np.ndarray:
            raise RuntimeError("scanner on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_slide(tmp_path / "s.tif", Broken(), mpp=1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("downsamples", [(2, 4), (1, 4, 2), (1, 1)])
def test_downsamples_must_ascend_from_one(tmp_path: Path, downsamples: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend from 1"):
        write_slide(
            tmp_path / "s.tif", np.zeros((64, 64, 3), np.uint8), mpp=1, downsamples=downsamples
        )


def test_not_rgb(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(64, 64\): must be"):
        write_slide(tmp_path / "s.tif", np.zeros((64, 64), np.uint8), mpp=1)


@pytest.mark.slow
def test_sample_slides_are_the_same_every_time_and_hold_what_they_say(tmp_path: Path) -> None:
    """A tumour is pinker than lymphocytes: more red against blue in its middle tone."""
    assert [sample_label(i) for i in range(4)] == ["normal", "tumor", "normal", "tumor"]
    path = write_sample_slide(tmp_path, 1)
    assert path.name == "demo_01.tif"
    with open_slide(path) as slide:
        assert slide.size[0] > 4000
        assert slide.size[0] % 2 == 1
        assert slide.mpp == pytest.approx((0.25, 0.25))
        whole = slide.read_region((0, 0), level=2, size=slide.level_sizes[2])
    assert (whole.min(axis=2) > 235).mean() > 0.2  # glass
    assert np.array_equal(sample_pixels(1)[:99], sample_pixels(1)[:99])
