"""Damage to a slide file: blind, and aimed at what a TIFF states about itself."""

from __future__ import annotations

import functools
import io
import json
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import tifffile

EXTREMES = (0, 1, 2, 17, 0xFFFF, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 6: "b", 7: "B", 8: "h", 9: "i", 10: "i",
           11: "f", 12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip
SIZE_TAGS, TILE_TAGS, TABLE_TAGS = (256, 257), (322, 323), (273, 279, 324, 325)
CODE_TAGS = {
    258: (1, 4, 8, 16, 32, 64),
    259: (1, 2, 5, 6, 7, 8, 32773, 33003, 33005, 34712, 34892, 34925, 50000, 50001, 50002),
    262: (0, 1, 2, 3, 5, 6, 8, 32803),
    277: (0, 1, 2, 3, 4, 5, 255, 65535),
    284: (0, 1, 2),
    317: (1, 2, 3),
    339: (1, 2, 3, 5),
}
"""Tags that choose how pixels are decoded, and values that other files have there."""
LAUGHS = "".join(
    f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' if i else '<!ENTITY l0 "lol">' for i in range(10)
)
XML = (
    f"<?xml version='1.0'?><!DOCTYPE OME [{LAUGHS}]><OME><Pixels SizeX='&l9;'/></OME>",
    "<?xml version='1.0'?><!DOCTYPE OME [<!ENTITY f SYSTEM 'file:///etc/hostname'>]><OME>&f;</OME>",
    "<OME>" * 50_000,
    "<OME>" * 50_000 + "</OME>" * 50_000,
    "<?xml version='1.0'?><OME " + "a='b' " * 20_000 + "/>",
    f"<?xml version='1.0'?><!DOCTYPE DataObject [{LAUGHS}]><DataObject ObjectType='DPUfsImport'>"
    "<Attribute Name='DICOM_MANUFACTURER'>&l9;</Attribute></DataObject>",
)


@dataclass
class Target:
    """A slide file that is being damaged, and where its tags lie."""

    content: bytearray
    tags: list[list[tifffile.TiffTag]] = field(default_factory=list)
    """Of each page, those that can be found in it."""
    links: list[int] = field(default_factory=list)
    """Where the offset of a following page is stored."""
    order: str = "<"
    is_big: bool = False

    @classmethod
    def of(cls, content: bytes) -> Target:
        target = cls(bytearray(content))
        try:
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)
            with tifffile.TiffFile(io.BytesIO(content)) as tiff:
                target.order, target.is_big = tiff.byteorder, tiff.is_bigtiff
                target.links.append(8 if tiff.is_bigtiff else 4)
                for page in [p for top in tiff.pages for p in (top, *(top.pages or ()))]:
                    if isinstance(page, tifffile.TiffPage):
                        tags = list(page.tags)
                        target.tags.append(tags)
                        target.links.append(tags[-1].offset + tiff.tiff.tagsize)
        except Exception:  # not a TIFF, or a broken one: blind damage only
            target.tags, target.links = [], []
        return target

    def pack(self, code: str, value: float) -> bytes:
        if code in "fd":
            return struct.pack(self.order + code, float(value))
        size = struct.calcsize(code)
        order: Literal["little", "big"] = "little" if self.order == "<" else "big"
        return (int(value) % 2 ** (8 * size)).to_bytes(size, order)

    def put(self, place: int, code: str, value: float) -> None:
        packed = self.pack(code, value)
        self.content[place : place + len(packed)] = packed

    def restate(self, tag: tifffile.TiffTag, value: int) -> None:
        """Make `tag` one 32-bit number."""
        self.put(tag.offset + 2, "H", 4)
        self.put(tag.offset + 4, "Q" if self.is_big else "I", 1)
        self.put(tag.offset + (12 if self.is_big else 8), "I", value)

    def point(self, tag: tifffile.TiffTag, kind: int, count: int, data: bytes) -> None:
        """Let `tag` be `count` values of type `kind`, which are `data`, at the end of the file."""
        place = len(self.content)
        self.content += data
        word = "Q" if self.is_big else "I"
        self.put(tag.offset + 2, "H", kind)
        self.put(tag.offset + 4, word, count)
        self.put(tag.offset + (12 if self.is_big else 8), word, place)

    def find(self, *codes: int) -> list[tifffile.TiffTag]:
        return [tag for tags in self.tags for tag in tags if tag.code in codes]


