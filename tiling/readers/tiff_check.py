"""Is a TIFF's structure sound? Asked before any library that believes what it states opens it.

Only what no sound file has is refused: a page list that is a loop, values that the file cannot
hold, tiles that no memory holds, tables too short for the size, XML that declares entities.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tiling.errors import UnsoundSlideError
from tiling.readers.base import MAX_TILE_PX

MAX_PAGES = 4096
MAX_TAGS = 4096
"""Of one page; tifffile's limit, too."""
MAX_TABLE_VALUES = 1 << 24
"""Numbers in all tables of a file; 200,000 x 150,000 px in tiles of 64 px need 10^7."""
MAX_TEXT_BYTES = 256 << 20
SMALL_TILE_PX, MAX_SMALL_TILES = 64, 1 << 16
"""So many stored tiles may be smaller than 8 x 8 px."""

WIDTH, LENGTH, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 256, 257, 278, 322, 323
OFFSETS, COUNTS = (324, 273), (325, 279)
"""TileOffsets and TileByteCounts, or the strips', which old writers use for tiles, too."""
SUB_PAGES, NDPI = 330, 65420
TEXTS = {270: "ImageDescription", 305: "Software", 700: "XMP"}
_FORMATS = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c", 8: "h", 9: "i", 10: "ii",
            11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip
"""One value of each type (TIFF 6.0, section 2; BigTIFF), as `struct` spells it."""
_SIZES = {kind: struct.calcsize(f"={code}") for kind, code in _FORMATS.items()}


@dataclass(frozen=True, slots=True)
class _Tag:
    """One tag: the type and number of its values, and where in the file they lie."""

    kind: int
    count: int
    place: int

    @property
    def size(self) -> int:
        return self.count * _SIZES.get(self.kind, 0)


def check_tiff(file: IO[bytes], path: str, *, with_counts: bool = False) -> None:
    """Raise `UnsoundSlideError` if `file` is a TIFF whose structure no sound slide has.

    Reads the pages' tags, not their tables. What is no TIFF passes, and what is cut off after
    its tags.

    Parameters
    ----------
    with_counts
        Also look at the stored tiles' sizes in bytes, for a library that makes room for them
        before it has asked whether the file is that long.
    """
    tiff = _Tiff(file, path)
    values = text = 0
    for tags in tiff.pages():
        for code, tag in tags.items():
            if tag.size > tiff.size:
                tiff.refuse(f"tag {code} states {tag.count} values, more than the file can hold")
            is_text = _SIZES.get(tag.kind) == 1
            values, text = values + tag.count * (not is_text), text + tag.count * is_text
        if values > MAX_TABLE_VALUES or text > MAX_TEXT_BYTES:
            tiff.refuse(f"its tables hold {values} numbers (at most {MAX_TABLE_VALUES}), its texts "
                        f"{text} bytes (at most {MAX_TEXT_BYTES})")  # fmt: skip
        for code, name in TEXTS.items():
            content = tiff.content(tags[code]) if code in tags else b""
            if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
                tiff.refuse(f"the XML in its {name} declares entities")
        _check_tables(tiff, tags)
        if with_counts and TILE_WIDTH in tags:
            _check_counts(tiff, tags)
    file.seek(0)


