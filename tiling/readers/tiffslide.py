"""tiffslide: TIFF-based slides from any fsspec URL, and TIFF compressions OpenSlide refuses."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tifffile
import tiffslide
from numpy.typing import NDArray

from tiling.errors import SlideOpenError, SlideReadError
from tiling.readers.base import (
    MAX_ASSOCIATED_PX,
    MAX_TILE_PX,
    WHITE,
    Reader,
    UnsupportedSlideError,
)
from tiling.readers.byte_source import ByteSource, LocalBytes, RemoteBytes
from tiling.readers.descriptions import with_description
from tiling.readers.stored_tiles import GREY_INVERTED, as_rgb
from tiling.readers.stream_check import STATING_SIZE, check_stream
from tiling.readers.tiff_check import check_tiff


class TiffSlideReader(Reader):
    """A slide opened by tiffslide, from a local path or an fsspec URL."""

    name: ClassVar[str] = "tiffslide"

    def __init__(self, slide: tiffslide.TiffSlide, path: str) -> None:
        self._slide = slide
        self._path = path
        self._close = weakref.finalize(self, slide.close)
        self._level_sizes = tuple((int(w), int(h)) for w, h in slide.level_dimensions)
        stated = {k: str(v) for k, v in slide.properties.items() if v is not None}
        self._properties = with_description(stated, self._level_sizes[0])
        for series in slide.ts_tifffile.series:
            for level in series.levels:
                _bound_decoding(level.keyframe)

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> TiffSlideReader:
        try:
            # Our ranges: fsspec's files read megabytes ahead, or without ranges all of it.
            source: ByteSource
            source = RemoteBytes(path, storage_options) if "://" in path else LocalBytes(path)
            with source.open() as checked:
                check_tiff(checked, path)
            with contextlib.ExitStack() as on_failure:
                file: Any = source.open() if "://" in path else path
                slide = tiffslide.TiffSlide(file)
                on_failure.callback(slide.close)
                _refuse_wrong_pixels(slide)
                opened = cls(slide, path)
                on_failure.pop_all()
            return opened
        except (UnsupportedSlideError, SlideOpenError):
            raise
        except tiffslide.TiffFileError as err:
            raise UnsupportedSlideError(f"tiffslide: {err}") from err
        except Exception as err:  # a hostile file raises whatever tifffile stumbles over
            raise SlideOpenError(f"{path}: tiffslide: {type(err).__name__}: {err}") from err

    @classmethod
    def version(cls) -> str:
        return f"tiffslide {importlib.metadata.version('tiffslide')}"

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._level_sizes

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def vendor(self) -> str:
        return self._properties.get("tiffslide.vendor", "")

    @property
    def associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._slide.associated_images))

    def tile_size(self, level: int) -> tuple[int, int]:
        stated = [self._properties.get(f"tiffslide.level[{level}].tile-{axis}", "")
                  for axis in ("width", "height")]  # fmt: skip
        # Striped levels state 0.
        if not all(text.isdecimal() and int(text) for text in stated):
            return super().tile_size(level)
        return int(stated[0]), int(stated[1])

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        width, height = size
        out = np.full((height, width, 3), WHITE, dtype=np.uint8)
        downsample = self.level_downsamples[level]
        level_width, level_height = self.level_sizes[level]
        # tiffslide refuses or wraps what lies outside: read the part inside, leave the rest white.
        x_level, y_level = (round(v / downsample) for v in location)
        left, top = max(x_level, 0), max(y_level, 0)
        right = min(x_level + width, level_width)
        bottom = min(y_level + height, level_height)
        if right <= left or bottom <= top:
            return out
        # It rounds down where we round: the next whole level-0 position is never the pixel before.
        corner = math.ceil(left * downsample), math.ceil(top * downsample)
        try:
            inside = (right - left, bottom - top)
            pixels = np.asarray(
                self._slide.read_region(corner, level, inside, as_array=True), np.uint8
            )
        except Exception as err:  # the decoders behind tifffile raise anything on bad data
            raise SlideReadError(
                f"{self._path}: level {level}, {width} x {height} px at {location}: {err}"
            ) from err
        out[top - y_level : bottom - y_level, left - x_level : right - x_level] = as_rgb(pixels)
        return out

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        images = self._slide.associated_images
        shape = images.series_map[name].shape
        if math.prod(shape) > MAX_ASSOCIATED_PX * 3:
            raise SlideReadError(f"{self._path}: associated image {name!r}: {shape} is no overview")
        try:
            return np.asarray(images[name].convert("RGB"))
        except Exception as err:  # as in read_region
            raise SlideReadError(f"{self._path}: associated image {name!r}: {err}") from err

    def close(self) -> None:
        self._close()


def _refuse_wrong_pixels(slide: tiffslide.TiffSlide) -> None:
    """Raise `UnsupportedSlideError` for what tiffslide opens and paints otherwise than stored."""
    if "tiffslide.series-composition" in slide.properties:
        raise UnsupportedSlideError(
            "tiffslide: a slide of several areas, which it misplaces at coarse levels; OpenSlide "
            "reads it from a local file"
        )
    for level in slide.ts_tifffile.series[slide.properties["tiffslide.series-index"]].levels:
        page = level.keyframe
        _check_pixels(page)
        if page.photometric == GREY_INVERTED:
            raise UnsupportedSlideError("tiffslide: grey with 0 as white, which it inverts")
        if 0 in page.databytecounts:
            raise UnsupportedSlideError("tiffslide: empty stored tiles, which it paints black")


def _check_pixels(page: tifffile.TiffPage) -> None:
    """Raise `UnsupportedSlideError` if a page does not decode to 8-bit grey or RGB."""
    compression, photometric = int(page.compression), int(page.photometric)
    is_converted = compression in tifffile.TIFF.IMAGE_COMPRESSIONS
    photometrics = (1, 2, 6) if is_converted else (1, 2)
    samples = page.samplesperpixel
    if page.dtype != np.uint8 or samples not in (1, 3, 4) or photometric not in photometrics:
        raise UnsupportedSlideError(
            f"tiffslide: {samples} samples of {page.dtype}, photometric {photometric}"
        )
    if is_converted and compression not in STATING_SIZE:
        raise UnsupportedSlideError(f"tiffslide: compression {compression}")
    if math.prod(page.chunks) > 4 * MAX_TILE_PX:
        raise UnsupportedSlideError(f"tiffslide: stored tiles of shape {page.chunks}")


def _bound_decoding(page: tifffile.TiffPage) -> None:
    """Let a page's tiles be decoded only while they state no more pixels than they have room for.

    tifffile asks its codecs for whatever size the stream states.
    """
    compression, decode = int(page.compression), page.decode
    height, width = page.chunks[:2]
    is_unbounded = compression in tifffile.TIFF.IMAGE_COMPRESSIONS - set(STATING_SIZE)

    def checked(data: bytes | None, index: int, /, **options: Any) -> Any:
        if is_unbounded:
            raise ValueError(f"compression {compression} is not read")
        if data is not None:
            check_stream(data, compression, (height, width))
        return decode(data, index, **options)

    page.__dict__["decode"] = checked  # where tifffile keeps the function that it made
