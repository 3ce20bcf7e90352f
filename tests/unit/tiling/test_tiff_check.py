"""What no sound TIFF states is refused before a library believes it; every sound one passes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.conftest import coded_pixels
from tests.robustness.fuzz_mutations import XML, Target
from tests.robustness.fuzz_slides import KINDS, TIFF_KINDS
from tiling import open_slide
from tiling.errors import SlideOpenError, UnsoundSlideError
from tiling.readers import tiff_check
from tiling.readers.tiff_check import check_tiff


def check(content: bytes, name: str = "slide.tif", *, with_counts: bool = True) -> None:
    check_tiff(io.BytesIO(content), name, with_counts=with_counts)


def slide(kind: str = "deflate.tif") -> bytes:
    """Return a small slide of three levels in tiles of 64 px: 4 x 3 of them on level 0."""
    file = io.BytesIO()
    pixels = coded_pixels(200, 150)
    with tifffile.TiffWriter(file, bigtiff=kind == "big.tif") as tiff:
        for step in (1, 2, 4):
            level = np.ascontiguousarray(pixels[::step, ::step])
            tiff.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                description="a slide",
                subifds=1 if step == 1 else None,
                metadata=None,
            )
    return file.getvalue()


@pytest.fixture(params=["deflate.tif", "big.tif"])
def target(request: pytest.FixtureRequest) -> Target:
    return Target.of(slide(request.param))


@pytest.mark.parametrize("kind", TIFF_KINDS)
def test_sound_slides_pass(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / kind, coded_pixels(300, 200))
    check((tmp_path / kind).read_bytes())


def test_real_slides_pass(real_slides: Path) -> None:
    for path in real_slides.rglob("*.*"):
        check(path.read_bytes(), path.name)


@pytest.mark.parametrize("size", [0, 1, 4, 7, 8, 16])
def test_what_is_cut_off_or_no_tiff_passes(size: int) -> None:
    """Readers say better what is wrong with it, and read what is left."""
    check(slide()[:size])
    check(slide()[:-size])
    check(b"\0" * size)


def test_the_file_is_left_at_its_start() -> None:
    """tifffile reads from where the file stands."""
    file = io.BytesIO(slide())
    check_tiff(file, "slide.tif")
    assert file.tell() == 0


@pytest.mark.parametrize("link", [1, 3])
def test_pages_in_a_loop(target: Target, link: int) -> None:
    first = target.tags[0][0].offset - (8 if target.is_big else 2)
    target.put(target.links[link], "Q" if target.is_big else "I", first)
    with pytest.raises(UnsoundSlideError, match=f"a loop at byte {first}"):
        check(target.content)


def test_a_page_that_is_its_own_sub_page(target: Target) -> None:
    [tag] = target.find(330)
    first = target.tags[0][0].offset - (8 if target.is_big else 2)
    target.put(tag.valueoffset, "Q" if target.is_big else "I", first)
    with pytest.raises(UnsoundSlideError, match="a loop"):
        check(target.content)


def test_pages_without_end(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_check, "MAX_PAGES", 3)
    check(target.content)
    monkeypatch.setattr(tiff_check, "MAX_PAGES", 2)
    with pytest.raises(UnsoundSlideError, match="more than 2 pages"):
        check(target.content)


def test_more_values_than_the_file_can_hold(target: Target) -> None:
    tag = target.find(270)[0]
    size = len(target.content)
    for count in (size, size + 1):
        target.put(tag.offset + 4, "Q" if target.is_big else "I", count)
        if count == size:
            check(target.content)
    with pytest.raises(UnsoundSlideError, match=f"tag 270 states {size + 1} values"):
        check(target.content)


def test_tables_that_no_memory_holds(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_check, "MAX_TABLE_VALUES", 40)
    with pytest.raises(UnsoundSlideError, match="at most 40"):
        check(target.content)


@pytest.mark.parametrize(("width", "height"), [(8192, 8208), (0, 64), (2**31, 2**31)])
def test_tiles_that_no_memory_holds(target: Target, width: int, height: int) -> None:
    target.restate(target.find(322)[0], width)
    target.restate(target.find(323)[0], height)
    with pytest.raises(UnsoundSlideError, match=f"stored tiles of {width} x {height} px"):
        check(target.content)


def test_tiles_in_the_tables_of_strips(target: Target) -> None:
    """So did writers before TIFF 6.0; libtiff and tifffile read it."""
    for code, other in ((324, 273), (325, 279)):
        for tag in target.find(code):
            target.put(tag.offset, "H", other)
    check(target.content)


def test_a_giant_size_needs_giant_tables(target: Target) -> None:
    """10^9 x 10^9 px cost nothing to claim; the tables of their tiles cost 10^15 bytes."""
    check(target.content)
    target.restate(target.find(256)[0], 4 * 64)  # still 4 columns of tiles
    check(target.content)
    target.restate(target.find(256)[0], 4 * 64 + 1)
    with pytest.raises(UnsoundSlideError, match="257 x 150 px, 15 stored tiles, but lists 12"):
        check(target.content)
    target.restate(target.find(256)[0], 10**9)
    target.restate(target.find(257)[0], 10**9)
    with pytest.raises(UnsoundSlideError, match="1000000000 x 1000000000 px"):
        check(target.content)


def test_a_giant_size_needs_many_strips() -> None:
    """tifffile takes what is missing for empty: 65,535 x 65,535 px of nothing."""
    file = io.BytesIO()
    tifffile.imwrite(file, coded_pixels(200, 150), photometric="rgb", rowsperstrip=16)
    target = Target.of(file.getvalue())
    target.restate(target.find(257)[0], 160)
    check(target.content)
    target.restate(target.find(257)[0], 161)
    with pytest.raises(UnsoundSlideError, match="200 x 161 px, 11 stored tiles, but lists 10"):
        check(target.content)


def test_a_stored_tile_that_is_longer_than_the_file(target: Target) -> None:
    """OpenSlide makes room for that many bytes, and ends the process where it gets none."""
    tag = target.find(325)[0]
    place, size = len(target.content), len(target.content) + 48
    target.point(tag, 4, 12, bytes(48))
    target.put(place + 20, "I", size)
    check(target.content)
    target.put(place + 20, "I", size + 1)
    check(target.content, with_counts=False)
    with pytest.raises(UnsoundSlideError, match=f"states {size + 1} bytes"):
        check(target.content)


@pytest.mark.parametrize("text", [text for text in XML if "<!" in text])
def test_xml_with_entities(target: Target, text: str) -> None:
    target.point(target.find(270)[0], 2, len(text) + 1, text.encode() + b"\0")
    with pytest.raises(UnsoundSlideError, match="XML in its ImageDescription declares entities"):
        check(target.content)


def test_no_reader_gets_an_unsound_file(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "loop.tif"
    target.put(target.links[-1], "Q" if target.is_big else "I", target.tags[0][0].offset - 8)
    target.put(target.links[0], "Q" if target.is_big else "I", 8)
    target.restate(target.find(322)[0], 0)
    path.write_bytes(target.content)
    for reader in ("auto", "tiff", "openslide", "tiffslide"):
        with pytest.raises(SlideOpenError, match=r"loop\.tif: no sound TIFF slide: "):
            open_slide(path, reader=reader)


def test_links_of_sub_pages_are_not_followed() -> None:
    """OME-TIFF writers chain the pages that a page lists as its own: both are one page."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for subifds in (3, None, None, None):
            tiff.write(coded_pixels(64, 64), tile=(64, 64), photometric="rgb", subifds=subifds)
    target = Target.of(file.getvalue())
    assert len(target.tags) == 4
    check(target.content)


def test_hamamatsus_long_links_are_followed() -> None:
    """NDPI is a classic TIFF whose links take 8 bytes, as a loop of two pages shows.

    In big-endian order, so that the first four of them alone would say that there is no page.
    """
    tag, second = struct.pack(">HHHII", 1, tiff_check.NDPI, 4, 1, 1), 12 + 14 + 8
    content = b"MM\0*" + struct.pack(">Q", 12) + tag + struct.pack(">Q", second) + tag
    check(content + struct.pack(">Q", 0))
    with pytest.raises(UnsoundSlideError, match="a loop at byte 12"):
        check(content + struct.pack(">Q", 12))
    other = content.replace(struct.pack(">H", tiff_check.NDPI), b"\1\1") + struct.pack(">Q", 12)
    check(other)
    with pytest.raises(UnsoundSlideError, match="a loop at byte 12"):
        check(other, "slide.ndpi")  # tifffile goes by the name
