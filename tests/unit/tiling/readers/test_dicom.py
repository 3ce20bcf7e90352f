"""DICOM series, written here by pydicom: what OpenSlide opens and what it refuses."""

from __future__ import annotations

import io
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import generate_uid

from tests.conftest import CODED_MPP, CODED_SIZE, coded_pixels, tissue_pixels
from tests.contracts.reader_contract import ReaderContract
from tests.dicom_slides import (
    SYNTAXES,
    Encode,
    jpeg,
    jpeg_2000,
    jpeg_2000_plain,
    jpeg_ls,
    jpeg_rgb,
    native,
    rle,
    to_ycbcr,
    write_series,
)
from tiling import open_slide
from tiling.errors import SlideOpenError, SlideReadError
from tiling.readers.dicom_frames import stated_size
from tiling.source import read_source

SIZE = (203, 151)
"""Odd, and no multiple of the 64 x 48 px frames."""


def halved(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


@pytest.fixture(scope="module")
def coded_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coded_dicom")
    levels = halved(coded_pixels(*CODED_SIZE))
    mpp = (CODED_MPP, CODED_MPP)
    return write_series(folder, levels, encode=jpeg_ls, photometric="RGB", mpp=mpp)[0]


@pytest.fixture(scope="module")
def corrupt_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tissue slide with the frame at x0 1024, y0 768 overwritten."""
    folder = tmp_path_factory.mktemp("corrupt_dicom")
    pixels = tissue_pixels()
    [path] = write_series(folder, [pixels], tile=(256, 256), stem="corrupt_")
    frame = jpeg(np.ascontiguousarray(pixels[768:1024, 1024:1280]))
    content = path.read_bytes()
    assert content.count(frame) == 1
    path.write_bytes(content.replace(frame, b"\0" * len(frame)))
    return path


class TestDicomReader(ReaderContract):
    reader = "dicom"
    corrupt_message = r"corrupt_level_0\.dcm: level 0, frame 4, 3"


def decoded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What Pillow makes of each frame's JPEG."""
    out = np.empty_like(pixels)
    for top in range(0, pixels.shape[0], 48):
        for left in range(0, pixels.shape[1], 64):
            part = pixels[top : top + 48, left : left + 64]
            pad = ((0, 48 - part.shape[0]), (0, 64 - part.shape[1]), (0, 0))
            frame = Image.open(io.BytesIO(jpeg(np.pad(part, pad, mode="edge"))))
            here = np.asarray(frame)[: part.shape[0], : part.shape[1]]
            out[top : top + 48, left : left + 64] = here
    return out


def same(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[..., 0]


def grey_as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[..., :1].repeat(3, axis=2)


def through_ycbcr(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr").convert("RGB"))


Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
KINDS: list[tuple[str, Encode, str, Change, Change, int]] = [
    # name, frames, photometric interpretation, stored, expected, tolerance
    ("jpeg-ybr-full", jpeg, "YBR_FULL", same, decoded, 0),
    ("jpeg-ybr-full-422", jpeg, "YBR_FULL_422", same, decoded, 0),
    ("jpeg-rgb", jpeg_rgb, "RGB", same, same, 0),
    ("jpeg-ls", jpeg_ls, "RGB", same, same, 0),
    ("jpeg-ls-grey", jpeg_ls, "MONOCHROME2", grey, grey_as_rgb, 0),
    ("jpeg-2000-rct", jpeg_2000, "YBR_RCT", same, same, 0),
    ("jpeg-2000-rgb", jpeg_2000_plain, "RGB", same, same, 0),
    ("jpeg-2000-ybr-full", jpeg_2000_plain, "YBR_FULL", to_ycbcr, through_ycbcr, 1),
    ("rle", rle, "RGB", same, same, 0),
    ("plain", native, "RGB", same, same, 0),
    ("plain-grey", native, "MONOCHROME2", grey, grey_as_rgb, 0),
]
OPENSLIDE_OPENS = {"jpeg-ybr-full-422", "jpeg-rgb", "jpeg-2000-rct", "jpeg-2000-rgb", "plain"}


@pytest.mark.parametrize(
    ("name", "encode", "photometric", "store", "expect", "tolerance"),
    KINDS,
    ids=[kind[0] for kind in KINDS],
)
def test_every_kind_of_frame(
    tmp_path: Path, name: str, encode: Encode, photometric: str, store: Change, expect: Change,
    tolerance: int,
) -> None:  # fmt: skip
    """Exact for what is lossless, the same as Pillow for JPEG, and as OpenSlide where it opens it.

    wsidicom alone gives JPEG 2000 in YBR_FULL as if YCbCr were RGB.
    """
    levels = halved(coded_pixels(*SIZE))
    write_series(tmp_path, [store(v) for v in levels], encode=encode, photometric=photometric)
    with open_slide(tmp_path, reader="dicom") as slide:
        assert slide.level_sizes == (SIZE, (102, 76))
        for level, pixels in enumerate(levels):
            found = slide.read_region((0, 0), level=level, size=slide.level_sizes[level])
            difference = np.abs(found.astype(int) - expect(pixels))
            assert difference.max() <= tolerance
        part = slide.read_region((190, -3), level=0, size=(20, 10))
        assert (part[:3] == 255).all()
        assert (part[:, 13:] == 255).all()
        whole = slide.read_region((0, 0), level=0, size=SIZE)
        assert np.array_equal(part[3:, :13], whole[:7, 190:])
    with open_slide(tmp_path) as slide:
        assert slide.reader == ("openslide" if name in OPENSLIDE_OPENS else "dicom")
        assert ("openslide" in slide.refusals) is (name not in OPENSLIDE_OPENS)
        if slide.reader == "openslide":
            assert np.array_equal(slide.read_region((0, 0), level=0, size=SIZE), whole)


def test_a_stream_does_not_say_which_colours_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photometric interpretation does; scanners copy streams with JFIF's marker around RGB."""

    def marked(pixels: NDArray[np.uint8]) -> bytes:
        jfif = bytes.fromhex("ffe000104a46494600010100000100010000")
        data = jpeg_rgb(pixels)
        return data[:2] + jfif + data[2:]

    monkeypatch.setitem(SYNTAXES, marked, SYNTAXES[jpeg])
    pixels = coded_pixels(*SIZE)
    write_series(tmp_path, [pixels], encode=marked, photometric="RGB")
    with open_slide(tmp_path, reader="dicom") as slide:
        assert np.array_equal(slide.read_region((0, 0), level=0, size=SIZE), pixels)


@pytest.fixture
def series(tmp_path: Path) -> list[Path]:
    """Two levels, label, overview and thumbnail, which OpenSlide refuses (YBR_FULL)."""
    colours = {"LABEL": (40, 30), "OVERVIEW": (90, 33), "THUMBNAIL": (51, 38)}
    associated = {kind: coded_pixels(*size) for kind, size in colours.items()}
    levels = halved(coded_pixels(*SIZE))
    return write_series(tmp_path / "s", levels, associated=associated, mpp=(0.25, 0.5))


def test_any_file_of_the_series_and_its_folder_are_the_same_slide(series: list[Path]) -> None:
    hashes = {read_source(str(path)) for path in (*series, series[0].parent)}
    assert len(hashes) == 1
    for path in (*series, series[0].parent):
        with open_slide(path) as slide:
            assert (slide.reader, slide.level_sizes) == ("dicom", (SIZE, (102, 76)))


def test_what_is_stated_is_collected_and_no_patient(series: list[Path]) -> None:
    """PixelSpacing is (rows, columns): y first (PS3.3, 10.7.1.3)."""
    with open_slide(series[0]) as slide:
        assert slide.mpp == (0.25, 0.5)
        assert slide.resolution.source == "dicom.PixelSpacing"
        assert slide.properties["dicom.ObjectiveLensPower"] == "20"
        assert slide.properties["dicom.PhotometricInterpretation"] == "YBR_FULL"
        assert not any("Doe" in value for value in slide.properties.values())


def test_openslide_and_wsidicom_state_the_same(tmp_path: Path) -> None:
    write_series(tmp_path, [coded_pixels(*SIZE)], photometric="YBR_FULL_422", mpp=(0.25, 0.5))
    found = []
    for reader in ("openslide", "dicom"):
        with open_slide(tmp_path, reader=reader) as slide:
            found.append((slide.mpp, slide.resolution.source))
            assert slide.properties["dicom.ObjectiveLensPower"] == "20"
    assert found == [((0.25, 0.5), "dicom.PixelSpacing")] * 2


def test_associated_images(series: list[Path]) -> None:
    with open_slide(series[0]) as slide:
        assert slide.associated_names == ("label", "macro", "thumbnail")
        assert np.array_equal(slide.read_associated("label"), coded_pixels(40, 30))
        assert np.array_equal(slide.read_associated("macro"), coded_pixels(90, 33))


def test_pickled_slides_read_on(series: list[Path]) -> None:
    """wsidicom's own object does not pickle."""
    with open_slide(series[0]) as slide, pickle.loads(pickle.dumps(slide)) as other:  # noqa: S301
        one = slide.read_region((30, 20), level=0, size=(99, 88))
        assert np.array_equal(other.read_region((30, 20), level=0, size=(99, 88)), one)


def test_two_series_in_one_folder(tmp_path: Path) -> None:
    """PACS put many slides into one folder: each file leads to its own series."""
    write_series(tmp_path, [coded_pixels(*SIZE)], stem="a_")
    write_series(tmp_path, [coded_pixels(64, 48)], stem="b_")
    for stem, size in (("a_", SIZE), ("b_", (64, 48))):
        with open_slide(tmp_path / f"{stem}level_0.dcm", reader="dicom") as slide:
            assert slide.level_sizes == (size,)
    with pytest.raises(SlideOpenError, match=r"2 DICOM series.*a_level_0\.dcm, b_level_0\.dcm"):
        open_slide(tmp_path)


def test_a_folder_that_is_no_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match="a folder that is no slide"):
        open_slide(tmp_path)


def test_sparse_frames(tmp_path: Path) -> None:
    """TILED_SPARSE: frames in any order, and places that were never scanned are white."""
    pixels = coded_pixels(*SIZE)
    pixels[48:96, 64:128] = 255
    write_series(tmp_path, [pixels], encode=jpeg_ls, photometric="RGB", sparse=True)
    with open_slide(tmp_path) as slide:
        assert slide.reader == "dicom"
        assert np.array_equal(slide.read_region((0, 0), level=0, size=SIZE), pixels)


def test_a_level_in_several_files(tmp_path: Path) -> None:
    """Concatenation: one instance cut into files of so many frames each (PS3.3, C.7.6.16.2.2.4)."""
    pixels = coded_pixels(*SIZE)
    [path] = write_series(tmp_path, [pixels], encode=jpeg_ls, photometric="RGB")
    whole = pydicom.dcmread(path)
    frames = list(generate_frames(whole.PixelData, number_of_frames=16))
    whole.ConcatenationUID = generate_uid()
    whole.SOPInstanceUIDOfConcatenationSource = whole.SOPInstanceUID
    whole.InConcatenationTotalNumber = 2
    for number, start in enumerate((0, 7)):
        part = frames[start : (7, 16)[number]]
        whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        whole.InConcatenationNumber, whole.ConcatenationFrameOffsetNumber = number + 1, start
        whole.NumberOfFrames, whole.PixelData = len(part), encapsulate(part)
        whole.save_as(tmp_path / f"part_{number}.dcm")
    path.unlink()
    with open_slide(tmp_path, reader="dicom") as slide:
        assert slide.level_sizes == (SIZE,)
        assert np.array_equal(slide.read_region((0, 0), level=0, size=SIZE), pixels)


def test_levels_a_third_as_large_with_frames_of_another_size(tmp_path: Path) -> None:
    """wsidicom's own pyramid takes powers of two and one size of frames alone."""
    base = coded_pixels(300, 210)
    paths = write_series(tmp_path, [base, np.ascontiguousarray(base[::3, ::3])], mpp=None)
    other = write_series(tmp_path / "o", [np.ascontiguousarray(base[::3, ::3])], tile=(40, 40))[0]
    one, two = pydicom.dcmread(paths[1]), pydicom.dcmread(other)
    two.StudyInstanceUID, two.SeriesInstanceUID = one.StudyInstanceUID, one.SeriesInstanceUID
    two.save_as(paths[1])
    shutil.rmtree(tmp_path / "o")
    with open_slide(tmp_path) as slide:
        assert slide.level_sizes == ((300, 210), (100, 70))
        assert slide.level_downsamples == (1.0, 3.0)
        assert (slide.tile_size(0), slide.tile_size(1)) == ((64, 48), (40, 40))
        assert slide.mpp is None
        assert slide.resolution.problem.startswith("no mpp in the metadata (a 20x objective")


def test_a_level_that_cannot_be_read_is_not_replaced_by_a_coarser_one(tmp_path: Path) -> None:
    """wsidicom passes over what it cannot read: level 1 would silently become level 0."""
    paths = write_series(tmp_path, halved(coded_pixels(*SIZE)))
    dataset = pydicom.dcmread(paths[0])
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(paths[0])
    with pytest.raises(SlideOpenError, match=r"level_0\.dcm: MONOCHROME1 in transfer syntax"):
        open_slide(paths[1])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"TotalPixelMatrixColumns": 2**31, "TotalPixelMatrixRows": 2**31}, "in 16 frames of 64"),
        ({"Rows": 65_535, "Columns": 65_535}, "frames of 65535 x 65535 px"),
        ({"Rows": 0}, "frames of 64 x 0 px"),
        ({"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}, "is not read"),
    ],
)
def test_impossible_headers_are_refused_before_anything_is_allocated(
    tmp_path: Path, attributes: dict[str, int], message: str
) -> None:
    write_series(tmp_path, [coded_pixels(*SIZE)], **attributes)
    with pytest.raises(SlideOpenError, match=message):
        open_slide(tmp_path, reader="dicom")


