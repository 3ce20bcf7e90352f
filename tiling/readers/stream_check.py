"""What size does a compressed picture state? Asked before a decoder makes room for it."""

from __future__ import annotations

import struct

JPEG, JPEG_2000, WEBP = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712), (34927, 50001)
STATING_SIZE = (*JPEG, *JPEG_2000, *WEBP)
"""TIFF Compressions whose streams state a size of their own."""
MAX_J2K_TILES, MAX_J2K_COMPONENTS = 1024, 16
"""Of one JPEG 2000 stream: OpenJPEG takes memory for each before it decodes any."""
_STANDALONE = (0x01, *range(0xD0, 0xDA))
"""JPEG markers without a length (ITU-T T.81, table B.1)."""


def check_stream(data: bytes, compression: int, shape: tuple[int, int]) -> None:
    """Raise `ValueError` if a stored tile states more pixels than its place `shape` (h, w) has.

    Streams of other compressions pass, and what states no size: decoders refuse that.
    """
    if compression in JPEG:
        width, height = _jpeg_size(data)
    elif compression in JPEG_2000:
        width, height = _jpeg2000_size(data)
    elif compression in WEBP:
        width, height = _webp_size(data)
    else:
        return
    if width * height > shape[0] * shape[1]:
        raise ValueError(f"the stream states {width} x {height} px, not {shape[1]} x {shape[0]}")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the frame header (ITU-T T.81, B.2.2); 0 where there is none."""
    place = 0
    while True:
        place = data.find(b"\xff", place)
        if place < 0 or place + 9 > len(data):
            return 0, 0
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker == 0xFF:  # padding
            place += 1
        elif marker == 0 or marker in _STANDALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")


def _jpeg2000_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the SIZ marker segment (ITU-T T.800, A.5.1)."""
    stream = data if data[:4] == b"\xff\x4f\xff\x51" else _codestream(data)
    if stream[:4] != b"\xff\x4f\xff\x51" or len(stream) < 42:
        return 0, 0
    right, bottom, left, top, *tile, _, _, components = struct.unpack_from(">8IH", stream, 8)
    width, height = right - left, bottom - top
    across, down = max(tile[0], 1), max(tile[1], 1)
    if -(-width // across) * -(-height // down) > MAX_J2K_TILES:
        raise ValueError(f"the stream states tiles of {across} x {down} px within the stored tile")
    if components > MAX_J2K_COMPONENTS:
        raise ValueError(f"the stream states {components} components")
    return max(width, 0), max(height, 0)


def _codestream(data: bytes) -> bytes:
    """Return the codestream within a JP2 file's boxes (ITU-T T.800, annex I)."""
    place = 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if length == 1 and place + 16 <= len(data):
            length, head = struct.unpack_from(">Q", data, place + 8)[0], 16
        if kind == b"jp2c":
            return data[place + head :]
        if length < head:
            break
        place += length
    return b""


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind, body = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return (int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1)
    return 0, 0
