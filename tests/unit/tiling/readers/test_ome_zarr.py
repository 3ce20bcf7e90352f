"""OME-Zarr images, written here by Zarr: 0.4 and 0.5, every order of axes, and hostile ones."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from tests.conftest import CODED_MPP, CODED_SIZE, coded_pixels, tissue_pixels
from tests.contracts.reader_contract import ReaderContract
from tests.unit.tiling.test_store import make_store
from tests.zarr_slides import write_ome_zarr
from tiling import level_array, open_slide
from tiling.errors import SlideOpenError, SlideReadError
from tiling.source import read_source

SIZE = (301, 203)


def halved(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [pixels, np.ascontiguousarray(pixels[::2, ::2])]


@pytest.fixture(scope="module")
def coded_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coded_zarr") / "coded.zarr"
    levels = halved(coded_pixels(*CODED_SIZE))
    write_ome_zarr(path, levels, scale=(CODED_MPP, CODED_MPP), chunk=256)
    return path


@pytest.fixture(scope="module")
def corrupt_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tissue slide with the red chunk at x0 1024, y0 768 overwritten."""
    path = tmp_path_factory.mktemp("corrupt_zarr") / "corrupt.zarr"
    write_ome_zarr(path, [tissue_pixels()], chunk=256)
    chunk = path / "0" / "c" / "0" / "3" / "4"
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    return path


class TestOmeZarrReader(ReaderContract):
    reader = "ome-zarr"
    corrupt_message = r"corrupt\.zarr: level 0, tile 4, 3"


@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yxc", "xyc"])
@pytest.mark.parametrize(("version", "shard"), [("0.4", None), ("0.5", None), ("0.5", 128)])
def test_every_order_of_axes(tmp_path: Path, axes: str, version: str, shard: int | None) -> None:
    path = tmp_path / "a.zarr"
    levels = halved(coded_pixels(*SIZE))
    write_ome_zarr(path, levels, axes=axes, version=version, shard=shard, scale=(0.25, 0.5))
    with open_slide(path) as slide:
        assert slide.reader == "ome-zarr"
        assert slide.level_sizes == (SIZE, (151, 102))
        assert slide.level_downsamples == (1.0, 2.0)
        assert slide.mpp == (0.25, 0.5)
        assert slide.resolution.source == "ngff.scale"
        for level, pixels in enumerate(levels):
            assert np.array_equal(level_array(slide, level).compute(), pixels)
        part = slide.read_region((-3, 200), level=0, size=(10, 6))
    assert np.array_equal(part[:3, 3:], levels[0][200:, :7])
    assert (part[3:] == 255).all()
    assert (part[:, :3] == 255).all()


@pytest.mark.parametrize(("axes", "shape"), [("yx", SIZE[::-1]), ("cyx", (*SIZE[::-1], 1))])
def test_grey(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    pixels = coded_pixels(*SIZE)[..., 0].reshape(shape)
    write_ome_zarr(tmp_path / "a.zarr", [pixels], axes=axes)
    with open_slide(tmp_path / "a.zarr") as slide:
        found = slide.read_region((0, 0), level=0, size=SIZE)
    assert np.array_equal(found, coded_pixels(*SIZE)[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("scale", "unit", "mpp"),
    [
        ((250, 500), "nanometer", (0.25, 0.5)),
        ((0.00025, 0.0005), "millimeter", (0.25, 0.5)),
        ((2500, 2500), "angstrom", (0.25, 0.25)),
        ((0.25, 0.25), None, None),
        ((1, 1), "pixel", None),
        (None, "micrometer", None),
    ],
)
def test_the_scale_is_a_pixel_size_where_it_has_a_unit(
    tmp_path: Path,
    scale: tuple[float, float] | None,
    unit: str | None,
    mpp: tuple[float, float] | None,
) -> None:
    """OME-NGFF 0.5: units SHOULD be given; 1 of nothing is what writers put by default."""
    write_ome_zarr(tmp_path / "a.zarr", [coded_pixels(64, 64)], scale=scale, unit=unit)
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx(mpp))
        if scale == (0.25, 0.25):
            assert "ngff.scale = 0.25 is stated without a unit" in slide.resolution.problem


def test_a_scale_of_the_whole_image_multiplies(tmp_path: Path) -> None:
    group = write_ome_zarr(tmp_path / "a.zarr", [coded_pixels(64, 64)], scale=(0.5, 0.5))
    metadata = group.attrs["ome"]
    outer = [{"type": "scale", "scale": [1.0, 2.0, 0.5]}]
    metadata["multiscales"][0]["coordinateTransformations"] = outer
    group.attrs["ome"] = metadata
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.mpp == (0.25, 1.0)


def test_downsamples_are_the_stated_ones_where_sizes_are_rounded(tmp_path: Path) -> None:
    """301 px at a factor of 4 are 75 (4.0133) or 76 (3.96): the scale says 4."""
    base = coded_pixels(*SIZE)
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [base, base[::4, ::4][:50, :75]], factors=[1, 4])
    with open_slide(path) as slide:
        assert slide.level_downsamples == (1.0, 4.0)
    shutil.rmtree(path)
    write_ome_zarr(path, [base, base[::4, ::4]], factors=[1, 1])
    with open_slide(path) as slide:  # every level at the same scale, as some writers state it
        assert slide.level_downsamples == (1.0, pytest.approx((301 / 76 + 203 / 51) / 2))


