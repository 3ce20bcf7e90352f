"""One whole-slide image: levels, pixel size, metadata and pixels."""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError, SlideTooLargeError, UnsoundSlideError
from tiling.geometry import PixelBox, true_downsample
from tiling.readers.base import WHITE, check_level_sizes
from tiling.readers.registry import load_reader, open_reader
from tiling.resample import resample
from tiling.resolution import Resolution, as_pair, require_mpp, resolve_mpp
from tiling.urls import file_name, is_url, public_url

LEVEL_TOLERANCE = 0.01
"""How much coarser than wanted a level may be, relatively: pyramids state 4.00012 for 4."""
PART_PX = 2048
"""Side in source pixels of what is decoded together: a larger rectangle is read in parts."""
MAX_SOURCE_PX = 1 << 34
"""Source pixels that one picture may be averaged from: 130,000 x 130,000 px without a pyramid."""
OPEN_SLIDES = 8
"""Slides that a process keeps open for Dask tasks."""

_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class SlideRef:
    """How to open a slide again, in another thread or process: small, hashable, picklable."""

    path: str
    reader: str = "auto"
    mpp: tuple[float, float] | None = None
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        return f"SlideRef({public_url(self.path)!r}, reader={self.reader!r}, mpp={self.mpp})"

    def open(self) -> Slide:
        """Return this process's shared open slide; it is not the caller's to close."""
        with _opening:  # or each thread of a pool would open it, and keep what it fetched apart
            return _shared_slide(self, _stamp(self.path))


