"""One whole-slide image: levels, pixel size, metadata and pixels."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import fsspec
import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideOpenError
from tiling.geometry import Region
from tiling.readers.registry import is_url, load_reader, open_reader
from tiling.resolution import Resolution, require_mpp, resolve_mpp

LEVEL_TOLERANCE = 0.01
"""How much coarser than wanted a level may be, relatively: pyramids state 4.00012 for 4."""
HASH_BYTES = 1 << 16
OPEN_SLIDES = 8
"""Slides that a process keeps open for Dask tasks."""


@dataclass(frozen=True, slots=True)
class SlideRef:
    """How to open a slide again, in another thread or process: small, hashable, picklable."""

    path: str
    reader: str = "auto"
    mpp: tuple[float, float] | None = None
    storage_options: dict[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def open(self) -> Slide:
        """Return this process's shared open slide; it is not the caller's to close."""
        return _shared_slide(self)


class Slide:
    """An open whole-slide image; made by :func:`open_slide`, closed by ``with`` or `close`.

    Positions are level-0 pixels, sizes are (width, height), arrays are ``(height, width, 3)``.
    """

    def __init__(self, ref: SlideRef) -> None:
        self.ref = ref
        self._reader = open_reader(ref.path, reader=ref.reader, storage_options=ref.storage_options)
        self.resolution: Resolution = resolve_mpp(self.properties, override=ref.mpp)

    @property
    def path(self) -> str:
        """Path or URL as given."""
        return self.ref.path

    @property
    def name(self) -> str:
        """File name."""
        return PurePosixPath(Path(self.path).as_posix()).name

    @property
    def reader(self) -> str:
        """Name of the reader that opened the slide."""
        return self._reader.name

    @property
    def reader_version(self) -> str:
        """Reader and decoder with their versions."""
        return self._reader.version()

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
        for prefix in ("openslide", "tiffslide"):
            width = self.properties.get(f"{prefix}.level[{level}].tile-width")
            height = self.properties.get(f"{prefix}.level[{level}].tile-height")
            if width and height:
                return int(width), int(height)
        return 256, 256

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
        self, location: tuple[int, int], extent: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return the level-0 rectangle at `location`, `extent` wide and high, as `size` pixels.

        The coarsest level that is not coarser than the result is read, its edges rounded to whole
        pixels of that level, and averaged over each result pixel's own area, fractions included.
        Where the slide has no pixels that fine, it is enlarged by bicubic interpolation.
        """
        wanted = min(extent[0] / size[0], extent[1] / size[1])
        level = self.level_for(wanted)
        downsample = self.level_downsamples[level]
        rows, columns = Region(*location, *extent).level_slices(downsample)
        found = max(columns.stop - columns.start, 1), max(rows.stop - rows.start, 1)
        corner = round(columns.start * downsample), round(rows.start * downsample)
        pixels = self.read_region(corner, level=level, size=found)
        if found == size:
            return pixels
        is_upsampled = found[0] < size[0] or found[1] < size[1]
        method = cv2.INTER_CUBIC if is_upsampled else cv2.INTER_AREA
        return np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)

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
        A slide file, or a URL such as ``s3://bucket/slide.svs`` or ``https://host/slide.tif``.
    reader
        ``"auto"``, ``"openslide"`` or ``"tiffslide"``.
    mpp
        Pixel size at level 0 in µm, or (x, y); overrides what the slide states.
    storage_options
        Passed to fsspec for URLs (keys, endpoint); never stored.

    Raises
    ------
    SlideOpenError
        No such file, or no reader opens it.
    """
    pair = (float(mpp), float(mpp)) if isinstance(mpp, int | float) else mpp
    if pair is not None and not all(math.isfinite(v) and v > 0 for v in pair):
        raise ValueError(f"mpp={mpp}: must be positive, in µm per pixel")
    if reader != "auto":
        load_reader(reader)
    return Slide(SlideRef(str(path), reader, pair, dict(storage_options or {})))


@dataclass(frozen=True, slots=True)
class Source:
    """What identifies a slide file: its size and a hash of its first, middle and last bytes."""

    name: str
    size_bytes: int
    quick_hash: str


def read_source(path: str, *, storage_options: Mapping[str, Any] | None = None) -> Source:
    """Return the identity of the file at `path`; reads 192 KiB at most.

    Raises
    ------
    SlideOpenError
        The file cannot be read.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path, **(storage_options or {}))
        size = int(filesystem.size(inner))
        digest = hashlib.sha256(str(size).encode())
        middle, end = max(size // 2 - HASH_BYTES // 2, 0), max(size - HASH_BYTES, 0)
        with filesystem.open(inner, "rb") as file:
            for start in (0, middle, end):
                file.seek(start)
                digest.update(file.read(HASH_BYTES))
    except (OSError, ValueError, ImportError) as err:
        raise SlideOpenError(f"{path}: cannot be read: {err}") from err
    name = PurePosixPath(Path(inner).as_posix() if not is_url(path) else inner).name
    return Source(name, size, digest.hexdigest())


@functools.lru_cache(maxsize=OPEN_SLIDES)
def _shared_slide(ref: SlideRef) -> Slide:
    # A slide that drops out of the cache is closed by the collector once no thread reads it.
    return Slide(ref)