Rng = np.random.Generator
Mutation = Callable[[Target, Rng], str | None]
"""Damages a target; returns what it did in words, None where it does not apply."""


def _pick(rng: Rng, items: list[tifffile.TiffTag]) -> tifffile.TiffTag:
    return items[int(rng.integers(len(items)))]


def _place(target: Target, rng: Rng) -> int:
    """Return a position, every second time among the tags."""
    tags = target.find(*range(65536)) if rng.random() < 0.5 else []
    if tags:
        return int(_pick(rng, tags).offset + rng.integers(12))
    return int(rng.integers(max(len(target.content), 1)))


def flip_bits(target: Target, rng: Rng) -> str:
    count = int(2 ** rng.integers(0, 8))
    for _ in range(count):
        place = _place(target, rng)
        if place < len(target.content):
            target.content[place] ^= 1 << int(rng.integers(8))
    return f"{count} bits flipped"


def overwrite(target: Target, rng: Rng) -> str:
    place, count = _place(target, rng), int(2 ** rng.integers(0, 14))
    block = rng.bytes(count) if rng.random() < 0.5 else bytes([int(rng.choice([0, 255]))]) * count
    target.content[place : place + count] = block
    return f"{count} bytes overwritten at {place}"


def truncate(target: Target, rng: Rng) -> str:
    size = len(target.content)
    keep = int(rng.choice([rng.integers(size + 1), rng.integers(min(size, 64) + 1), size - 1]))
    del target.content[keep:]
    return f"cut to {keep} bytes"


def insert(target: Target, rng: Rng) -> str:
    place, count = _place(target, rng), int(2 ** rng.integers(0, 13))
    target.content[place:place] = rng.bytes(count)
    return f"{count} bytes inserted at {place}"


def drop(target: Target, rng: Rng) -> str:
    place, count = _place(target, rng), int(2 ** rng.integers(0, 13))
    del target.content[place : place + count]
    return f"{count} bytes dropped at {place}"


def claim_size(target: Target, rng: Rng) -> str | None:
    """State a giant picture: 10^9 px and the like, on one axis or both, one page or all."""
    tags = target.find(*SIZE_TAGS)
    if not tags:
        return None
    value = int(rng.choice([10**9, 10**9, 2**31 - 1, 2**32 - 1, 10**6, 65535, 0, 1]))
    chosen = tags if rng.random() < 0.2 else tags[:2] if rng.random() < 0.6 else [_pick(rng, tags)]
    for tag in chosen:
        target.restate(tag, value)
    return f"{len(chosen)} sizes set to {value}"


def claim_tiles(target: Target, rng: Rng) -> str | None:
    tags = target.find(*TILE_TAGS, 278)
    if not tags:
        return None
    value = int(rng.choice([0, 1, 8, 16, 17, 1024, 32768, 65535, 65536, 10**9, 2**32 - 1]))
    chosen = tags if rng.random() < 0.3 else tags[:2] if rng.random() < 0.5 else [_pick(rng, tags)]
    for tag in chosen:
        target.restate(tag, value)
    return f"{len(chosen)} of tile width, tile length or rows per strip set to {value}"


