"""`slide_as_zarr`: the slide's own tiles as Zarr chunks, by two ways that give the same pixels."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from tests.conftest import CODED_SIZE, coded_pixels, write_lossless
from tiling import open_slide, slide_as_zarr
from tiling.errors import SlideOpenError, SlideReadError
from tiling.write import write_slide

SIZE = (333, 201)
KINDS: dict[str, dict[str, Any]] = {
    "none": {"compression": None},
    "lzw": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "adobe_deflate", "predictor": True},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
    "jpeg 2000": {"compression": 33005, "compressionargs": {"reversible": True}},
    "jpeg rgb": {"compression": "jpeg", "compressionargs": {"outcolorspace": "RGB"}},
    "jpeg 4:2:0": {"compression": "jpeg", "subsampling": (2, 2)},
    "jpeg 4:2:2": {"compression": "jpeg", "subsampling": (2, 1)},
}
LOSSLESS = list(KINDS)[:7]
CHUNKS = {"tiles": {"tile": (64, 48)}, "strips": {"rowsperstrip": 40}}


def write_kind(path: Path, kind: str, **options: Any) -> Path:
    """Write odd-sized coded pixels; neither tiles nor strips divide them."""
    pixels = coded_pixels(*SIZE)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, **KINDS[kind], **options)
    return path


def whole(path: Path, level: int = 0) -> NDArray[np.uint8]:
    """Return a level by the slide reader, as (c, y, x)."""
    with open_slide(path) as slide:
        size = slide.level_sizes[level]
        return slide.read_region((0, 0), level=level, size=size).transpose(2, 0, 1)


def by_zarr(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array as Zarr itself reads it: store, event loop, codecs."""
    return zarr.Array(array.async_array)


@pytest.fixture(scope="module")
def sparse_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coded pixels whose tile in column 2, row 1 was never scanned: offset and count are 0."""
    pixels = coded_pixels(300, 200)
    tiles = [
        None if (row, column) == (1, 2) else np.ascontiguousarray(
            np.pad(part := pixels[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64],
                   ((0, 64 - part.shape[0]), (0, 64 - part.shape[1]), (0, 0)))
        )
        for row in range(4)
        for column in range(5)
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("sparse") / "sparse.tif"
    tifffile.imwrite(
        path, iter(tiles), shape=pixels.shape, dtype=np.uint8, tile=(64, 64), photometric="rgb",
        compression="adobe_deflate", metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].databytecounts[7] == 0
    return path


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tile_reads_as_by_the_reader(tmp_path: Path, kind: str, chunks: str) -> None:
    """Odd sizes, padded tiles at the edges, a last strip of fewer rows; exactly, both ways."""
    path = write_kind(tmp_path / "a.tif", kind, **CHUNKS[chunks])
    array = slide_as_zarr(path)["0"]
    expected = whole(path)
    assert array.shape == (3, SIZE[1], SIZE[0])
    assert np.array_equal(array[...], expected)
    assert np.array_equal(by_zarr(array)[...], expected)
    if kind in LOSSLESS:
        assert np.array_equal(expected, coded_pixels(*SIZE).transpose(2, 0, 1))


@pytest.mark.parametrize("samples", [1, 4])
def test_grey_and_rgba_are_rgb(tmp_path: Path, samples: int) -> None:
    rng = np.random.default_rng(samples)
    pixels = rng.integers(0, 256, (130, 150, samples), np.uint8)
    path = tmp_path / "a.tif"
    photometric, extra = ("minisblack", None) if samples == 1 else ("rgb", ["unassalpha"])
    tifffile.imwrite(path, pixels[..., 0] if samples == 1 else pixels, tile=(64, 64),
                     photometric=photometric, extrasamples=extra, metadata=None,
                     compression="zstd")  # fmt: skip
    array = slide_as_zarr(path)["0"]
    assert np.array_equal(array[...], whole(path))
    assert np.array_equal(by_zarr(array)[...], whole(path))


def test_philips_levels_leave_out_the_padding_that_their_pages_count(tmp_path: Path) -> None:
    """OpenSlide's rule: a level's size follows from its pixel spacing, not from its page."""
    levels = "".join(
        "<DataObject ObjectType='PixelDataRepresentation'>"
        f"<Attribute Name='DICOM_PIXEL_SPACING'>&quot;{mm}&quot; &quot;{mm}&quot;</Attribute>"
        "</DataObject>"
        for mm in (0.00025, 0.0005)
    )
    description = (
        "<DataObject ObjectType='DPUfsImport'><DataObject ObjectType='DPScannedImage'>"
        f"<Attribute Name='PIM_DP_IMAGE_TYPE'>WSI</Attribute>{levels}</DataObject></DataObject>"
    )
    path = tmp_path / "philips.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for size, text in (((320, 320), description), ((192, 192), None)):
            tiff.write(
                coded_pixels(*size), tile=(64, 64), compression="zstd", photometric="rgb",
                description=text, software="Philips DP v1.0" if text else False, metadata=None,
            )  # fmt: skip
    group = slide_as_zarr(path)
    assert [group[level].shape for level in ("0", "1")] == [(3, 320, 320), (3, 160, 160)]
    expected = coded_pixels(192, 192)[:160, :160].transpose(2, 0, 1)
    assert np.array_equal(group["1"][...], expected)
    assert np.array_equal(by_zarr(group["1"])[...], expected)
    [multiscale] = group.attrs["ome"]["multiscales"]
    assert multiscale["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_a_pyramid_equals_openslides(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    """libjpeg-turbo on both sides: exactly, at every level."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(90, 250, (41, 61, 3), np.uint8)
    pixels = coarse.repeat(25, 0).repeat(25, 1)[:1009, :1511]
    path = write_slide(
        tmp_path / "a.tif", pixels, mpp=0.243, downsamples=(1, 4), subsampling=subsampling
    )
    group = slide_as_zarr(path)
    with open_slide(path, reader="openslide") as theirs:
        assert sorted(group) == ["0", "1"]
        for level, size in enumerate(theirs.level_sizes):
            expected = theirs.read_region((0, 0), level=level, size=size).transpose(2, 0, 1)
            assert np.array_equal(group[str(level)][...], expected)
            assert np.array_equal(by_zarr(group[str(level)])[...], expected)