class Slide:
    """An open whole-slide image; made by :func:`open_slide`, closed by ``with`` or `close`.

    Positions are level-0 pixels, sizes are (width, height), arrays are ``(height, width, 3)``.
    """

    def __init__(self, ref: SlideRef) -> None:
        self.ref = ref
        self._reader = open_reader(ref.path, reader=ref.reader, storage_options=ref.storage_options)
        try:
            check_level_sizes(self.path, self._reader.level_sizes)
        except UnsoundSlideError:
            self._reader.close()
            raise
        self.resolution: Resolution = resolve_mpp(self.properties, override=ref.mpp)

    @property
    def path(self) -> str:
        """Path or URL as given."""
        return self.ref.path

    @property
    def name(self) -> str:
        """File name."""
        return file_name(self.path)

    @property
    def reader(self) -> str:
        """Name of the reader that opened the slide."""
        return self._reader.name

    @property
    def reader_version(self) -> str:
        """Reader with its version."""
        return self._reader.version()

    @property
    def decoder(self) -> str:
        """What decodes the stored tiles, with its version."""
        return self._reader.decoder

    @property
    def refusals(self) -> Mapping[str, str]:
        """Readers that were tried before and refused the slide, and why."""
        return self._reader.refusals

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful about the pixel size or particular about how the slide is read."""
        return *self.resolution.warnings, *self._reader.notes

    @property
    def vendor(self) -> str:
        """Format name, e.g. ``"aperio"``."""
        return self._reader.vendor

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return self.level_sizes[0]

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, finest first."""
        return self._reader.level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Downsample of each level relative to level 0."""
        return self._reader.level_downsamples

    @property
    def properties(self) -> Mapping[str, str]:
        """Metadata as the slide states it; may name the patient."""
        return self._reader.properties

    @property
    def icc_profile(self) -> bytes | None:
        """ICC profile of the pixels, as the scanner wrote it; None if there is none.

        Pixels are always read as they are stored; a profile is for showing them.
        """
        return self._reader.icc_profile

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the associated images (label, macro, thumbnail)."""
        return self._reader.associated_names

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Pixel size (x, y) in µm as resolved, or None; see `resolution` for source and doubts."""
        return self.resolution.mpp

    def require_mpp(self) -> tuple[float, float]:
        """Return the pixel size (x, y) in µm, or raise the named error that says why not."""
        return require_mpp(self.resolution, self.name)

    def tile_size(self, level: int) -> tuple[int, int]:
        """Return (width, height) of the tiles stored at `level`; 256 x 256 where not stated."""
        return self._reader.tile_size(level)

    def read_region(
        self, location: tuple[int, int], *, level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return RGB pixels of one level.

        Parameters
        ----------
        location
            (x0, y0) of the top left pixel in level 0, whatever the level (OpenSlide's rule).
        level
            0 is the finest.
        size
            (width, height) in pixels of that level.

        Returns
        -------
        uint8, shape ``(height, width, 3)``; white outside the slide.

        Raises
        ------
        SlideReadError
            The stored data cannot be decoded.
        """
        self.check_level(level)
        return self._reader.read_region(location, level, size)

    def check_level(self, level: int) -> None:
        """Raise `ValueError` if the slide has no such level."""
        last = len(self.level_sizes) - 1
        if not 0 <= level <= last:
            raise ValueError(f"level={level}: {self.name} has levels 0 to {last}")

    def read_scaled(
        self,
        location: tuple[int, int],
        extent: tuple[int, int],
        size: tuple[int, int],
        *,
        exact: bool = False,
    ) -> NDArray[np.uint8]:
        """Return one level-0 rectangle as `size` (width, height) pixels; see :meth:`read_into`.

        Raises
        ------
        SlideReadError
            The stored data cannot be decoded.
        """
        out = np.empty((1, size[1], size[0], 3), np.uint8)
        for error in self.read_into(out, np.array([location]), extent, exact=exact).values():
            raise error
        found: NDArray[np.uint8] = out[0]
        return found

    def read_into(
        self,
        out: NDArray[np.uint8],
        coords: NDArray[np.int64],
        extent: tuple[int, int],
        *,
        exact: bool = False,
    ) -> dict[int, SlideReadError]:
        """Read rectangles of one extent at one scale; neighbours share what has been decoded.

        The coarsest level that is not coarser than the result is read, shrunk further while it
        is decoded where the reader can, and averaged over each result pixel's own area, fractions
        included. Where the slide has no pixels that fine, it is enlarged by bicubic interpolation.

        Parameters
        ----------
        out
            uint8, shape ``(N, height, width, 3)``: takes the pixels, white outside the slide and
            where the stored data cannot be decoded.
        coords
            x0, y0 of the rectangles, level 0, shape ``(N, 2)``.
        extent
            (width, height) of every rectangle, level 0.
        exact
            Decode at full resolution and average, where the reader could decode smaller.

        Returns
        -------
        The error of each rectangle that could not be read, by its index.

        Raises
        ------
        SlideTooLargeError
            A rectangle has more stored pixels than one picture may be averaged from.
        """
        size = out.shape[2], out.shape[1]
        self.check_source(extent, size, exact=exact)
        level, reduction = self._source_of(extent, size, exact=exact)
        scale = reduction * np.asarray(self._level_scale(level))
        source = np.asarray(extent) / scale
        finer = math.ceil((source / size).max() / PART_PX)
        if finer > 1:
            return self._read_finer(finer, out, coords, extent, exact=exact)
        edges = np.concatenate([coords, coords + np.asarray(extent)], axis=1) / np.tile(scale, 2)
        if (source <= PART_PX).all():
            return self._read_edges(out, edges, level, reduction)
        errors = {}
        for index, rectangle in enumerate(edges):
            for rows, columns, part in _parts(rectangle, size, source):
                pixels = np.empty_like(out[:1, rows, columns])
                for error in self._read_edges(pixels, part[None], level, reduction).values():
                    errors[index] = error
                out[index, rows, columns] = pixels[0]
            if index in errors:
                out[index] = WHITE
        return errors

    def _read_edges(
        self, out: NDArray[np.uint8], edges: NDArray[np.float64], level: int, reduction: int
    ) -> dict[int, SlideReadError]:
        """Read rectangles whose `edges` (N, 4) are given in px of the reduced level."""
        size = out.shape[2], out.shape[1]
        edges = np.round(edges, 6)
        low = np.floor(edges[:, :2])
        # The last pixel of a level may be half padding, or lack what rounding dropped: the one
        # before it stands in its place, so that nothing is shifted.
        whole = np.asarray(self.level_sizes[level]) // reduction
        beyond = edges[:, 2:] - whole
        high = np.where((beyond > 0) & (beyond < 1), whole, np.ceil(edges[:, 2:]))
        high = np.maximum(high, low + 1)
        boxes = [PixelBox(*b) for b in np.concatenate([low, high], axis=1).astype(int).tolist()]
        inner = edges - np.tile(low, 2)
        is_plain = bool((inner == (0, 0, *size)).all())
        errors = {}
        found = self._reader.read_boxes(
            level, boxes, reduction=reduction, out=out if is_plain else None
        )
        for index, (pixels, part) in enumerate(zip(found, inner.tolist(), strict=True)):
            if isinstance(pixels, SlideReadError):
                out[index] = WHITE
                errors[index] = pixels
            elif not is_plain:
                resample(pixels, tuple(part), out[index])
        return errors

    def _read_finer(
        self,
        finer: int,
        out: NDArray[np.uint8],
        coords: NDArray[np.int64],
        extent: tuple[int, int],
        *,
        exact: bool,
    ) -> dict[int, SlideReadError]:
        """Read a picture with `finer` times as many pixels a side, and average that."""
        height, width = out.shape[1] * finer, out.shape[2] * finer
        pixels = np.empty((len(out), height, width, 3), np.uint8)
        errors = self.read_into(pixels, coords, extent, exact=exact)
        for index, picture in enumerate(pixels):
            resample(picture, (0, 0, width, height), out[index])
        return errors

    def _source_of(
        self, extent: tuple[int, int], size: tuple[int, int], *, exact: bool
    ) -> tuple[int, int]:
        """Return which level to read and by how much to shrink it while decoding."""
        level = self.level_for(min(extent[0] / size[0], extent[1] / size[1]))
        if exact:
            return level, 1
        scale = self._level_scale(level)
        wanted = min(extent[axis] / size[axis] / scale[axis] for axis in (0, 1))
        fitting = [r for r in self._reader.reductions(level) if r <= wanted * (1 + LEVEL_TOLERANCE)]
        return level, max(fitting, default=1)

    def _level_scale(self, level: int) -> tuple[float, float]:
        """Return level-0 px per px of `level`, (x, y), free of the rounding of level sizes."""
        (width, height), (level_width, level_height) = self.size, self.level_sizes[level]
        return true_downsample(width, level_width), true_downsample(height, level_height)

    def check_source(
        self, extent: tuple[int, int], size: tuple[int, int], *, exact: bool = False
    ) -> None:
        """Raise `SlideTooLargeError` if reading `extent` as `size` px would decode without end."""
        level, reduction = self._source_of(extent, size, exact=exact)
        source = math.prod(extent) / math.prod(self._level_scale(level)) / reduction**2
        if source > MAX_SOURCE_PX:
            raise SlideTooLargeError(
                f"{self.name}: {extent[0]} x {extent[1]} px as {size[0]} x {size[1]} would take "
                f"{source:.3g} stored px (at most {MAX_SOURCE_PX:.3g}): no level is coarse enough"
            )

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level that is no coarser than `downsample`."""
        fitting = [
            level
            for level, d in enumerate(self.level_downsamples)
            if d <= downsample * (1 + LEVEL_TOLERANCE)
        ]
        return max(fitting, key=lambda level: self.level_downsamples[level], default=0)

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """Return the whole slide, RGB, its longer edge at most `max_px`; never the label."""
        width, height = self.size
        scale = min(max_px / max(width, height), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        return self.read_scaled((0, 0), self.size, size)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return the associated image `name`, RGB; a label or macro may show the patient's name."""
        if name not in self.associated_names:
            raise ValueError(f"{self.name}: no associated image {name!r}; it has "
                             f"{', '.join(self.associated_names) or 'none'}")  # fmt: skip
        return self._reader.read_associated(name)

    def close(self) -> None:
        """Release the file."""
        self._reader.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Slide], tuple[SlideRef]]:
        return Slide, (self.ref,)

    def __repr__(self) -> str:
        return f"<Slide {self.name} {self.size[0]} x {self.size[1]} px, mpp {self.mpp}>"


