"""tiffslide: TIFF-based slides from any fsspec URL, and TIFF compressions OpenSlide refuses."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tiffslide
from numpy.typing import NDArray

from tiling.errors import SlideOpenError, SlideReadError
from tiling.readers.base import WHITE, Reader, UnsupportedSlideError
from tiling.readers.byte_source import RemoteBytes
from tiling.readers.descriptions import with_description
from tiling.readers.stored_tiles import GREY_INVERTED, as_rgb


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

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> TiffSlideReader:
        try:
            with contextlib.ExitStack() as on_failure:
                # Our ranges: fsspec's files read megabytes ahead, or without ranges all of it.
                source = RemoteBytes(path, storage_options) if "://" in path else None
                file: Any = source.open() if source else path
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
        width = self._properties.get(f"tiffslide.level[{level}].tile-width")
        height = self._properties.get(f"tiffslide.level[{level}].tile-height")
        return (int(width), int(height)) if width and height else super().tile_size(level)

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
            pixels = self._slide.read_region(
                corner, level, (right - left, bottom - top), as_array=True
            )
        except Exception as err:  # the decoders behind tifffile raise anything on bad data
            raise SlideReadError(
                f"{self._path}: level {level}, {width} x {height} px at {location}: {err}"
            ) from err
        out[top - y_level : bottom - y_level, left - x_level : right - x_level] = as_rgb(
            np.asarray(pixels, np.uint8)
        )
        return out

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._slide.associated_images[name].convert("RGB"))
        except KeyError:
            raise
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
        if page.dtype != np.uint8:
            raise UnsupportedSlideError(f"tiffslide: pixels of {page.dtype}; 8 bit is read")
        if page.photometric == GREY_INVERTED:
            raise UnsupportedSlideError("tiffslide: grey with 0 as white, which it inverts")
        if 0 in page.databytecounts:
            raise UnsupportedSlideError("tiffslide: empty stored tiles, which it paints black")