def test_a_level_is_the_stored_tiles_transposed(coded_path: Path) -> None:
    """Zarr v3 core: the transpose codec; one chunk is one stored tile, whole at the edges too."""
    level = slide_as_zarr(coded_path)["1"]
    assert (level.shape, level.chunks, level.dtype) == ((3, 503, 651), (3, 64, 64), np.uint8)
    assert level.metadata.dimension_names == ("c", "y", "x")
    assert level.fill_value == 255
    names = [codec.to_dict()["name"] for codec in level.metadata.codecs]
    assert names == ["transpose", "wsi_pipeline.stored_tile"]
    assert level[:, 3, 200].tolist() == [400 % 256, 6, 7]  # level 0 at (400, 6)


def test_a_chunk_is_a_range_of_the_file(coded_path: Path) -> None:
    """No byte is copied or recoded: the store's value is what the TIFF's tables point at."""
    store = slide_as_zarr(coded_path).store
    with tifffile.TiffFile(coded_path) as tiff:
        page = tiff.pages[1]
        index = 2 * -(-page.imagewidth // 64) + 5
        start, count = page.dataoffsets[index], page.databytecounts[index]
    prototype = zarr.core.buffer.default_buffer_prototype()

    def value(key: str, wanted: Any = None) -> bytes:
        return zarr.core.sync.sync(store.get(key, prototype, wanted)).to_bytes()

    stored = coded_path.read_bytes()[start : start + count]
    assert value("1/c/0/2/5") == stored
    assert zarr.core.sync.sync(store.getsize("1/c/0/2/5")) == count
    assert value("1/c/0/2/5", zarr.abc.store.RangeByteRequest(3, 9)) == stored[3:9]
    assert value("1/c/0/2/5", zarr.abc.store.OffsetByteRequest(7)) == stored[7:]
    assert value("1/c/0/2/5", zarr.abc.store.SuffixByteRequest(4)) == stored[-4:]


def test_keys_that_are_not_there(coded_path: Path) -> None:
    store = slide_as_zarr(coded_path).store
    prototype = zarr.core.buffer.default_buffer_prototype()
    for key in ("0/c/0/0/21", "0/c/0/16/0", "2/c/0/0/0", "0/c/1/0/0", "0/c/0/-1/0", "0/c/0/00/0",
                "0/c/0/0", "c/0/0/0", "", "0/zarr.json/x", "9" * 40 + "/c/0/0/0"):  # fmt: skip
        assert zarr.core.sync.sync(store.get(key, prototype)) is None, key
        assert not zarr.core.sync.sync(store.exists(key)), key
    assert zarr.core.sync.sync(store.exists("0/c/0/15/20"))


def listed(iterator: Any) -> list[str]:
    async def collect() -> list[str]:
        return [key async for key in iterator]

    return zarr.core.sync.sync(collect())


def test_tiles_that_were_never_scanned_are_white_and_missing(sparse_path: Path) -> None:
    group = slide_as_zarr(sparse_path)
    expected = coded_pixels(300, 200).transpose(2, 0, 1)
    expected[:, 64:128, 128:192] = 255
    assert np.array_equal(group["0"][...], expected)
    assert np.array_equal(by_zarr(group["0"])[...], expected)
    keys = listed(group.store.list())
    assert len(keys) == 2 + 4 * 5 - 1
    assert "0/c/0/1/2" not in keys
    assert by_zarr(group["0"]).nchunks_initialized == 19


def test_the_store_lists_itself_as_zarr_expects(coded_path: Path) -> None:
    store = slide_as_zarr(coded_path).store
    assert listed(store.list_dir("")) == ["zarr.json", "0", "1"]
    assert listed(store.list_dir("1")) == ["zarr.json", "c"]
    assert listed(store.list_dir("1/c/0/")) == [str(row) for row in range(8)]
    assert listed(store.list_prefix("1/c/0/3/")) == [f"1/c/0/3/{column}" for column in range(11)]


SELECTIONS: list[Any] = [
    ..., (), 1, -1, np.int64(2), slice(None), slice(1, None), slice(0, 0),
    (0, slice(5, 9)), (slice(None), slice(60, 70), slice(-70, None)),
    (slice(2), ..., slice(3, 900)),
    (..., 4), (..., slice(10, 4)), (0, 3, 5), (slice(None), 7), (slice(None), 7, slice(2, 5)),
    (slice(None), slice(0, 100, 3), slice(1, 2)), (2, ..., slice(63, 65)), (..., 1, slice(0, 2), 0),
    (slice(None), [3, 70, 150], slice(0, 9)), ([0, 1], [5, 6], [7, 8]),
]  # fmt: skip


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_selections_mean_what_they_mean_in_numpy(sparse_path: Path, selection: Any) -> None:
    level = slide_as_zarr(sparse_path)["0"]
    expected = np.asarray(by_zarr(level)[...])[selection]
    found = np.asarray(level[selection])
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)
    assert np.array_equal(np.asarray(by_zarr(level)[selection]), expected)