@pytest.mark.parametrize(("shift", "levels"), [(0.25, 2), (0.5, 2), (3.0, 1)])
def test_a_level_that_begins_elsewhere_is_left_out(
    tmp_path: Path, shift: float, levels: int
) -> None:
    """Half a pixel is a matter of centres or corners; the slide's own place does not matter."""
    places = [(1000.0, 2000.0), (1000.0 + shift, 2000.0)]
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, halved(coded_pixels(*SIZE)), translations=places)
    with open_slide(path) as slide:
        assert len(slide.level_sizes) == levels
        assert slide.read_region((5, 7), level=0, size=(1, 1))[0, 0].tolist() == [5, 7, 7]


def test_levels_in_any_order_and_pictures_of_another_shape(tmp_path: Path) -> None:
    base = coded_pixels(*SIZE)
    small, other = base[::2, ::2], base[:100, :50]
    write_ome_zarr(tmp_path / "a.zarr", [small, base, other], factors=[2, 1, 1])
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.level_sizes == (SIZE, (151, 102))
        assert slide.mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (coded_pixels(64, 64).astype(np.uint16), "uint16 pixels; 8-bit"),
        (np.zeros((64, 64, 5), np.uint8), r"5 channels; one \(grey\) or three \(RGB\)"),
    ],
)
def test_what_is_not_read_says_why(tmp_path: Path, pixels: NDArray[Any], message: str) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [pixels])
    with pytest.raises(SlideOpenError, match=message):
        open_slide(tmp_path / "a.zarr")