def test_more_frames_than_the_file_can_hold(tmp_path: Path) -> None:
    [path] = write_series(tmp_path, [coded_pixels(*SIZE)])
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 2_000_000_000
    dataset.save_as(path)
    with pytest.raises(SlideOpenError, match="in 2000000000 frames"):
        open_slide(tmp_path, reader="dicom")


def test_a_frame_that_states_another_size_is_not_decoded(tmp_path: Path) -> None:
    """A few bytes can claim 60,000 x 60,000 px."""
    pixels = coded_pixels(*SIZE)
    [path] = write_series(tmp_path, [pixels], encode=jpeg_2000_plain, photometric="RGB")
    first = jpeg_2000_plain(np.ascontiguousarray(pixels[:48, :64]))
    width = (64).to_bytes(4, "big")
    swollen = first.replace(width, (60_000).to_bytes(4, "big"))
    content = path.read_bytes()
    assert content.count(first) == 1
    path.write_bytes(content.replace(first, swollen))
    with (
        open_slide(path, reader="dicom") as slide,
        pytest.raises(SlideReadError, match=r"frame 0, 0: 60000 x 48 px, not 64 x 48"),
    ):
        slide.read_region((0, 0), level=0, size=(64, 48))


def test_a_frame_far_larger_than_its_pixels_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def padded(pixels: NDArray[np.uint8]) -> bytes:
        return jpeg(pixels) + b"\0" * 100_000

    monkeypatch.setitem(SYNTAXES, padded, SYNTAXES[jpeg])
    [path] = write_series(tmp_path, [coded_pixels(*SIZE)], encode=padded)
    with (
        open_slide(path, reader="dicom") as slide,
        pytest.raises(SlideReadError, match=r"frame 0, 0: a frame of 10\d{4} bytes"),
    ):
        slide.read_region((0, 0), level=0, size=(64, 48))