@pytest.mark.parametrize("selection", [3, -4, (0, 0, 0, 0), (..., ...), (0, 201, 0), "a"], ids=str)
def test_wrong_selections_raise_what_zarr_raises(sparse_path: Path, selection: Any) -> None:
    level = slide_as_zarr(sparse_path)["0"]
    with pytest.raises(Exception) as theirs:  # noqa: PT011 (whatever Zarr raises)
        by_zarr(level)[selection]
    with pytest.raises(theirs.type):
        level[selection]


def test_random_boxes_equal_the_whole(coded_path: Path) -> None:
    """Bands, edges, one pixel: the fast way cuts what NumPy cuts."""
    level = slide_as_zarr(coded_path)["0"]
    expected = coded_pixels(*CODED_SIZE).transpose(2, 0, 1)
    rng = np.random.default_rng(0)
    for _ in range(40):
        (y0, y1), (x0, x1) = (np.sort(rng.integers(0, n, 2)).tolist() for n in CODED_SIZE[::-1])
        assert np.array_equal(level[:, y0 : y1 + 1, x0 : x1 + 1],
                              expected[:, y0 : y1 + 1, x0 : x1 + 1])  # fmt: skip


def test_a_level_wider_than_a_band_is_read_in_bands(
    coded_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiling.readers.tile_store.BAND_BYTES", 3 * 1302 * 64 * 2)
    level = slide_as_zarr(coded_path)["0"]
    asked = []
    read_boxes = level.store.tiles.read_boxes
    monkeypatch.setattr(
        level.store.tiles, "read_boxes", lambda *a: asked.append(a[1][0]) or read_boxes(*a)
    )
    assert np.array_equal(level[:, 70:, :], coded_pixels(*CODED_SIZE).transpose(2, 0, 1)[:, 70:])
    assert [(box.top, box.bottom) for box in asked][:2] == [(70, 128), (128, 256)]
    assert asked[-1].bottom == 1006


def test_ome_metadata(coded_path: Path) -> None:
    """OME-NGFF 0.5: channel before space, scale before translation, pixel centres from 0."""
    from ome_zarr_models.v05.image import Image

    group = slide_as_zarr(coded_path)
    image = Image.from_zarr(group).attributes.ome
    multiscale = image.multiscales[0]
    axes = [(axis.name, axis.type, axis.unit) for axis in multiscale.axes]
    assert axes == [("c", "channel", None), ("y", "space", "micrometer"),
                    ("x", "space", "micrometer")]  # fmt: skip
    transforms = [
        [t.scale if t.type == "scale" else t.translation for t in d.coordinateTransformations]
        for d in multiscale.datasets
    ]
    assert transforms == [[[1.0, 0.5, 0.5], [0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0], [0.0, 0.25, 0.25]]]
    channels = group.attrs["ome"]["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]


def test_a_pixel_size_that_is_not_known_is_not_claimed(tmp_path: Path, coded_path: Path) -> None:
    """Level-0 pixels without a unit, where none is stated or the one stated is a placeholder."""
    levels = [coded_pixels(200, 100), coded_pixels(50, 25)]
    for mpp in (None, 352.8):
        path = write_lossless(tmp_path / f"{mpp}.tif", levels, mpp)
        [multiscale] = slide_as_zarr(path).attrs["ome"]["multiscales"]
        assert not any("unit" in axis for axis in multiscale["axes"])
        scales = [d["coordinateTransformations"][0]["scale"] for d in multiscale["datasets"]]
        assert scales == [[1.0, 1.0, 1.0], [1.0, 4.0, 4.0]]
    [given] = slide_as_zarr(path, mpp=(0.25, 0.3)).attrs["ome"]["multiscales"]
    assert given["axes"][1] == {"name": "y", "type": "space", "unit": "micrometer"}
    assert given["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 0.3, 0.25]
    with pytest.raises(ValueError, match=r"mpp=-1: must be positive"):
        slide_as_zarr(path, mpp=-1)


def test_nothing_can_be_written(coded_path: Path) -> None:
    group = slide_as_zarr(coded_path)
    before = coded_path.read_bytes()
    with pytest.raises(NotImplementedError, match="never writes"):
        group["0"][:, :64, :64] = 0
    with pytest.raises(ValueError, match="read.only"):
        group["0"][:, :64, :64] = 255  # the fill value: Zarr would delete the chunk
    with pytest.raises(ValueError, match="read.only"):
        group.attrs["ome"] = {}
    with pytest.raises(ValueError, match="read.only"):
        group.create_array("2", shape=(3, 4, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match="read.only"):
        zarr.core.sync.sync(group.store.delete("0/zarr.json"))
    with pytest.raises(ValueError, match="read.only"):
        zarr.open_group(group.store, mode="w")
    assert coded_path.read_bytes() == before
    assert sorted(group) == ["0", "1"]


def test_it_pickles_as_the_path(coded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path too, from another working folder."""
    monkeypatch.chdir(coded_path.parent)
    group = slide_as_zarr(coded_path.name)
    frozen = pickle.dumps(group)
    assert len(frozen) < 10_000
    monkeypatch.chdir("/")
    thawed = pickle.loads(frozen)  # noqa: S301
    assert type(thawed["1"]) is type(group["1"])
    assert thawed.store == group.store
    assert np.array_equal(thawed["1"][...], group["1"][...])
    level = pickle.loads(pickle.dumps(group["0"]))  # noqa: S301
    assert level[:, 508, 1021].tolist() == [1021 % 256, 508 % 256, 7]


def test_a_fresh_interpreter_finds_the_codec_by_its_entry_point(tmp_path: Path) -> None:
    """A pickled level is read by a process that never imported this package itself."""
    path = write_kind(tmp_path / "a.tif", "jpeg 4:2:0", tile=(64, 48))
    (tmp_path / "level.pickle").write_bytes(pickle.dumps(slide_as_zarr(path)["0"].async_array))
    code = (
        "import sys, pickle, zarr, zarr.registry\n"
        "print(zarr.registry.get_codec_class('wsi_pipeline.stored_tile').__name__)\n"
        "level = zarr.Array(pickle.load(open(sys.argv[1], 'rb')))\n"
        "print(int(level[...].astype(int).sum()))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "level.pickle"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    total = int(whole(path).astype(int).sum())
    assert found.stdout.split() == ["StoredTileCodec", str(total)]


@pytest.mark.parametrize("chunks", [None, (3, 256, 256)])
def test_dask_reads_it_lazily(coded_path: Path, chunks: tuple[int, ...] | None) -> None:
    lazy = da.from_zarr(slide_as_zarr(coded_path)["0"], chunks=chunks)
    assert (lazy.shape, lazy.dtype) == ((3, *CODED_SIZE[::-1]), np.uint8)
    expected = coded_pixels(*CODED_SIZE).transpose(2, 0, 1)
    found = lazy[:, 100:700, 300:].compute(scheduler="threads", num_workers=4)
    assert np.array_equal(found, expected[:, 100:700, 300:])


@pytest.mark.slow
def test_spawned_workers_read_it(tissue_path: Path) -> None:
    """dask.distributed: the group travels as a path, and each worker opens the slide itself."""
    from distributed import Client, LocalCluster

    lazy = da.from_zarr(slide_as_zarr(tissue_path)["0"], chunks=(3, 512, 512))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        found = client.compute(lazy, sync=True)
        pids = set(client.run(os.getpid).values())
    assert os.getpid() not in pids
    assert np.array_equal(found, whole(tissue_path))


def test_napari_shows_it_as_a_multiscale_image(coded_path: Path) -> None:
    """napari slices the levels itself; the value under the mouse is the slide's."""
    from napari.components import ViewerModel

    group = slide_as_zarr(coded_path)
    viewer = ViewerModel()
    layers = viewer.add_image([group["0"], group["1"]], channel_axis=0, multiscale=True)
    assert len(layers) == 3
    red = layers[0]
    level = red.data_level
    step = 2**level
    assert red.get_value((100 * step, 150 * step))[1] == 150 * step % 256


def test_it_reads_from_a_url(tissue_path: Path) -> None:
    import fsspec

    url = "memory://bucket/as_zarr/remote.tif"
    with fsspec.open(url, "wb") as file:
        file.write(tissue_path.read_bytes())
    group = slide_as_zarr(url)
    expected = whole(tissue_path)
    assert group.attrs["ome"]["multiscales"][0]["name"] == "remote"
    assert np.array_equal(group["0"][:, 100:900, 500:1500], expected[:, 100:900, 500:1500])
    assert np.array_equal(by_zarr(group["0"])[:, :300, :300], expected[:, :300, :300])
    thawed = pickle.loads(pickle.dumps(group))  # noqa: S301
    assert thawed.store.source.path == url
    assert np.array_equal(thawed["1"][...], whole(tissue_path, 1))


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_tile_that_cannot_be_decoded_is_named(corrupt_path: Path, is_fast: bool) -> None:
    level = slide_as_zarr(corrupt_path)["0"]
    array = level if is_fast else by_zarr(level)
    with pytest.raises(SlideReadError, match=r"corrupt\.tif: level 0, stored tile 4, 3: "):
        array[:, 700:1100, 1000:1200]
    good = array[:, 768:1024, 768:1024]
    assert np.array_equal(good, whole_tile(corrupt_path, (768, 768)))


def whole_tile(path: Path, location: tuple[int, int]) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.read_region(location, level=0, size=(256, 256)).transpose(2, 0, 1)


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_file_that_ends_early_says_so(tissue_path: Path, tmp_path: Path, is_fast: bool) -> None:
    path = tmp_path / "short.tif"
    path.write_bytes(tissue_path.read_bytes())
    level = slide_as_zarr(path)["0"]
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages[0].dataoffsets[10] + 5
    os.truncate(path, end)
    array = level if is_fast else by_zarr(level)
    with pytest.raises(SlideReadError, match=r"stored tile 1, 1: the file ends after 5 of its"):
        array[:, 256:512, 256:512]


def test_what_has_no_stored_tiles_names_the_remedy(real_slides: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideOpenError, match=r"boxes_0\.dcm: .*read this slide with level_array"):
        slide_as_zarr(real_slides / "boxes_dicom" / "boxes_0.dcm")
    (tmp_path / "slide.mrxs").write_bytes(b"\xff\xd8\xff\xe0 a thumbnail")
    with pytest.raises(SlideOpenError, match=r"slide\.mrxs: .*level_array"):
        slide_as_zarr(tmp_path / "slide.mrxs")
    with pytest.raises(SlideOpenError, match=r"nothing\.svs: no such file"):
        slide_as_zarr(tmp_path / "nothing.svs")


def test_opening_reads_no_pixels(coded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise OSError("a tile was read")

    monkeypatch.setattr("tiling.readers.byte_source.LocalBytes.read", never)
    group = slide_as_zarr(coded_path)
    assert [(name, array.shape) for name, array in sorted(group.arrays())] == [
        ("0", (3, 1006, 1302)),
        ("1", (3, 503, 651)),
    ]
    with pytest.raises(SlideReadError, match="a tile was read"):
        group["0"][...]
