"""A real slide as Zarr has OpenSlide's pixels, whichever way it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import zarr
from ome_zarr_models.v05.image import Image

from tiling import slide_as_zarr
from tiling.errors import SlideOpenError, SlideReadError

SLIDES = [
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.jpeg.tiff",
    "boxes.tiff",
    "small.svs",
]


@pytest.mark.parametrize("name", SLIDES)
def test_every_level_equals_openslides(real_slides: Path, name: str) -> None:
    group = slide_as_zarr(real_slides / name)
    with openslide.OpenSlide(real_slides / name) as theirs:
        assert len(list(group)) == theirs.level_count
        for level, size in enumerate(theirs.level_dimensions):
            expected = np.asarray(theirs.read_region((0, 0), level, size).convert("RGB"))
            array = group[str(level)]
            assert np.array_equal(array[...], expected.transpose(2, 0, 1))
            assert np.array_equal(zarr.Array(array.async_array)[...], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("name", SLIDES)
def test_the_metadata_are_valid_ome_zarr(real_slides: Path, name: str) -> None:
    image = Image.from_zarr(slide_as_zarr(real_slides / name))
    units = {axis.unit for axis in image.attributes.ome.multiscales[0].axes[1:]}
    # The JPEG TIFF states 0.00499 µm and the boxes 352.8 µm: neither is believed.
    assert units == ({"micrometer"} if name.endswith(".svs") else {None})


def test_broken_slides_are_typed_errors(real_slides: Path) -> None:
    with pytest.raises(SlideOpenError, match=r"unopenable\.tiff"):
        slide_as_zarr(real_slides / "broken" / "unopenable.tiff")
    group = slide_as_zarr(real_slides / "broken" / "unreadable.svs")
    for array in (group["0"], zarr.Array(group["0"].async_array)):
        with pytest.raises(SlideReadError, match=r"unreadable\.svs: level 0, stored tile 0, 0: "):
            array[...]
