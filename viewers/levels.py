"""A slide's levels as arrays that napari can pan over: decoded in chunks, on threads, and kept.

Scanners store levels 4x apart. A viewer that finds none in between takes the finer one and reads
up to 16 times the pixels it shows, so levels at every factor of 2 are put between them, and above
the coarsest until it is small. They are averaged when they are asked for, by the reader's own
scaled decoding where it has one.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError
from tiling.geometry import true_downsample
from tiling.slide import Slide

logger = logging.getLogger(__name__)

CHUNK_PX = 512
"""Wanted chunk edge: smaller suits jumps, larger suits slow panning."""
CACHE_BYTES = 128 << 20
"""Some ten screens of 1500 x 1000 px, or four of 3840 x 2160."""
SMALL_PX = 1024
"""Longer edge at which a level is coarse enough to be the last."""
PART_PX = 64
"""Parts of an averaged chunk that are read alone once the whole could not be."""
GAP = 3.0
"""Ratio of neighbouring levels from which one is put in between."""

Pixels = NDArray[np.uint8]
Key = TypeVar("Key", bound=Hashable)


class ChunkCache:
    """Decoded chunks, the least recently used dropped; several threads decode.

    A chunk that several ask for at once is decoded once, also when there is no room to keep it.
    """

    def __init__(self, limit_bytes: int = CACHE_BYTES, threads: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._coming: dict[Hashable, Future[Pixels]] = {}
        count = threads or min(max(os.cpu_count() or 1, 2), 4)
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="slide-chunks")

    def read(
        self, keys: Sequence[Key], decode: Callable[[Key], Pixels]
    ) -> Iterator[tuple[Key, Pixels]]:
        """Yield every key with its chunk, in order; those that are missing are decoded together."""
        with self._lock:
            found = [self._have(key, decode) for key in keys]
        for key, chunk in zip(keys, found, strict=True):
            yield key, chunk.result() if isinstance(chunk, Future) else chunk

    def _have(self, key: Key, decode: Callable[[Key], Pixels]) -> Pixels | Future[Pixels]:
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        if key not in self._coming:
            self._coming[key] = self._pool.submit(self._decode, key, decode)
        return self._coming[key]

    def _decode(self, key: Key, decode: Callable[[Key], Pixels]) -> Pixels:
        try:
            chunk = decode(key)
            chunk.setflags(write=False)
        except BaseException:
            with self._lock:
                del self._coming[key]
            raise
        with self._lock:
            del self._coming[key]
            self._chunks[key] = chunk
            self.size_bytes += chunk.nbytes
            while self.size_bytes > self.limit_bytes:
                _, dropped = self._chunks.popitem(last=False)
                self.size_bytes -= dropped.nbytes
        return chunk


_tokens = itertools.count()
_shared: list[ChunkCache] = []
_making = threading.Lock()


def shared_cache() -> ChunkCache:
    """Return the cache that all slides of a process share, so that memory is bounded for all."""
    with _making:
        if not _shared:
            _shared.append(ChunkCache())
        return _shared[0]


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """One level of the pyramid that is shown.

    Attributes
    ----------
    size
        (width, height) in px.
    downsample
        Level-0 px per px, (x, y).
    chunk
        (width, height) of a chunk in px.
    stored
        The slide's own level that holds these pixels; None for one that is averaged.
    """

    size: tuple[int, int]
    downsample: tuple[float, float]
    chunk: tuple[int, int]
    stored: int | None


def plan_levels(
    level_sizes: Sequence[tuple[int, int]], tile_sizes: Sequence[tuple[int, int]]
) -> tuple[LevelPlan, ...]:
    """Return the levels to show: a slide's own, and others by factors of 2 in the gaps.

    A level's size is rounded, not floored: viewers place it by the ratio to level 0's size, and
    so it is off by half of one of its own px at most.

    Parameters
    ----------
    level_sizes, tile_sizes
        (width, height) of the slide's levels and of their stored tiles, finest first.

    Examples
    --------
    >>> plan = plan_levels([(9000, 6000), (2250, 1500)], [(256, 256), (256, 256)])
    >>> [(level.size, level.stored) for level in plan]
    [((9000, 6000), 0), ((4500, 3000), None), ((2250, 1500), 1), ((1125, 750), None),
     ((562, 375), None)]
    """
    base = level_sizes[0]
    plans: list[LevelPlan] = []
    for stored, (size, tile) in enumerate(zip(level_sizes, tile_sizes, strict=True)):
        scale = (true_downsample(base[0], size[0]), true_downsample(base[1], size[1]))
        if plans and min(size) >= min(plans[-1].size):
            continue  # viewers need levels that shrink
        while plans and max(s / d for s, d in zip(scale, plans[-1].downsample, strict=True)) > GAP:
            plans.append(_averaged(base, plans[-1].downsample))
        plans.append(LevelPlan(size, scale, chunk_size(tile), stored))
    while max(plans[-1].size) > SMALL_PX and min(plans[-1].size) > 1:
        plans.append(_averaged(base, plans[-1].downsample))
    return tuple(plans)


def _averaged(base: tuple[int, int], finer: tuple[float, float]) -> LevelPlan:
    scale = (2 * finer[0], 2 * finer[1])
    size = (max(round(base[0] / scale[0]), 1), max(round(base[1] / scale[1]), 1))
    return LevelPlan(size, scale, (CHUNK_PX, CHUNK_PX), None)


def chunk_size(tile: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of chunks that are whole stored tiles; long strips stay long.

    Examples
    --------
    >>> chunk_size((240, 240)), chunk_size((40000, 8))
    ((480, 480), (40000, 8))
    """
    width = max(round(min(CHUNK_PX, CHUNK_PX**2 // tile[1]) / tile[0]), 1) * tile[0]
    height = max(round(min(CHUNK_PX, CHUNK_PX**2 // width) / tile[1]), 1) * tile[1]
    return width, height


class ChunkKey(NamedTuple):
    """Which chunk: the colours are part of it, or chunks in other colours would be shown."""

    pyramid: int
    to_display: Callable[[Pixels], Pixels] | None
    level: int
    row: int
    column: int


class SlideLevel:
    """A level as a read-only array, uint8 RGB, shape ``(height, width, 3)``; slices are read.

    Its `chunks` (height, width, 3) say to napari what is read together.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, pyramid: SlidePyramid, number: int) -> None:
        plan = pyramid.plans[number]
        self.pyramid = pyramid
        self.number = number
        self.shape: tuple[int, int, int] = (plan.size[1], plan.size[0], 3)
        self.chunks: tuple[int, int, int] = (plan.chunk[1], plan.chunk[0], 3)
        self.size = math.prod(self.shape)
        self.nbytes = self.size

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<SlideLevel {self.number} of {self.pyramid.slide.name}: {self.shape}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __getitem__(self, selection: Any) -> NDArray[np.uint8]:
        """Return pixels by NumPy's basic indexing."""
        parts = selection if isinstance(selection, tuple) else (selection,)
        if Ellipsis in parts:
            gap = parts.index(Ellipsis)
            whole = (slice(None),) * (self.ndim + 1 - len(parts))
            parts = (*parts[:gap], *whole, *parts[gap + 1 :])
        parts = (*parts, *(slice(None),) * (self.ndim - len(parts)))
        rows, row_part = _span(parts[0], self.shape[0])
        columns, column_part = _span(parts[1], self.shape[1])
        pixels = self.pyramid.read(self.number, rows, columns)
        found: NDArray[np.uint8] = pixels[row_part, column_part, parts[2]]
        return found


def _span(part: Any, length: int) -> tuple[range, Any]:
    """Return the rows (or columns) to read, and what to take of them."""
    if isinstance(part, slice):
        wanted = range(*part.indices(length))
        if not wanted:
            return range(0), slice(0, 0)
        low, high = min(wanted[0], wanted[-1]), max(wanted[0], wanted[-1])
        return range(low, high + 1), slice(None, None, wanted.step)
    index = int(part)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for an axis of {length} px")
    index %= length
    return range(index, index + 1), 0


class SlidePyramid:
    """The levels that are shown of one slide.

    What cannot be decoded is drawn as grey stripes, never as pixels that could be tissue or
    glass, and told once by `on_unreadable`.

    Parameters
    ----------
    to_display
        Applied to every chunk that is decoded, e.g. from the scanner's colours to sRGB.
    """

    def __init__(
        self,
        slide: Slide,
        *,
        cache: ChunkCache | None = None,
        to_display: Callable[[Pixels], Pixels] | None = None,
    ) -> None:
        self.slide = slide
        self.to_display = to_display
        self.on_unreadable: Callable[[str], None] = logger.warning
        self.plans = plan_levels(
            slide.level_sizes, [slide.tile_size(n) for n in range(len(slide.level_sizes))]
        )
        self.levels = [SlideLevel(self, number) for number in range(len(self.plans))]
        self._cache = cache or shared_cache()
        self._has_told = False
        self._token = next(_tokens)

    def read(self, number: int, rows: range, columns: range) -> Pixels:
        """Return pixels of level `number`, shape ``(len(rows), len(columns), 3)``; steps are 1."""
        out = np.empty((len(rows), len(columns), 3), np.uint8)
        if not out.size:
            return out
        width, height = self.plans[number].chunk
        keys = [
            ChunkKey(self._token, self.to_display, number, row, column)
            for row in range(rows.start // height, -(-rows.stop // height))
            for column in range(columns.start // width, -(-columns.stop // width))
        ]
        for key, chunk in self._cache.read(keys, self._decode):
            top, left = key.row * height, key.column * width
            y0, y1 = max(rows.start, top), min(rows.stop, top + len(chunk))
            x0, x1 = max(columns.start, left), min(columns.stop, left + chunk.shape[1])
            out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = chunk[
                y0 - top : y1 - top, x0 - left : x1 - left
            ]
        return out

    def _decode(self, key: ChunkKey) -> Pixels:
        plan = self.plans[key.level]
        left, top = key.column * plan.chunk[0], key.row * plan.chunk[1]
        size = (min(plan.chunk[0], plan.size[0] - left), min(plan.chunk[1], plan.size[1] - top))
        read = self._read_averaged if plan.stored is None else self._read_stored
        pixels = read(plan, (left, top), size)
        return pixels if key.to_display is None else key.to_display(pixels)

    def _read_stored(
        self, plan: LevelPlan, corner: tuple[int, int], size: tuple[int, int]
    ) -> Pixels:
        """Read stored pixels; where that fails, tile by tile, so that one bad tile costs itself."""
        level = plan.stored or 0
        try:
            return self._read_level(plan, corner, size)
        except SlideReadError as err:
            self._tell(err)
        out = np.empty((size[1], size[0], 3), np.uint8)
        tile = self.slide.tile_size(level)
        for top, left in itertools.product(range(0, size[1], tile[1]), range(0, size[0], tile[0])):
            part = (min(tile[0], size[0] - left), min(tile[1], size[1] - top))
            try:
                pixels = self._read_level(plan, (corner[0] + left, corner[1] + top), part)
            except SlideReadError:
                pixels = stripes(part)
            out[top : top + part[1], left : left + part[0]] = pixels
        return out

    def _read_level(
        self, plan: LevelPlan, corner: tuple[int, int], size: tuple[int, int]
    ) -> Pixels:
        level = plan.stored or 0
        downsample = self.slide.level_downsamples[level]
        location = math.ceil(corner[0] * downsample), math.ceil(corner[1] * downsample)
        return self.slide.read_region(location, level=level, size=size)

    def _read_averaged(
        self, plan: LevelPlan, corner: tuple[int, int], size: tuple[int, int]
    ) -> Pixels:
        """Average the level-0 rectangle under a chunk; the last one goes to the slide's edge."""
        start, extent = [], []
        for axis in (0, 1):
            low = round(corner[axis] * plan.downsample[axis])
            is_last = corner[axis] + size[axis] == plan.size[axis]
            end = round((corner[axis] + size[axis]) * plan.downsample[axis])
            start.append(low)
            extent.append((self.slide.size[axis] if is_last else end) - low)
        try:
            return self.slide.read_scaled((start[0], start[1]), (extent[0], extent[1]), size)
        except SlideReadError as err:
            self._tell(err)
        if min(size) <= PART_PX:
            return stripes(size)
        out = np.empty((size[1], size[0], 3), np.uint8)
        for top, left in itertools.product(range(0, size[1], PART_PX), range(0, size[0], PART_PX)):
            part = (min(PART_PX, size[0] - left), min(PART_PX, size[1] - top))
            pixels = self._read_averaged(plan, (corner[0] + left, corner[1] + top), part)
            out[top : top + part[1], left : left + part[0]] = pixels
        return out

    def _tell(self, err: SlideReadError) -> None:
        if not self._has_told:
            self._has_told = True
            self.on_unreadable(
                f"{self.slide.name}: parts cannot be decoded and are shown as grey stripes; "
                f"copy the slide again from where it came from ({err})"
            )


def stripes(size: tuple[int, int]) -> Pixels:
    """Return diagonal grey stripes of `size` (width, height): no tissue looks like them."""
    y, x = np.ogrid[: size[1], : size[0]]
    grey = np.where((x + y) // 8 % 2, 150, 190).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
