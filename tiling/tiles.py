"""Pixels of tiles and levels: read in blocks, or as lazy Dask arrays."""

from __future__ import annotations

import enum
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError, SlideTooLargeError
from tiling.grid import TileGrid
from tiling.slide import Slide, SlideRef

if TYPE_CHECKING:
    import dask.array as da

logger = logging.getLogger(__name__)

TILES_PER_BLOCK = 64
"""Tiles that one Dask task reads; neighbours, since grids follow the file's storage order."""
LEVEL_CHUNK_PX = 1024
MAX_LEVEL_CHUNKS = 1 << 18
"""Tasks in the graph of one level: 500,000 x 500,000 px in chunks of 1024 px."""


class TileStatus(enum.IntEnum):
    """What became of a tile, as stored in ``status/<name>``."""

    NOT_DONE = 0
    READ = 1
    UNREADABLE = 2
    PADDED = 3


@dataclass(frozen=True, slots=True)
class TileGeometry:
    """What reading a tile needs to know: small enough to travel with every task."""

    extent: tuple[int, int]
    tile_px: int
    slide_size: tuple[int, int]
    exact: bool = False

    @classmethod
    def of(cls, grid: TileGrid) -> TileGeometry:
        """Return the geometry of `grid`'s tiles."""
        return cls(grid.extent, grid.spec.tile_px, grid.slide_size, grid.spec.exact)


def read_tiles(
    slide: Slide,
    coords: NDArray[np.int64],
    geometry: TileGeometry,
    *,
    out: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the tiles at `coords`, going on past those that cannot be decoded.

    A line in the log names the first of these, and what is wrong with it.

    Parameters
    ----------
    coords
        x0, y0 at level 0, shape ``(N, 2)``.
    out
        Takes the pixels, and is what is returned, in place of a new array.

    Returns
    -------
    pixels
        uint8, shape ``(N, tile_px, tile_px, 3)``; white where unreadable or outside the slide.
    status
        uint8, shape ``(N,)``, values of :class:`TileStatus`.
    """
    size = (geometry.tile_px, geometry.tile_px)
    pixels = np.empty((len(coords), *size, 3), np.uint8) if out is None else out
    status = np.full(len(coords), TileStatus.READ, np.uint8)
    reaches_over = (coords + np.asarray(geometry.extent) > np.asarray(geometry.slide_size)).any(1)
    status[reaches_over] = TileStatus.PADDED
    errors = slide.read_into(pixels, coords, geometry.extent, exact=geometry.exact)
    status[list(errors)] = TileStatus.UNREADABLE
    if errors:
        index, error = next(iter(errors.items()))
        logger.warning(
            "%d of %d tiles cannot be decoded, the first at level-0 (%d, %d): %s",
            len(errors), len(coords), *coords[index].tolist(), error,
        )  # fmt: skip
    return pixels, status


def tile_array(slide: Slide, grid: TileGrid, *, tiles_per_block: int = TILES_PER_BLOCK) -> da.Array:
    """Return the tiles of `grid` as a lazy Dask array.

    Parameters
    ----------
    tiles_per_block
        Tiles read by one task; the bytes do not depend on it.

    Returns
    -------
    uint8, shape ``(N, tile_px, tile_px, 3)``, one task per block. Computing a tile that cannot be
    decoded raises :class:`SlideReadError`; :func:`read_tiles` goes on instead.
    """
    import dask.array as da  # as slow to import as all that opening a store needs

    tile_px = grid.spec.tile_px
    if not len(grid):
        empty: da.Array = da.from_array(np.empty((0, tile_px, tile_px, 3), np.uint8), chunks=-1)
        return empty
    tiles: da.Array = da.map_blocks(
        _read_block,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0, 0), np.uint8),
        chunks=(block_lengths(len(grid), tiles_per_block), (tile_px,), (tile_px,), (3,)),
        ref=slide.ref,
        coords=grid.coords,
        geometry=TileGeometry.of(grid),
        tiles_per_block=tiles_per_block,
    )
    return tiles


def level_array(slide: Slide, level: int, *, chunk_px: int = LEVEL_CHUNK_PX) -> da.Array:
    """Return one level as a lazy Dask array.

    Parameters
    ----------
    level
        0 is the finest.
    chunk_px
        Wanted chunk edge; rounded to whole stored tiles.

    Returns
    -------
    uint8, shape ``(height, width, 3)``, one task per chunk.

    Raises
    ------
    SlideTooLargeError
        The level has more chunks than a graph can hold.
    """
    import dask.array as da

    slide.check_level(level)
    width, height = slide.level_sizes[level]
    stored_width, stored_height = slide.tile_size(level)
    # Where stored tiles are long (strips), chunks are as long and so much thinner.
    wanted_width = min(chunk_px, chunk_px**2 // stored_height)
    chunk_width = max(round(wanted_width / stored_width), 1) * stored_width
    wanted_height = min(chunk_px, chunk_px**2 // chunk_width)
    chunk_height = max(round(wanted_height / stored_height), 1) * stored_height
    chunks = -(-width // chunk_width) * -(-height // chunk_height)
    if chunks > MAX_LEVEL_CHUNKS:
        raise SlideTooLargeError(
            f"{slide.name}: level {level} is {width} x {height} px, {chunks} chunks (at most "
            f"{MAX_LEVEL_CHUNKS}); pass a larger chunk_px or a coarser level"
        )
    pixels: da.Array = da.map_blocks(
        _read_level_chunk,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
        chunks=(block_lengths(height, chunk_height), block_lengths(width, chunk_width), (3,)),
        ref=slide.ref,
        level=level,
        chunk=(chunk_width, chunk_height),
    )
    return pixels


def block_lengths(total: int, block: int) -> tuple[int, ...]:
    """Return the lengths of consecutive blocks that make up `total`.

    Examples
    --------
    >>> block_lengths(10, 4)
    (4, 4, 2)
    """
    return tuple(min(block, total - start) for start in range(0, total, block))


def _read_block(
    *,
    ref: SlideRef,
    coords: NDArray[np.int64],
    geometry: TileGeometry,
    tiles_per_block: int,
    block_id: tuple[int, ...],
) -> NDArray[np.uint8]:
    start = block_id[0] * tiles_per_block
    here = coords[start : start + tiles_per_block]
    pixels, status = read_tiles(ref.open(), here, geometry)
    bad = np.flatnonzero(status == TileStatus.UNREADABLE)
    if len(bad):
        x0, y0 = here[bad[0]].tolist()
        raise SlideReadError(
            f"{ref.path}: {len(bad)} of {len(here)} tiles cannot be decoded, the first at level-0 "
            f"({x0}, {y0}); use read_tiles to go on without them"
        )
    return pixels


def _read_level_chunk(
    *, ref: SlideRef, level: int, chunk: tuple[int, int], block_id: tuple[int, ...]
) -> NDArray[np.uint8]:
    slide = ref.open()
    width, height = slide.level_sizes[level]
    downsample = slide.level_downsamples[level]
    x_level, y_level = block_id[1] * chunk[0], block_id[0] * chunk[1]
    size = min(chunk[0], width - x_level), min(chunk[1], height - y_level)
    location = math.ceil(x_level * downsample), math.ceil(y_level * downsample)
    return slide.read_region(location, level=level, size=size)
