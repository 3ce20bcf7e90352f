"""Sizes that streams state, against encoders that are not ours."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tiling.readers.stream_check import check_stream

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def pillow(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(PIXELS)
    (image.convert("RGBA") if kind == "webp" else image).save(file, kind, **options)
    return file.getvalue()


STREAMS = {
    "jpeg": (7, pillow("jpeg")),
    "progressive jpeg": (7, pillow("jpeg", progressive=True, comment=b"\xff\xc0" * 9)),
    "j2k": (33005, bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k"))),
    "jp2": (34712, bytes(imagecodecs.jpeg2k_encode(PIXELS, codecformat="jp2"))),
    "webp": (50001, bytes(imagecodecs.webp_encode(PIXELS, lossless=False))),
    "lossless webp": (50001, bytes(imagecodecs.webp_encode(PIXELS, lossless=True))),
    "webp with alpha": (50001, pillow("webp")),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_the_size_is_found(kind: str) -> None:
    compression, data = STREAMS[kind]
    check_stream(data, compression, (48, 80))
    check_stream(data, compression, (64, 60))  # a strip's or tile's padding: as many pixels
    with pytest.raises(ValueError, match="the stream states 80 x 48 px, not 80 x 47"):
        check_stream(data, compression, (47, 80))


@pytest.mark.parametrize("kind", STREAMS)
def test_what_is_cut_off_states_nothing_or_the_same(kind: str) -> None:
    """Then the decoder refuses it; this must not."""
    compression, data = STREAMS[kind]
    for size in range(0, len(data), 7):
        check_stream(data[:size], compression, (48, 80))


def test_other_compressions_pass() -> None:
    check_stream(STREAMS["jpeg"][1], 8, (1, 1))


def test_jpeg_2000_of_very_many_tiles() -> None:
    """OpenJPEG takes memory for each tile of a stream at once: 10^9 px in tiles of 1 x 1."""
    data = bytearray(STREAMS["j2k"][1])
    data[24:32] = (1).to_bytes(4, "big") * 2  # XTsiz, YTsiz (ITU-T T.800, A.5.1)
    with pytest.raises(ValueError, match="tiles of 1 x 1 px"):
        check_stream(bytes(data), 33005, (48, 80))


def test_jpeg_2000_of_very_many_components() -> None:
    data = bytearray(STREAMS["j2k"][1])
    data[40:42] = (17).to_bytes(2, "big")  # Csiz
    with pytest.raises(ValueError, match="17 components"):
        check_stream(bytes(data), 33005, (48, 80))