def test_chunks_too_large_to_decode_are_refused(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", [coded_pixels(64, 64)])
    path = tmp_path / "a.zarr" / "0" / "zarr.json"
    document = json.loads(path.read_text())
    document["chunk_grid"]["configuration"]["chunk_shape"] = [1, 20_000, 20_000]
    path.write_text(json.dumps(document))
    with pytest.raises(SlideOpenError, match="381 MiB each; up to 256 MiB are read: write it anew"):
        open_slide(tmp_path / "a.zarr")


def test_several_times_are_no_slide_and_of_several_planes_the_middle_is_read(
    tmp_path: Path,
) -> None:
    stack = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    data = np.arange(5, dtype=np.uint8).reshape(1, 1, 5, 1, 1) + np.zeros((1, 3, 1, 8, 8), np.uint8)
    stack["0"] = data
    axes = [{"name": name} for name in "tczyx"]
    image = {"axes": axes, "datasets": [{"path": "0"}]}
    stack.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    with open_slide(tmp_path / "a.zarr") as slide:
        assert (slide.read_region((0, 0), level=0, size=(8, 8)) == 2).all()
        assert "5 focal planes: plane 3 is read" in slide.warnings
    del stack["0"]
    stack["0"] = np.zeros((2, 3, 1, 8, 8), np.uint8)
    with pytest.raises(SlideOpenError, match="2 pictures along t, not one"):
        open_slide(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "a Zarr group without OME-NGFF multiscales"),
        ({"ome": {"version": "0.5", "plate": {}}}, "a plate of many images"),
        ({"ome": {"version": "0.6", "multiscales": [{}]}}, "OME-NGFF 0.6; 0.4 and 0.5 are read"),
        ({"multiscales": [{"version": "0.2"}]}, "OME-NGFF 0.2; 0.4 and 0.5"),
        ({"multiscales": []}, "without OME-NGFF multiscales"),
        ({"multiscales": [{"axes": 5, "datasets": []}]}, "malformed multiscales"),
        ({"multiscales": [{"axes": [{"name": "x"}], "datasets": []}]}, "malformed multiscales"),
        ({"multiscales": [{"axes": [{"name": "x"}, {"name": "y"}], "datasets": [{"path": "9"}]}]},
         "9 is no array of 2 axes"),
        ({"multiscales": [{"axes": [{"name": "x"}, {"name": "y"}], "datasets": [{
            "path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0, 1]}]}]}]},
         r"scale \[0\.0, 1\.0\]"),
        ({"multiscales": [{"axes": [{"name": "x"}, {"name": "y"}], "datasets": [{
            "path": "0", "coordinateTransformations": [{"type": "affine"}]}]}]},
         "coordinate transformation"),
        ({"multiscales": [{"axes": [{"name": "y"}, {"name": "x"}],
                           "datasets": [{"path": "../../etc"}]}]}, "a.zarr"),
    ],
)  # fmt: skip
def test_malformed_metadata_is_refused_by_name(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3, attributes=attributes)
    with pytest.raises(SlideOpenError, match=message):
        open_slide(tmp_path / "a.zarr")


def test_a_folder_or_file_that_is_no_zarr_group(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    (tmp_path / "b.ozx").write_text("no zip")
    for name, message in (("a.zarr", "a.zarr"), ("b.ozx", "neither a folder nor a zip file")):
        with pytest.raises(SlideOpenError, match=message):
            open_slide(tmp_path / name)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("codec", ["pickle", "lzma"])
@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_chunks_are_not_unpickled_and_unbounded_codecs_not_run(
    tmp_path: Path, codec: str, place: str
) -> None:
    """Zarr's v2 format knows a codec that runs what a chunk says."""
    path, marker = tmp_path / "a.zarr", tmp_path / "ran"
    write_ome_zarr(path, [coded_pixels(64, 64)], version="0.4", compressors=numcodecs.Zstd())
    document = json.loads((path / "0" / ".zarray").read_text())
    document["compressor"] = None
    document[place] = {"id": codec} if place == "compressor" else [{"id": codec}]
    (path / "0" / ".zarray").write_text(json.dumps(document))
    (path / "0" / "0" / "0" / "0").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(SlideOpenError, match=codec):
        open_slide(path)
    assert not marker.exists()


def test_a_chunk_far_larger_than_its_pixels_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [coded_pixels(64, 64)])
    with (path / "0" / "c" / "0" / "0" / "0").open("ab") as file:
        file.truncate(1 << 40)  # sparse: takes no room
    with (
        open_slide(path) as slide,
        pytest.raises(SlideReadError, match="more than 73728 bytes"),
    ):
        slide.read_region((0, 0), level=0, size=(8, 8))


def test_a_shard_whose_index_leads_astray(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [coded_pixels(256, 256)], shard=256, chunk=64)
    shard = path / "0" / "c" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[-20:-12] = (1 << 62).to_bytes(8, "little")
    shard.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideReadError, match="tile 0, 0"):
        slide.read_region((0, 0), level=0, size=(8, 8))


def test_an_array_that_claims_more_than_any_memory(tmp_path: Path) -> None:
    """10^9 x 10^9 px that were never written would be the fill value: no slide has such a side."""
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, [coded_pixels(64, 64)], fill_value=255)
    document = json.loads((path / "0" / "zarr.json").read_text())
    document["shape"] = [3, 10**9, 10**9]
    (path / "0" / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(SlideOpenError, match="states 1000000000 x 1000000000 px"):
        open_slide(path)


def test_our_own_store_is_no_slide(tissue_path: Path, tmp_path: Path) -> None:
    store = make_store(tissue_path, tmp_path / "tissue.zarr")
    with pytest.raises(SlideOpenError, match="a slide store, not a slide"):
        open_slide(store.path)


@pytest.mark.parametrize("prefix", ["", "image.zarr/"])
def test_zipped(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "a.zarr"
    pixels = coded_pixels(*SIZE)
    write_ome_zarr(folder, [pixels])
    path = tmp_path / "a.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + file.relative_to(folder).as_posix())
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_region((0, 0), level=0, size=SIZE), pixels)
    assert read_source(str(path)).quick_hash == read_source(str(folder)).quick_hash


def test_by_url(tmp_path: Path) -> None:
    write_ome_zarr(tmp_path / "a.zarr", halved(coded_pixels(*SIZE)))
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "a.zarr"), "/bucket/a.zarr", recursive=True)
    url = "memory://bucket/a.zarr"
    with open_slide(url) as slide:
        assert slide.level_sizes == (SIZE, (151, 102))
        found = slide.read_region((0, 0), level=0, size=SIZE)
        assert np.array_equal(found, coded_pixels(*SIZE))
    assert read_source(url).quick_hash == read_source(str(tmp_path / "a.zarr")).quick_hash
    assert read_source(url).name == "a.zarr"
    with pytest.raises(SlideOpenError, match="nothing.zarr"):
        open_slide("memory://bucket/nothing.zarr")


def test_the_identity_follows_the_pixels_and_not_what_viewers_add(tmp_path: Path) -> None:
    group = write_ome_zarr(tmp_path / "a.zarr", [coded_pixels(*SIZE)])
    first = read_source(str(tmp_path / "a.zarr"))
    group.attrs["omero"] = {"channels": []}
    assert read_source(str(tmp_path / "a.zarr")) == first
    group["0"][0, 0, 0] = 99
    assert read_source(str(tmp_path / "a.zarr")).quick_hash != first.quick_hash


def test_pickled_slides_read_on(coded_path: Path) -> None:
    with open_slide(coded_path) as slide, pickle.loads(pickle.dumps(slide)) as other:  # noqa: S301
        one = slide.read_region((30, 20), level=0, size=(99, 88))
        assert np.array_equal(other.read_region((30, 20), level=0, size=(99, 88)), one)


COMPANION = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="40"/></Instrument>
<Image ID="Image:0" Name="x.svs"><ObjectiveSettings ID="O:0"/>
<Pixels SizeX="301" SizeY="203" PhysicalSizeX="0.25" PhysicalSizeY="0.25"/></Image>
<Image ID="Image:1" Name="label image"><Pixels SizeX="40" SizeY="30"/></Image>
<Image ID="Image:2" Name="macro image"><Pixels SizeX="90" SizeY="33"/></Image></OME>"""


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_group_of_several_images_as_bioformats2raw_writes_it(
    tmp_path: Path, version: str
) -> None:
    """The largest is the slide, the others are associated images named by the OME-XML."""
    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    layout = {"bioformats2raw.layout": 3}
    root.attrs.update(layout if version == "0.4" else {"ome": {"version": version, **layout}})
    for number, size in enumerate((SIZE, (40, 30), (90, 33))):
        write_ome_zarr(path, [coded_pixels(*size)], version=version, group_path=str(number),
                       scale=(0.25, 0.25))  # fmt: skip
    (path / "OME").mkdir()
    (path / "OME" / "METADATA.ome.xml").write_text(COMPANION)
    with open_slide(path) as slide:
        assert slide.size == SIZE
        assert slide.associated_names == ("label", "macro")
        assert np.array_equal(slide.read_associated("label"), coded_pixels(40, 30))
        assert [c.source for c in slide.resolution.candidates] == ["ome.PhysicalSize", "ngff.scale"]
        assert slide.properties["ome.NominalMagnification"] == "40"
    with open_slide(path / "1") as slide:
        assert slide.size == (40, 30)
