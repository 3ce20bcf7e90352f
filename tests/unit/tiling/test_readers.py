from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.conftest import coded_pixels
from tests.contracts.reader_contract import ReaderContract
from tests.robustness.fuzz_mutations import Target
from tests.robustness.fuzz_slides import KINDS
from tiling import open_slide, open_store
from tiling.errors import SlideOpenError, SlideReadError


class TestOpenSlideReader(ReaderContract):
    reader = "openslide"


class TestTiffReader(ReaderContract):
    reader = "tiff"


class TestTiffSlideReader(ReaderContract):
    reader = "tiffslide"


def test_auto_prefers_the_fast_reader(coded_path: Path) -> None:
    with open_slide(coded_path) as slide:
        assert slide.reader == "tiff"


def test_auto_takes_the_fast_reader_for_urls(coded_path: Path) -> None:
    with open_slide(f"file://{coded_path}") as slide:
        assert slide.reader == "tiff"
        assert slide.read_region((257, 3), level=0, size=(1, 1))[0, 0].tolist() == [1, 3, 7]


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match="no such file"):
        open_slide(tmp_path / "nothing.svs")


def test_unknown_reader_names_the_choices(coded_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from auto, tiff, openslide, dicom, "):
        open_slide(coded_path, reader="bioformats")


@pytest.mark.parametrize("name", ["broken.svs", "unopenable.tiff"])
def test_broken_slides_do_not_open(real_slides: Path, name: str) -> None:
    with pytest.raises(SlideOpenError, match=name):
        open_slide(real_slides / "broken" / name)


def test_unreadable_slide_opens_and_every_read_raises(real_slides: Path) -> None:
    """OpenSlide: after the first error the handle is unusable; ours is opened anew."""
    with open_slide(real_slides / "broken" / "unreadable.svs") as slide:
        for _ in range(2):
            with pytest.raises(SlideReadError, match="unreadable.svs"):
                slide.read_region((0, 0), level=0, size=(16, 16))


def test_associated_images(real_slides: Path) -> None:
    with open_slide(real_slides / "CMU-1-Small-Region.svs") as slide:
        assert slide.associated_names == ("label", "macro", "thumbnail")
        assert slide.read_associated("label").shape == (463, 387, 3)
        with pytest.raises(ValueError, match="label, macro, thumbnail"):
            slide.read_associated("photo")


def test_a_slide_in_an_object_store_is_tiled_from_its_url(
    tissue_path: Path, tmp_path: Path
) -> None:
    """Any fsspec URL: here fsspec's own memory store stands where s3:// would."""
    import fsspec

    from tests.unit.wsi_pipeline.test_cli import wsi

    url = "memory://bucket/archive/remote.tif"
    with fsspec.open(url, "wb") as file:
        file.write(tissue_path.read_bytes())
    with open_slide(url) as remote, open_slide(tissue_path, reader="openslide") as local:
        assert remote.reader == "tiff"
        assert remote.resolution.mpp == local.resolution.mpp
        one = remote.read_region((500, 250), level=0, size=(300, 200))
        assert np.array_equal(one, local.read_region((500, 250), level=0, size=(300, 200)))
    assert wsi("tile", url, "-o", tmp_path, "--progress", "none") == 0
    assert open_store(tmp_path / "stores" / "remote.zarr").slide_path == url


@pytest.mark.parametrize("reader", ["tiff", "tiffslide"])
def test_sixteen_bits_are_refused_not_cut_to_eight(tmp_path: Path, reader: str) -> None:
    """Only OpenSlide scales them."""
    path = tmp_path / "deep.tif"
    pixels = np.full((128, 128, 3), 300, np.uint16)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=None)
    with pytest.raises(SlideOpenError, match=r"deep\.tif"):
        open_slide(path, reader=reader)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
@pytest.mark.parametrize("kind", ["jpeg-tables.tif", "aperio-j2k.svs"])
def test_a_stream_that_states_another_size_is_bad(tmp_path: Path, reader: str, kind: str) -> None:
    """60,000 x 60,000 px within a stored tile of 128 x 128: no room is made for them."""
    KINDS[kind](tmp_path / kind, coded_pixels(300, 200))
    content = bytearray((tmp_path / kind).read_bytes())
    with tifffile.TiffFile(tmp_path / kind) as tiff:
        start, count = tiff.pages[0].dataoffsets[1], tiff.pages[0].databytecounts[1]
    frame = content.find(b"\xff\xc0", start, start + count)  # height and width follow at 5
    place, value = (frame + 5, ">HH") if kind.startswith("jpeg") else (start + 8, ">II")
    struct.pack_into(value, content, place, 60_000, 60_000)
    (tmp_path / kind).write_bytes(content)
    with open_slide(tmp_path / kind, reader=reader) as slide:
        assert (slide.read_region((0, 0), level=0, size=(100, 100))[:, :, 2] < 20).all()
        with pytest.raises(SlideReadError, match=f"{kind}: level 0"):
            slide.read_region((100, 0), level=0, size=(100, 100))


def test_an_associated_image_without_end_is_refused(tmp_path: Path) -> None:
    """10^6 x 10^6 px in one strip: as RGB 3 TB."""
    KINDS["aperio.svs"](tmp_path / "a.svs", coded_pixels(300, 200))
    target = Target.of((tmp_path / "a.svs").read_bytes())
    for tag in target.tags[4]:  # the label's page
        if tag.code in (256, 257, 278):
            target.restate(tag, 10**6)
    (tmp_path / "a.svs").write_bytes(target.content)
    for reader in ("tiff", "openslide", "tiffslide"):
        with (
            open_slide(tmp_path / "a.svs", reader=reader) as slide,
            pytest.raises(SlideReadError, match="is no overview"),
        ):
            slide.read_associated("label")


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_what_is_transparent_is_white(tmp_path: Path, reader: str) -> None:
    pixels = np.full((128, 64, 4), 200, np.uint8)
    pixels[..., 3] = np.where(np.arange(128) < 50, 255, 0)[:, None]
    path = tmp_path / "rgba.tif"
    extra = ["unassalpha"]
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", extrasamples=extra)
    with open_slide(path, reader=reader) as slide:
        column = slide.read_region((3, 48), level=0, size=(1, 4))[:, 0]
    assert column.tolist() == [[200] * 3, [200] * 3, [255] * 3, [255] * 3]


def test_two_samples_are_refused(tmp_path: Path) -> None:
    """Grey and another one: no colour that a reader knows."""
    path = tmp_path / "two.tif"
    pixels = np.full((64, 64, 2), 200, np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="minisblack", planarconfig="contig")
    for reader in ("tiff", "tiffslide"):
        with pytest.raises(SlideOpenError, match="2 samples"):
            open_slide(path, reader=reader)
