"""A slide's levels as arrays that napari can pan over: decoded in chunks, on threads, and kept.

Levels that the slide does not store are averaged when they are asked for, by the reader's own
scaled decoding where it has one.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError
from tiling.slide import Slide
from viewers.level_plan import LevelPlan, plan_levels
from viewers.preview import BLOCK_PX, Preview

logger = logging.getLogger(__name__)

CACHE_BYTES = 128 << 20
"""Some ten screens of 1500 x 1000 px, or four of 3840 x 2160."""
PART_PX = 64
"""Parts of an averaged chunk that are read alone once the whole could not be."""
PREVIEW_RATIO = 8
"""Of an averaged level to the stored one that it is read from: coarser ones may wait long."""
PREVIEW_SOURCE_PX = 1 << 27
"""Pixels of the stored level from which its coarse levels take more than a second or two."""
PREVIEW_PX = 1 << 25
"""Most pixels of the level that is kept whole, 100 MB."""

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
        self.preview: Preview | None = None
        self._preview_from = len(self.plans)
        self._has_told = False
        self._token = next(_tokens)

    def start_preview(self) -> Preview | None:
        """Let the coarsest levels be read in the background and shown as they come, if they need.

        For windows alone: until all is read, these levels hold grey. None if the slide stores
        levels coarse enough, or is small. Call it before anything is read.
        """
        stored = [plan for plan in self.plans if plan.stored is not None][-1]
        first = next(
            (n for n, plan in enumerate(self.plans)
             if plan.downsample[0] > PREVIEW_RATIO * stored.downsample[0]
             and math.prod(plan.size) <= PREVIEW_PX), None,
        )  # fmt: skip
        if first is None or math.prod(stored.size) < PREVIEW_SOURCE_PX or self.preview is not None:
            return self.preview
        ratio = [plan / own for plan, own in zip(
            self.plans[first].downsample, stored.downsample, strict=True)]  # fmt: skip
        tile = self.slide.tile_size(stored.stored or 0)
        width = max(BLOCK_PX, tile[0])  # strips are as wide as the slide: blocks too then
        height = max(BLOCK_PX**2 // width, tile[1])
        block = max(round(width / ratio[0]), 1), max(round(height / ratio[1]), 1)
        plan = self.plans[first]
        this = weakref.ref(self)

        def read(corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
            found = this()
            return stripes(size) if found is None else found._read_averaged(plan, corner, size)

        self._preview_from = first
        self.preview = Preview(self.plans[first:], read, block)
        return self.preview

    def read(self, number: int, rows: range, columns: range) -> Pixels:
        """Return pixels of level `number`, shape ``(len(rows), len(columns), 3)``; steps are 1."""
        out = np.empty((len(rows), len(columns), 3), np.uint8)
        if not out.size:
            return out
        if self.preview is not None and number >= self._preview_from:
            pixels = self.preview.read(number - self._preview_from, rows, columns)
            return pixels if self.to_display is None else self.to_display(pixels)
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
