"""Slides that several test modules use."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import mil_models  # noqa: F401 (before torch: see there what it says to its threads)
from tiling import Slide, open_slide
from tiling.write import write_slide

OWN_HOME = tempfile.TemporaryDirectory(prefix="wsi-tests-")
"""Where napari keeps its settings and the plugin what waits to be written, instead of the user's
own: neither may a test change those, nor they a test. Before anything asks for these folders."""
for name in ("CONFIG", "DATA", "STATE"):
    os.environ[f"XDG_{name}_HOME"] = f"{OWN_HOME.name}/{name.lower()}"

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CODED_SIZE = (1302, 1006)
"""Even, so that level 1 (651 x 503) is downsampled by exactly 2."""
CODED_MPP = 0.5


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no real slides: ../shared/data is not there")
    return SHARED


@pytest.fixture(scope="session")
def real_slides(shared_data: Path) -> Path:
    return shared_data / "slides"


def coded_pixels(width: int, height: int) -> NDArray[np.uint8]:
    """Red = x % 256, green = y % 256, blue = 7: every pixel says where it is."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x % 256, y % 256, np.full_like(x, 7)], axis=-1).astype(np.uint8)


def write_lossless(path: Path, levels: list[NDArray[np.uint8]], mpp: float | None) -> Path:
    """Write a tiled, deflated TIFF pyramid, whose pixels come back exactly."""
    with tifffile.TiffWriter(path) as tiff:
        for index, level in enumerate(levels):
            resolution = {} if mpp is None else {
                "resolution": (1e4 / mpp / 2**index,) * 2,
                "resolutionunit": "CENTIMETER",
            }  # fmt: skip
            tiff.write(
                level,
                tile=(64, 64),
                compression="adobe_deflate",
                photometric="rgb",
                subfiletype=1 if index else 0,
                metadata=None,
                **resolution,
            )
    return path


@pytest.fixture(scope="session")
def coded_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two levels, not square, no multiple of a tile; level 1 is every second pixel of level 0."""
    pixels = coded_pixels(*CODED_SIZE)
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    return write_lossless(tmp_path_factory.mktemp("coded") / "coded.tif", levels, CODED_MPP)


@pytest.fixture
def coded_slide(coded_path: Path) -> Slide:
    with open_slide(coded_path) as slide:
        yield slide


def tissue_pixels(width: int = 2051, height: int = 1537) -> NDArray[np.uint8]:
    """White glass with a pink, textured rectangle from (512, 256) to (1536, 1280)."""
    rng = np.random.default_rng(5)
    pixels = np.full((height, width, 3), 244, np.uint8)
    coarse = rng.integers(0, 60, (64, 64, 1), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    tissue = np.array([200, 120, 170], np.uint8) - np.minimum(coarse, 100)
    pixels[256:1280, 512:1536] = tissue[: min(1024, height - 256), : min(1024, width - 512)]
    return pixels


@pytest.fixture(scope="session")
def tissue_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG slide at 0.5 µm whose tissue is a known rectangle."""
    path = tmp_path_factory.mktemp("tissue") / "tissue.tif"
    return write_slide(path, tissue_pixels(), mpp=0.5, downsamples=(1, 4), quality=92)


@pytest.fixture(scope="session")
def corrupt_path(tmp_path_factory: pytest.TempPathFactory, tissue_path: Path) -> Path:
    """The tissue slide with one stored tile in the middle of level 0 overwritten."""
    path = tmp_path_factory.mktemp("corrupt") / "corrupt.tif"
    content = bytearray(tissue_path.read_bytes())
    with tifffile.TiffFile(tissue_path) as tiff:
        page = tiff.pages[0]
        index = 3 * -(-page.imagewidth // 256) + 4  # row 3, column 4: x0 1024, y0 768
        start, length = page.dataoffsets[index], page.databytecounts[index]
    content[start : start + length] = b"\x00" * length
    path.write_bytes(content)
    return path


@pytest.fixture(scope="session")
def blank_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Glass without tissue."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(243, 1.5, (1111, 1234, 3)).astype(np.uint8)
    return write_slide(tmp_path_factory.mktemp("blank") / "blank.tif", pixels, mpp=0.5)


@pytest.fixture(scope="session")
def no_mpp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tissue slide without a pixel size."""
    path = tmp_path_factory.mktemp("no_mpp") / "no_mpp.tif"
    return write_slide(path, tissue_pixels(), mpp=None, downsamples=(1, 4))


EXIT_STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave without taking native libraries apart.

    With all of them in one process it crashed there in two of four whole runs, after the report.
    """
    OWN_HOME.cleanup()
    if EXIT_STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[EXIT_STATUS])