@pytest.mark.parametrize("encode", [jpeg, jpeg_ls, jpeg_2000_plain])
def test_the_size_that_a_stream_states(encode: Encode) -> None:
    assert stated_size(encode(coded_pixels(123, 45))) == (123, 45)


def test_two_optical_paths_are_fluorescence(tmp_path: Path) -> None:
    first, second = coded_pixels(*SIZE), coded_pixels(*SIZE)
    paths = write_series(tmp_path, [first, second])
    for path, name in zip(paths, ("DAPI", "FITC"), strict=True):
        dataset = pydicom.dcmread(path)
        dataset.OpticalPathSequence[0].OpticalPathIdentifier = name
        dataset.save_as(path)
    with pytest.raises(SlideOpenError, match="2 optical paths"):
        open_slide(paths[0], reader="dicom")


def test_the_middle_focal_plane_is_read_and_said(tmp_path: Path) -> None:
    planes = [np.full((48, 64, 3), value, np.uint8) for value in (10, 20, 30)]
    stacked = np.concatenate(planes)  # three frames, one below the other
    [path] = write_series(tmp_path, [stacked], encode=jpeg_ls, photometric="RGB")
    dataset = pydicom.dcmread(path)
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixFocalPlanes = 48, 3
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = 0.001
    dataset.save_as(path)
    with open_slide(path, reader="dicom") as slide:
        assert (slide.read_region((0, 0), level=0, size=(64, 48)) == 20).all()
        assert "3 focal planes: plane 2 is read" in slide.warnings