def open_slide(
    path: str | Path,
    *,
    reader: str = "auto",
    mpp: float | tuple[float, float] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Slide:
    """Open a slide from a local path or an fsspec URL.

    Parameters
    ----------
    path
        A slide file; a folder that is an OME-Zarr image or holds one DICOM series; or a URL such
        as ``s3://bucket/slide.svs`` or ``https://host/slide.zarr``.
    reader
        ``"auto"`` or the name of a reader: ``"tiff"``, ``"openslide"``, ``"dicom"``,
        ``"ome-zarr"``, ``"tiffslide"``.
    mpp
        Pixel size at level 0 in µm, or (x, y); overrides what the slide states.
    storage_options
        Passed to fsspec for URLs (keys, endpoint); never stored. Without them, the environment
        says: ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``FSSPEC_S3_ANON=true`` and the like.

    Raises
    ------
    SlideOpenError
        No such file, or no reader opens it; `SlideAccessError` where a URL cannot be reached.
    """
    pair = as_pair(mpp)
    if reader != "auto":
        load_reader(reader)
    return Slide(SlideRef(str(path), reader, pair, dict(storage_options or {})))


def _parts(
    edges: NDArray[np.float64], size: tuple[int, int], source: NDArray[np.float64]
) -> Iterator[tuple[slice, slice, NDArray[np.float64]]]:
    """Yield the rows and columns of each part of a picture of `size`, and the part's own edges."""
    scale = (edges[2:] - edges[:2]) / size
    bounds = [
        [length * piece // pieces for piece in range(pieces + 1)]
        for length, pieces in zip(size, np.ceil(source / PART_PX).astype(int).tolist(), strict=True)
    ]
    for top, bottom in itertools.pairwise(bounds[1]):
        for left, right in itertools.pairwise(bounds[0]):
            corners = np.array([[left, top], [right, bottom]])
            part = (np.tile(edges[:2], (2, 1)) + corners * scale).ravel()
            yield slice(top, bottom), slice(left, right), part


def _stamp(path: str) -> tuple[int, int]:
    """Return what changes when a local file is replaced."""
    if is_url(path):
        return 0, 0
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=OPEN_SLIDES)
def _shared_slide(ref: SlideRef, stamp: tuple[int, int]) -> Slide:
    # A slide that drops out of the cache is closed by the collector once no thread reads it.
    return Slide(ref)
