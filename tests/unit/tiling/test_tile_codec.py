"""The Zarr codec over stored tiles: its configuration and the bytes may come from anybody."""

from __future__ import annotations

import json
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from tiling.errors import SlideReadError
from tiling.readers.tile_codec import CODEC_NAME, StoredTileCodec, TileFormat

JPEG_YCBCR = {"compression": 7, "photometric": 6, "samples": 3}
LZW_RGB = {"compression": 5, "photometric": 2, "samples": 3, "predictor": 2}


def array_of(
    configuration: dict[str, Any],
    chunk: bytes | None,
    tile: tuple[int, int] = (64, 48),
    **changes: Any,
) -> zarr.Array[Any]:
    """Return a one-chunk array as a stranger could write it: any metadata, any bytes."""
    shape = [3, *tile]
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 255,
        "codecs": [
            {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
            {"name": CODEC_NAME, "configuration": configuration},
        ],
        "attributes": {},
    } | changes
    buffer = zarr.core.buffer.cpu.Buffer.from_bytes
    values = {"zarr.json": buffer(json.dumps(document).encode())}
    if chunk is not None:
        values["c/0/0/0"] = buffer(chunk)
    return zarr.open_array(MemoryStore(values), mode="r")


def test_any_zarr_array_of_such_tiles_is_decoded() -> None:
    """A copy of the chunks in another store reads the same: the configuration says it all."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    chunk = imagecodecs.lzw_encode(imagecodecs.delta_encode(pixels, axis=1))
    assert np.array_equal(array_of(LZW_RGB, chunk)[...], pixels.transpose(2, 0, 1))
    assert (array_of(LZW_RGB, None)[...] == 255).all()


def test_tables_travel_in_the_configuration() -> None:
    """An abbreviated stream (TIFF technical note 2) is nothing without its tables."""
    pixels = np.full((64, 48, 3), (200, 30, 90), np.uint8)
    stream = imagecodecs.jpeg8_encode(pixels, level=95)
    start, end = stream.index(b"\xff\xdb"), stream.index(b"\xff\xc0")
    tables = b"\xff\xd8" + stream[start:end] + b"\xff\xd9"
    form = TileFormat(7, 6, 3, subsampling=(2, 2), jpeg_tables=tables)
    array = array_of(form.to_configuration(), stream[:start] + stream[end:])
    assert np.abs(array[...].astype(int) - pixels.transpose(2, 0, 1)).max() <= 2
    bare = array_of(JPEG_YCBCR, stream[:start] + stream[end:])
    with pytest.raises(SlideReadError, match="a stored tile: "):
        bare[...]


def test_the_configuration_survives_json() -> None:
    codec = StoredTileCodec(
        TileFormat(
            7, 2, 3, predictor=1, extra_samples=(), subsampling=(2, 1), jpeg_tables=b"\0\xff"
        )
    )
    assert StoredTileCodec.from_dict(json.loads(json.dumps(codec.to_dict()))) == codec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compression": 99}, "compression 99"),
        ({"compression": "7"}, "compression='7'"),
        ({"compression": True}, "compression=True"),
        ({"compression": -1}, "compression=-1"),
        ({"compression": 1 << 16}, "compression=65536"),
        ({"samples": 65535}, "65535 samples"),
        ({"samples": 0}, "0 samples"),
        ({"photometric": 3}, "photometric interpretation 3"),
        ({"predictor": 1.0}, "predictor=1.0"),
        ({"extra_samples": [0] * 5}, "extra_samples="),
        ({"extra_samples": 3}, "extra_samples=3"),
        ({"subsampling": ["2", 2]}, "subsampling="),
        ({"jpeg_tables": "%%"}, "not base64"),
        ({"jpeg_tables": 5}, "not base64"),
        ({"jpeg_tables": "A" * 100_000}, "jpeg_tables="),
        ({"is_tiled": 1}, "is_tiled=1"),
        ({"eval": "x"}, r"unknown \['eval'\]"),
        ({"samples": None}, "samples=None"),
    ],
)
def test_a_hostile_configuration_is_refused_when_it_is_opened(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        array_of(JPEG_YCBCR | change, b"")


@pytest.mark.parametrize("configuration", [{}, {"compression": 7}])
def test_an_incomplete_configuration_is_refused(configuration: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="missing"):
        array_of(configuration, b"")


@pytest.mark.parametrize("data", [{"name": CODEC_NAME}, {"configuration": [1]}])
def test_a_codec_without_a_configuration_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="configuration="):
        StoredTileCodec.from_dict(data)


def test_a_chunk_that_no_stored_tile_can_be_is_refused() -> None:
    """Nothing of that size is made; 2**16 px on a side would take 12 GiB."""
    for edge in (1 << 16, 1 << 40):
        array = array_of(LZW_RGB, b"\0" * 100, (edge, edge))
        with pytest.raises(SlideReadError, match="a stored tile: "):
            array[:, :2, :2]
    wide = array_of(LZW_RGB, b"\0" * 100, data_type="uint16")
    with pytest.raises(SlideReadError, match="chunks of uint16"):
        wide[...]


def test_streams_that_claim_more_than_a_tile_are_refused() -> None:
    """A JPEG 2000 and a JPEG stream state their size; neither is believed."""
    big = np.zeros((640, 480, 3), np.uint8)
    jpeg_2000 = imagecodecs.jpeg2k_encode(big, codecformat="j2k")
    for configuration, stream in (
        ({"compression": 33005, "photometric": 2, "samples": 3}, jpeg_2000),
        (JPEG_YCBCR, imagecodecs.jpeg8_encode(big)),
    ):
        with pytest.raises(SlideReadError, match="a stored tile: "):
            array_of(configuration, stream)[...]


@pytest.mark.parametrize("compression", [1, 5, 7, 8, 32773, 33003, 34925, 50000, 50001])
def test_rubbish_is_a_typed_error(compression: int) -> None:
    photometric = 6 if compression == 7 else 2
    configuration = {"compression": compression, "photometric": photometric, "samples": 3}
    rng = np.random.default_rng(compression)
    for length in (0, 1, 100, 5000):
        with pytest.raises(SlideReadError, match="a stored tile: "):
            array_of(configuration, rng.bytes(length))[...]


def test_it_never_encodes() -> None:
    group = zarr.create_group(MemoryStore())
    array = group.create_array(
        "a",
        shape=(3, 64, 48),
        chunks=(3, 64, 48),
        dtype=np.uint8,
        filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))],
        serializer=StoredTileCodec(TileFormat(**LZW_RGB)),
        compressors=None,
    )
    with pytest.raises(NotImplementedError, match="never writes"):
        array[...] = 5