def claim_size_with_tables(target: Target, rng: Rng) -> str | None:
    """State a giant picture and tables that are as long as it needs, but lie outside the file."""
    if not target.tags:
        return None
    for tag in target.find(*SIZE_TAGS):
        target.restate(tag, 10**9)
    side = int(rng.choice([64, 128, 16384]))
    for tag in target.find(*TILE_TAGS):
        target.restate(tag, side)
    for tag in target.find(*TABLE_TAGS):
        tiles = min((-(-(10**9) // side)) ** 2, 2**32 - 1)
        target.put(tag.offset + 4, "Q" if target.is_big else "I", tiles)
    return f"10^9 x 10^9 px in tiles of {side}, tables as long"


def set_value(target: Target, rng: Rng) -> str | None:
    tags = target.find(*range(65536))
    if not tags:
        return None
    tag = _pick(rng, tags)
    code = FORMATS.get(int(tag.dtype), "B")
    value = int(EXTREMES[rng.integers(len(EXTREMES))])
    index = int(rng.integers(max(min(tag.count, 1000), 1)))
    target.put(tag.valueoffset + index * struct.calcsize(code), code, value)
    return f"{tag.name}[{index}] set to {value}"


def set_count(target: Target, rng: Rng) -> str | None:
    tags = target.find(*range(65536))
    if not tags:
        return None
    tag = _pick(rng, tags)
    value = int(EXTREMES[rng.integers(len(EXTREMES))])
    target.put(tag.offset + 4, "Q" if target.is_big else "I", value)
    return f"count of {tag.name} set to {value}"


def set_type(target: Target, rng: Rng) -> str | None:
    tags = target.find(*range(65536))
    if not tags:
        return None
    tag, value = _pick(rng, tags), int(rng.integers(0, 20))
    target.put(tag.offset + 2, "H", value)
    return f"type of {tag.name} set to {value}"


def set_code(target: Target, rng: Rng) -> str | None:
    """Let the tiles be decoded as something that they are not."""
    tags = target.find(*CODE_TAGS)
    if not tags:
        return None
    tag = _pick(rng, tags)
    value = int(rng.choice(CODE_TAGS[tag.code]))
    for other in target.find(tag.code) if rng.random() < 0.5 else [tag]:
        target.put(other.valueoffset, "H", value)
    return f"{tag.name} set to {value}"


def set_table(target: Target, rng: Rng) -> str | None:
    """Let stored tiles lie outside the file, in each other, or be giant."""
    tags = target.find(*TABLE_TAGS)
    if not tags:
        return None
    tag = _pick(rng, tags)
    code = FORMATS.get(int(tag.dtype), "I")
    size = len(target.content)
    value = int(rng.choice([0, 1, size - 1, size, 2 * size, 2**31, 2**32 - 1]))
    rows = range(tag.count) if rng.random() < 0.3 else rng.integers(0, tag.count, 3)
    for index in rows:
        target.put(tag.valueoffset + int(index) * struct.calcsize(code), code, value)
    return f"{len(rows)} of {tag.name} set to {value}"


def loop_pages(target: Target, rng: Rng) -> str | None:
    """Let a page be followed by itself, an earlier one, or anything."""
    if not target.links:
        return None
    place = target.links[int(rng.integers(len(target.links)))]
    first = [tags[0].offset - (8 if target.is_big else 2) for tags in target.tags]
    value = int(rng.choice([*first, rng.integers(len(target.content)), len(target.content) + 5]))
    target.put(place, "Q" if target.is_big else "I", value)
    return f"the page offset at {place} set to {value}"


def many_pages(target: Target, rng: Rng) -> str | None:
    """Append a chain of small pages, every second time closed to a loop."""
    if not target.links:
        return None
    count, word = int(rng.choice([150, 5000, 60_000])), "Q" if target.is_big else "I"
    start = len(target.content) + len(target.content) % 2
    target.content += bytes(start - len(target.content))
    target.put(target.links[-1], word, start)
    head = target.pack("Q" if target.is_big else "H", 1)
    tag = target.pack("H", 256) + target.pack("H", 4) + target.pack(word, 1) + target.pack(word, 9)
    size = len(head + tag) + struct.calcsize(word)
    is_loop = rng.random() < 0.5
    for number in range(count):
        is_last = number == count - 1
        following = (start if is_loop else 0) if is_last else start + (number + 1) * size
        target.content += head + tag + target.pack(word, following)
    return f"{count} pages appended{', in a loop' if is_loop else ''}"


def loop_sub_pages(target: Target, rng: Rng) -> str | None:
    """Let a page have itself, or very many, as sub-pages."""
    if not target.tags:
        return None
    tags = target.find(330) or [tags[-1] for tags in target.tags]
    tag = _pick(rng, tags)
    own = target.tags[0][0].offset - (8 if target.is_big else 2)
    count = int(rng.choice([2, 3, 20_000]))
    target.put(tag.offset, "H", 330)
    word = "Q" if target.is_big else "I"
    target.point(tag, 16 if target.is_big else 4, count, target.pack(word, own) * count)
    return f"{count} sub-pages, each the first page"


def zero_denominators(target: Target, rng: Rng) -> str | None:
    tags = target.find(282, 283)
    if not tags:
        return None
    value = [(0, 0), (1, 0), (2**32 - 1, 1), (1, 2**32 - 1), (0, 1)][int(rng.integers(5))]
    for tag in tags:
        target.put(tag.valueoffset, "I", value[0])
        target.put(tag.valueoffset + 4, "I", value[1])
    return f"resolutions set to {value[0]}/{value[1]}"


def jpeg_tables(target: Target, rng: Rng) -> str | None:
    tags = target.find(347)
    if not tags:
        return None
    tag = _pick(rng, tags)
    if rng.random() < 0.5:
        data = b"\xff\xd8" + rng.bytes(2_000_000) + b"\xff\xd9"
        target.point(tag, 7, len(data), data)
        return "2 MB of JPEG tables"
    place, count = int(rng.integers(tag.count)), int(rng.integers(1, 64))
    target.content[tag.valueoffset + place : tag.valueoffset + place + count] = rng.bytes(count)
    return f"{count} bytes of the JPEG tables overwritten"


def description(target: Target, rng: Rng) -> str | None:
    """Let the description be XML that expands, asks for files or never ends, or be very long."""
    tags = target.find(270) or target.find(305) or target.find(282)
    if not tags:
        return None
    tag = _pick(rng, tags)
    number = int(rng.integers(len(XML) + 2))
    text = (*XML, "Aperio Image Library\r\n1x1|" + "MPP = 0.25|" * 100_000, "é\0" * 1000)[number]
    data = text.encode() + b"\0"
    target.put(tag.offset, "H", 270)
    target.point(tag, 2, len(data), data)
    return f"description replaced by hostile text {number}"


def _stored_tiles(target: Target) -> list[tuple[int, int]]:
    found = []
    for tags in target.tags:
        by_code = {tag.code: tag for tag in tags}
        offsets = by_code.get(324) or by_code.get(273)
        counts = by_code.get(325) or by_code.get(279)
        if offsets is not None and counts is not None:
            pairs = zip(np.atleast_1d(offsets.value), np.atleast_1d(counts.value), strict=False)
            found += [(int(o), int(c)) for o, c in pairs if c]
    return found


def damage_tile(target: Target, rng: Rng) -> str | None:
    """Change bytes inside stored tiles only, so that all else is sound."""
    tiles = _stored_tiles(target)
    if not tiles:
        return None
    for number in rng.integers(len(tiles), size=int(rng.choice([1, 3, len(tiles)]))):
        offset, count = tiles[number]
        for _ in range(int(rng.integers(1, 9))):
            place = offset + int(rng.integers(count))
            if place < len(target.content):
                target.content[place] = int(rng.integers(256))
    return "bytes inside of stored tiles changed"


def restate_stream(target: Target, rng: Rng) -> str | None:
    """Let JPEG and JPEG 2000 streams state other sizes, components or sampling than the TIFF."""
    done = 0
    word = [0, 1, 0xFFFF, 0x7FFF, 255][int(rng.integers(5))]
    giant = [10**9, 2**32 - 1, 1, 0, 60_000][int(rng.integers(5))]
    tiles = _stored_tiles(target)
    where = int(rng.integers(8))
    for offset, count in tiles:
        stream = target.content[offset : offset + count]
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            place = stream.find(marker)
            if place >= 0:  # length, precision, height, width, components, (id, sampling, table)
                field_at, size = [(5, 2), (7, 2), (9, 1), (11, 1), (4, 1), (2, 2)][where % 6]
                start = offset + place + field_at
                values = word if size == 2 else word & 255
                target.content[start : start + size] = values.to_bytes(size, "big")
                done += 1
                break
        if stream[:4] == b"\xff\x4f\xff\x51":  # SIZ: Rsiz, Xsiz, Ysiz, offsets, tile, offsets, Csiz
            for field_at in ((8, 12), (24, 28), (8,), (16, 20), (32, 36), (40,))[where % 6]:
                value = (word if field_at == 40 else giant).to_bytes(8, "big")
                size = 2 if field_at == 40 else 4
                target.content[offset + field_at : offset + field_at + size] = value[-size:]
            done += 1
        if stream[:4] == b"RIFF" and stream[12:15] == b"VP8":
            target.content[offset + 20 : offset + 32] = rng.bytes(12)
            done += 1
    return f"{done} streams restated ({where}, {word}, {giant})" if done else None


@functools.cache
def _zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def bomb(target: Target, rng: Rng) -> str | None:
    """Let every stored tile be the same stream, which unpacks to 64 MB."""
    tables = target.find(324, 273)
    if not tables:
        return None
    data = _zeros(64 << 20)
    place = len(target.content)
    target.content += data
    for tag in target.find(*TABLE_TAGS):
        code = FORMATS.get(int(tag.dtype), "I")
        for index in range(tag.count):
            value = place if tag.code in (324, 273) else len(data)
            target.put(tag.valueoffset + index * struct.calcsize(code), code, value)
    for tag in target.find(259):
        target.put(tag.valueoffset, "H", 8)
    return "stored tiles that unpack to 64 MB"


def _repack(target: Target, name: str, data: bytes) -> None:
    """Replace one member of a zip file, checksum included."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(target.content)) as old,
        zipfile.ZipFile(packed, "w") as new,
    ):
        for member in old.namelist():
            info = zipfile.ZipInfo(member)  # of no date
            new.writestr(info, data if member == name else old.read(member))
    target.content = bytearray(packed.getvalue())


def _members(target: Target, *, documents: bool) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(target.content)) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # damaged before
        return {}
    return {n: data for n, data in found.items() if (data[:1] == b"{") == documents}


def restate_document(target: Target, rng: Rng) -> str | None:
    """Change one value in the metadata of a zipped Zarr group: shapes, chunks, codecs, scales."""
    documents = _members(target, documents=True)
    if not documents:
        return None
    name = sorted(documents)[int(rng.integers(len(documents)))]
    root = json.loads(documents[name])
    places: list[tuple[Any, Any]] = []
    waiting = [root]
    while waiting:
        here = waiting.pop()
        for key in here if isinstance(here, dict) else range(len(here)):
            places.append((here, key))
            if isinstance(here[key], dict | list):
                waiting.append(here[key])
    if not places:
        return None
    here, key = places[int(rng.integers(len(places)))]
    values = (0, -1, 1, 7, 10**6, 10**9, 2**64, 1e-300, 1e300, True, None, "", "zstd", "pickle",
              [], {}, [10**9] * 3, {"name": "gzip"}, "a" * 100_000)  # fmt: skip
    here[key] = values[int(rng.integers(len(values)))]
    _repack(target, name, json.dumps(root).encode())
    return f"{key!r} in {name} set to {str(here[key])[:40]!r}"


def damage_chunk(target: Target, rng: Rng) -> str | None:
    """Change bytes of a chunk of a zipped Zarr array, or cut it, and let the checksum be right."""
    chunks = _members(target, documents=False)
    if not chunks:
        return None
    name = sorted(chunks)[int(rng.integers(len(chunks)))]
    chunk = Target(bytearray(chunks[name]))
    change = (flip_bits, overwrite, truncate, insert, drop)[int(rng.integers(5))]
    what = change(chunk, rng)
    _repack(target, name, bytes(chunk.content))
    return f"{what} of {name}"


BLIND: tuple[Mutation, ...] = (flip_bits, overwrite, truncate, insert, drop)
STRUCTURE: tuple[Mutation, ...] = (
    claim_size, claim_size_with_tables, claim_tiles, set_value, set_count, set_type, set_code,
    set_table, loop_pages, many_pages, loop_sub_pages, zero_denominators, jpeg_tables, description,
)  # fmt: skip
ZIPPED: tuple[Mutation, ...] = (restate_document, damage_chunk)
STREAMS: tuple[Mutation, ...] = (damage_tile, damage_tile, restate_stream, bomb, set_table)


def mutate(content: bytes, rng: Rng) -> tuple[bytes, str]:
    """Return `content` damaged once to three times, and what was done in words."""
    target = Target.of(content)
    is_zip = zipfile.is_zipfile(io.BytesIO(content))
    families = [BLIND, STRUCTURE, STREAMS] if target.tags else [BLIND, *[ZIPPED] * 3 * is_zip]
    done: list[str] = []
    wanted = int(rng.choice([1, 1, 1, 1, 2]))
    while len(done) < wanted:
        family = families[int(rng.integers(len(families)))]
        what = family[int(rng.integers(len(family)))](target, rng)
        if what:
            done.append(what)
    return bytes(target.content), "; ".join(done)
