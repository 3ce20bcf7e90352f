"""ICC: profiles come out of slides as they were written, and change colours as they say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ImageCms

from tiling import open_slide
from viewers.colour_profile import to_srgb
from viewers.errors import ViewerError


def swapped_profile() -> bytes:
    """sRGB's profile with the tags of red and blue exchanged: red means blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack(">I", profile[128:132])
    for index in range(count):
        start = 132 + 12 * index
        name = bytes(profile[start : start + 4])
        profile[start : start + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile)


def write_with_profile(path: Path, profile: bytes) -> Path:
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[..., 0] = 255
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="adobe_deflate",
        iccprofile=profile, resolution=(40000, 40000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_readers_give_the_profile_and_leave_pixels_alone(tmp_path: Path, reader: str) -> None:
    profile = swapped_profile()
    with open_slide(write_with_profile(tmp_path / "s.tif", profile), reader=reader) as slide:
        assert slide.icc_profile == profile
        assert slide.read_region((0, 0), level=0, size=(1, 1))[0, 0].tolist() == [255, 0, 0]


def test_a_slide_without_one_has_none(coded_path: Path) -> None:
    for reader in ("tiff", "openslide"):
        with open_slide(coded_path, reader=reader) as slide:
            assert slide.icc_profile is None


def test_colours_go_through_the_profile() -> None:
    red = np.zeros((5, 4, 3), np.uint8)
    red[..., 0] = 255
    found = to_srgb(swapped_profile())(red)
    assert found.shape == (5, 4, 3)
    assert np.abs(found.astype(int) - (0, 0, 255)).max() <= 2
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(to_srgb(plain)(red).astype(int) - red).max() <= 1


def test_what_is_no_rgb_profile_is_named() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"no profile", lab):
        with pytest.raises(ViewerError, match="ICC profile cannot be used"):
            to_srgb(profile)
