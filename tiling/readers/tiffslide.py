"""tiffslide: TIFF-based slides from any fsspec URL, and TIFF compressions OpenSlide refuses."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tiffslide
from numpy.typing import NDArray

from tiling.errors import SlideOpenError, SlideReadError
from tiling.readers.base import WHITE, Reader, UnsupportedSlideError
from tiling.readers.descriptions import with_description


class TiffSlideReader(Reader):
    """A slide opened by tiffslide, from a local path or an fsspec URL."""

    name: ClassVar[str] = "tiffslide"

    def __init__(self, slide: tiffslide.TiffSlide, path: str) -> None:
        self._slide = slide
        self._path = path
        self._level_sizes = tuple((int(w), int(h)) for w, h in slide.level_dimensions)
        stated = {k: str(v) for k, v in slide.properties.items() if v is not None}
        self._properties = with_description(stated, self._level_sizes[0])

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> TiffSlideReader:
        options = {"storage_options": dict(storage_options)} if storage_options else {}
        try:
            slide = tiffslide.TiffSlide(path, **options)
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(slide.close)
                opened = cls(slide, path)
                on_failure.pop_all()
            return opened
        except tiffslide.TiffFileError as err:
            raise UnsupportedSlideError(f"tiffslide: {err}") from err
        except ImportError as err:
            raise SlideOpenError(f"{path}: {err}; pip install 'wsi-pipeline[remote]'") from err
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
        corner = (round(left * downsample), round(top * downsample))
        try:
            pixels = self._slide.read_region(
                corner, level, (right - left, bottom - top), as_array=True
            )
        except Exception as err:  # the decoders behind tifffile raise anything on bad data
            raise SlideReadError(
                f"{self._path}: level {level}, {width} x {height} px at {location}: {err}"
            ) from err
        out[top - y_level : bottom - y_level, left - x_level : right - x_level] = pixels[..., :3]
        return out

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            return np.asarray(self._slide.associated_images[name].convert("RGB"))
        except KeyError:
            raise
        except Exception as err:  # as in read_region
            raise SlideReadError(f"{self._path}: associated image {name!r}: {err}") from err

    def close(self) -> None:
        self._slide.close()
