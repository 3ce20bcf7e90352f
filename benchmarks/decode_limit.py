"""The physical limit of reading: C TurboJPEG on the stored tiles of a slide, and nothing else.

Debian: libturbojpeg0. A tile that is shrunk by 2 is shrunk in the cosine transform.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from tiling.grid import TileGrid

Coords = NDArray[np.int64]
ReadBlock = Callable[[Coords], NDArray[np.uint8]]
"""x0, y0 of a block's tiles, (n, 2), to their pixels, (n, tile_px, tile_px, 3)."""


class StoredTiles:
    """Level 0 of a TIFF of JPEG tiles: `decode` puts one of them anywhere in memory.

    Safe in threads: each has a decoder of its own.
    """

    def __init__(self, path: Path, turbo: ctypes.CDLL, reduction: int) -> None:
        page = tifffile.TiffFile(path).pages[0]
        with path.open("rb") as file:
            self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        self._head = b"\xff\xd8" + bytes(page.jpegtables or b"")[2:-2]
        self._turbo = turbo
        self._own = threading.local()
        self.columns = -(-page.imagewidth // page.tilewidth)
        self.edge = page.tilewidth // reduction

    def decode(self, index: int, address: int, pitch: int) -> None:
        start, count = self._places[index]
        stream = self._head + self._file[start + 2 : start + count]
        if not hasattr(self._own, "handle"):
            self._own.handle = self._turbo.tjInitDecompress()
        if self._turbo.tjDecompress2(
            self._own.handle, stream, len(stream), address, self.edge, pitch, self.edge, 0, 0
        ):
            raise RuntimeError("the limit could not decode a tile")


def aligned_reader(path: Path, grid: TileGrid, *, exact: bool = False) -> ReadBlock | None:
    """Decode every stored tile of a block straight into its place in the block's pixels.

    None where TurboJPEG is missing, or the tiles are not made of whole stored tiles.
    """
    page = tifffile.TiffFile(path).pages[0]
    factor = grid.extent[0] / grid.spec.tile_px
    aligned = not (grid.extent[0] % page.tilewidth or (grid.coords % page.tilewidth).any())
    turbo = _turbojpeg()
    if turbo is None or not aligned or factor not in (1, 2):
        return None
    stored = StoredTiles(path, turbo, reduction=1 if exact else int(factor))
    per_tile = grid.extent[0] // page.tilewidth
    tile_px, edge = grid.spec.tile_px, stored.edge
    raw_px = per_tile * edge

    def read(coords: Coords) -> NDArray[np.uint8]:
        out = np.empty((len(coords), tile_px, tile_px, 3), np.uint8)
        raw = out if raw_px == tile_px else np.empty((1, raw_px, raw_px, 3), np.uint8)
        for number, (x0, y0) in enumerate(coords.tolist()):
            target = raw[number if raw is out else 0]
            first = y0 // page.tilelength * stored.columns + x0 // page.tilewidth
            for row in range(per_tile):
                for column in range(per_tile):
                    address = target.ctypes.data + (row * edge * raw_px + column * edge) * 3
                    stored.decode(first + row * stored.columns + column, address, raw_px * 3)
            if raw is not out:
                cv2.resize(
                    target, (tile_px, tile_px), dst=out[number], interpolation=cv2.INTER_AREA
                )
        return out

    return read


def decode_once(path: Path, grid: TileGrid) -> Callable[[Coords], None] | None:
    """Decode every stored tile that a block touches once, into one tile's memory; keep nothing.

    The limit where tiles are not aligned: cutting them out would come on top. None where
    TurboJPEG is missing, or the tiles are not shrunk by 1 or 2.
    """
    page = tifffile.TiffFile(path).pages[0]
    factor = grid.extent[0] / grid.spec.tile_px
    turbo = _turbojpeg()
    if turbo is None or factor not in (1, 2):
        return None
    stored = StoredTiles(path, turbo, reduction=int(factor))

    def read(coords: Coords) -> None:
        room = np.empty((stored.edge, stored.edge, 3), np.uint8)
        first = coords // page.tilewidth
        last = (coords + np.asarray(grid.extent) - 1) // page.tilewidth
        touched = {
            y * stored.columns + x
            for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True)
            for y in range(y0, y1 + 1)
            for x in range(x0, x1 + 1)
        }
        for index in sorted(touched):
            stored.decode(index, room.ctypes.data, stored.edge * 3)

    return read


@functools.cache
def _turbojpeg() -> ctypes.CDLL | None:
    try:
        turbo = ctypes.CDLL("libturbojpeg.so.0")
    except OSError:
        return None
    turbo.tjInitDecompress.restype = ctypes.c_void_p
    turbo.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p,
        ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ]  # fmt: skip
    return turbo