def _check_tables(tiff: _Tiff, tags: Mapping[int, _Tag]) -> None:
    """Refuse a page with fewer stored tiles, or strips, than its size takes."""
    width, length, rows, tile_width, tile_length = (
        tiff.number(tags[code]) if code in tags else 0
        for code in (WIDTH, LENGTH, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH)
    )
    if TILE_WIDTH in tags or TILE_LENGTH in tags:
        if min(tile_width, tile_length) < 1 or tile_width * tile_length > MAX_TILE_PX:
            tiff.refuse(f"it states stored tiles of {tile_width} x {tile_length} px")
        tiles = -(-width // tile_width) * -(-length // tile_length)
    else:
        tiles = -(-length // rows) if rows else 0
    listed = min(
        max((tags[code].count for code in codes if code in tags), default=0)
        for codes in (OFFSETS, COUNTS)
    )
    if listed < tiles:
        tiff.refuse(f"it states {width} x {length} px, {tiles} stored tiles, but lists {listed}")
    if tiles > MAX_SMALL_TILES and 0 < tile_width * tile_length < SMALL_TILE_PX:
        tiff.refuse(f"it states {tiles} stored tiles of {tile_width} x {tile_length} px")


def _check_counts(tiff: _Tiff, tags: Mapping[int, _Tag]) -> None:
    for code in COUNTS:
        counts = tiff.numbers(tags[code], MAX_TABLE_VALUES) if code in tags else np.zeros(1)
        if counts.max(initial=0) > tiff.size:
            tiff.refuse(f"a stored tile states {counts.max()} bytes, more than the file can hold")


class _Tiff:
    """Finds pages and tags in an open file; there are none where it is no TIFF."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path
        self.size = file.seek(0, 2)
        head = self._read(0, 16).ljust(16, b"\0")
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "<")
        version = self._unpack("H", head[2:]) if head[:2] in (b"II", b"MM") else 0
        self._is_big, self._has_long_links = version == 43, version == 43
        self._first = 0
        if version == 43:
            self._first = self._unpack("Q", head[8:])
        elif version == 42:
            # Hamamatsu's NDPI: classic, but links take 8 bytes. OpenSlide knows it by its tag,
            # tifffile by the file's name.
            first = self._unpack("Q", head[4:])
            tags = dict(self._tags(*self._table(first)))
            self._has_long_links = NDPI in tags or path.lower().endswith(".ndpi")
            self._first = first if self._has_long_links else self._unpack("I", head[4:])

    def pages(self) -> Iterator[dict[int, _Tag]]:
        """Yield the tags of every page and sub-page, each of which may be listed once.

        Links from one sub-page to the next are not followed: libraries go by the list.
        """
        seen: set[int] = set()
        waiting = [(self._first, True)]
        while waiting:
            offset, is_in_chain = waiting.pop()
            if not 0 < offset < self.size:
                continue
            if offset in seen:
                self.refuse(f"its list of pages is a loop at byte {offset}")
            seen.add(offset)
            if len(seen) > MAX_PAGES:
                self.refuse(f"it has more than {MAX_PAGES} pages")
            count, start = self._table(offset)
            if count > MAX_TAGS:
                continue  # here every library stops
            tags: dict[int, _Tag] = {}
            for code, tag in self._tags(count, start):
                if code in tags and code in (WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH):
                    self.refuse(f"it states tag {code} of one page twice")
                tags.setdefault(code, tag)
            yield tags
            if is_in_chain:
                word = "Q" if self._has_long_links else "I"
                link = self._unpack(word, self._read(start + count * self._tag_size, 8))
                waiting.append((link, True))
            if SUB_PAGES in tags:
                offsets = self.numbers(tags[SUB_PAGES], MAX_PAGES + 1).tolist()
                waiting += [(offset, False) for offset in offsets]

    def number(self, tag: _Tag) -> int:
        """Return a tag's only number; 0 where it has none."""
        return next(iter(self.numbers(tag, 1).tolist()), 0)

    def content(self, tag: _Tag) -> bytes:
        """Return a tag's bytes."""
        return self._read(tag.place, tag.size)

    def refuse(self, reason: str) -> NoReturn:
        """Raise `UnsoundSlideError`."""
        raise UnsoundSlideError(f"{self._path}: no sound TIFF slide: {reason}; get a whole copy")

    @property
    def _tag_size(self) -> int:
        return 20 if self._is_big else 12

    def numbers(self, tag: _Tag, limit: int) -> NDArray[Any]:
        """Return the first `limit` values of a tag; none where they are no whole numbers."""
        code = _FORMATS.get(tag.kind, "c")
        if code not in "BHIQbhiq":
            return np.empty(0, np.uint8)
        size = _SIZES[tag.kind]
        data = self._read(tag.place, min(tag.count, limit) * size)
        return np.frombuffer(data[: len(data) // size * size], f"{self._order}{code}")

    def _table(self, offset: int) -> tuple[int, int]:
        """Return how many tags the page at `offset` has, and where the first lies."""
        word, size = ("Q", 8) if self._is_big else ("H", 2)
        return self._unpack(word, self._read(offset, size)), offset + size

    def _tags(self, count: int, start: int) -> Iterator[tuple[int, _Tag]]:
        word, room = ("Q", 8) if self._is_big else ("I", 4)
        size = self._tag_size
        data = self._read(start, min(count, MAX_TAGS) * size)
        for place in range(0, len(data) - size + 1, size):
            code, kind, number, value = struct.unpack_from(
                f"{self._order}HH{word}{word}", data, place
            )
            is_here = number * _SIZES.get(kind, 0) <= room
            yield code, _Tag(kind, number, start + place + size - room if is_here else value)

    def _read(self, offset: int, count: int) -> bytes:
        if not 0 <= offset < self.size:
            return b""
        self._file.seek(offset)
        return self._file.read(min(count, self.size - offset))

    def _unpack(self, code: str, data: bytes) -> int:
        """Return one number; 0 where the file ended before it."""
        size = struct.calcsize(f"={code}")
        if len(data) < size:
            return 0
        found: int = struct.unpack(f"{self._order}{code}", data[:size])[0]
        return found