def test_shrinking_while_decoding_gives_the_mean(tmp_path: Path) -> None:
    """Tiles at four times the pixel size: JPEG by its transform, JPEG-LS by averaging."""
    ramp = np.add.outer(np.arange(384), np.arange(512))[..., None].repeat(3, 2) // 4
    pixels = ramp.astype(np.uint8)
    for encode, photometric in ((jpeg, "YBR_FULL"), (jpeg_ls, "RGB")):
        folder = tmp_path / photometric
        write_series(folder, [pixels], encode=encode, photometric=photometric, tile=(128, 96))
        with open_slide(folder, reader="dicom") as slide:
            fast = slide.read_scaled((64, 32), (256, 256), (64, 64))
            exact = slide.read_scaled((64, 32), (256, 256), (64, 64), exact=True)
        assert np.abs(fast.astype(int) - exact).max() <= 1
        assert np.abs(exact.astype(float) - pixels[34:288:4, 66:320:4]).max() <= 1


def test_without_wsidicom_the_remedy_is_named(
    series: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    monkeypatch.delitem(sys.modules, "tiling.readers.dicom", raising=False)
    with pytest.raises(SlideOpenError, match=r"pip install 'wsi-pipeline\[dicom\]'"):
        open_slide(series[0])


def test_cut_off_files_are_refused(tmp_path: Path) -> None:
    [path] = write_series(tmp_path, [coded_pixels(*SIZE)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 3000])
    with pytest.raises(SlideOpenError, match=r"level_0\.dcm: dicom: .*end of file"):
        open_slide(path, reader="dicom")


def test_an_offset_table_that_leads_astray_is_refused(tmp_path: Path) -> None:
    """A frame's length is the distance to the next: read(-1) would take the rest of the file."""
    [path] = write_series(tmp_path, [coded_pixels(*SIZE)], encode=jpeg_ls, photometric="RGB")
    content = bytearray(path.read_bytes())
    table = content.index(bytes.fromhex("feff00e0 40000000")) + 8  # an item of 16 offsets
    content[table + 4 * 5 : table + 4 * 6] = (0x7FFFFFF0).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(SlideOpenError, match=r"Invalid frame length -\d+ for frame 5"):
        open_slide(path, reader="dicom")


def test_real_series(real_slides: Path) -> None:
    """OpenSlide's test series, RGB: both readers give the same pixels."""
    folder = real_slides / "boxes_dicom"
    found = []
    for reader in ("openslide", "dicom"):
        with open_slide(folder, reader=reader) as slide:
            assert slide.associated_names == ("thumbnail",)
            found.append(slide.read_region((-2, -2), level=0, size=(20, 20)))
            found.append(slide.read_associated("thumbnail"))
            assert slide.mpp == pytest.approx((0.499, 0.499))
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])


def test_lossless_jpeg_2000_writer_and_reader_agree() -> None:
    """The generator's own check: its frames decode to what went in."""
    pixels = coded_pixels(64, 48)
    assert np.array_equal(imagecodecs.jpeg2k_decode(jpeg_2000(pixels)), pixels)
    assert imagecodecs.dicomrle_decode(rle(pixels), np.uint8) == pixels.transpose(2, 0, 1).tobytes()


def test_the_icc_profile_of_the_optical_path_comes_out_as_written(tmp_path: Path) -> None:
    """PS3.3, C.8.12.5: it is the optical path's; a value of odd length is padded by a byte."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + b"\1"
    profile = len(profile).to_bytes(4, "big") + profile[4:]
    assert len(profile) % 2
    optical = Dataset()
    optical.OpticalPathIdentifier, optical.ICCProfile = "1", profile
    levels = halved(coded_pixels(*SIZE))
    path = write_series(tmp_path, levels, OpticalPathSequence=DicomSequence([optical]))[0]
    with open_slide(path, reader="dicom") as slide:
        assert slide.icc_profile == profile


def test_a_series_without_icc_profile_has_none(tmp_path: Path) -> None:
    path = write_series(tmp_path, halved(coded_pixels(*SIZE)))[0]
    with open_slide(path, reader="dicom") as slide:
        assert slide.icc_profile is None
