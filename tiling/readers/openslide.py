"""OpenSlide: SVS, NDPI, MIRAX, SCN, BIF, DICOM, generic tiled TIFF and more, from local files."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from tiling.errors import SlideOpenError, SlideReadError, UnsoundSlideError
from tiling.readers.base import (
    MAX_ASSOCIATED_PX,
    MAX_TILE_PX,
    Reader,
    UnsupportedSlideError,
    rgb_over_white,
)
from tiling.readers.descriptions import with_description
from tiling.readers.tiff_check import check_tiff

CACHE_BYTES = 64 << 20
"""Decoded tiles kept for all open slides of a process together."""

_DICOM_MEASURES = "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]"
_DICOM_KEYS = {
    f"{_DICOM_MEASURES}.PixelSpacing[0]": "dicom.PixelSpacingY",
    f"{_DICOM_MEASURES}.PixelSpacing[1]": "dicom.PixelSpacingX",
    "dicom.OpticalPathSequence[0].ObjectiveLensPower": "dicom.ObjectiveLensPower",
}
"""OpenSlide's names to those that every reader of DICOM uses; DICOM states rows (y) first."""

_cache = openslide.OpenSlideCache(CACHE_BYTES)


class OpenSlideReader(Reader):
    """A slide opened by OpenSlide; safe to read from several threads."""

    name: ClassVar[str] = "openslide"

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._slide = self._open_handle()
        # Kept, since even metadata cannot be asked of a handle that has seen an error.
        self._level_sizes = tuple((int(w), int(h)) for w, h in self._slide.level_dimensions)
        stated = dict(self._slide.properties)
        self._properties = with_description(_with_dicom(stated), self._level_sizes[0])
        self._associated_names = tuple(sorted(self._slide.associated_images))
        profile = self._slide.color_profile
        self._icc_profile = profile.tobytes() if profile else None
        for level in range(len(self._level_sizes)):
            width, height = self.tile_size(level)
            if not 0 < width * height <= MAX_TILE_PX:
                raise UnsoundSlideError(f"{path}: it states stored tiles of {width} x {height} px")

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> OpenSlideReader:
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                check_tiff(file, path, with_counts=True)
        return cls(path)

    @classmethod
    def version(cls) -> str:
        return f"openslide {openslide.__library_version__}"

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        return self._level_sizes

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def vendor(self) -> str:
        return self._properties.get(openslide.PROPERTY_NAME_VENDOR, "")

    @property
    def icc_profile(self) -> bytes | None:
        return self._icc_profile

    @property
    def associated_names(self) -> tuple[str, ...]:
        return self._associated_names

    def tile_size(self, level: int) -> tuple[int, int]:
        width = self._properties.get(f"openslide.level[{level}].tile-width")
        height = self._properties.get(f"openslide.level[{level}].tile-height")
        return (int(width), int(height)) if width and height else super().tile_size(level)

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        try:
            image = self._read(lambda slide: slide.read_region(location, level, size))
        except openslide.OpenSlideError as err:
            raise SlideReadError(
                f"{self._path}: level {level}, {size[0]} x {size[1]} px at {location}: {err}"
            ) from err
        return rgb_over_white(np.asarray(image))

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        size = [self._properties.get(f"openslide.associated.{name}.{axis}", "0")
                for axis in ("width", "height")]  # fmt: skip
        if math.prod(map(int, size)) > MAX_ASSOCIATED_PX:
            raise SlideReadError(
                f"{self._path}: associated image {name!r}: {' x '.join(size)} px is no overview"
            )
        try:
            image = self._read(lambda slide: slide.associated_images[name])
        except openslide.OpenSlideError as err:
            raise SlideReadError(f"{self._path}: associated image {name!r}: {err}") from err
        return rgb_over_white(np.asarray(image))

    def _read(self, read: Callable[[openslide.OpenSlide], Image.Image]) -> Image.Image:
        """Read from the shared handle; if that fails, once more from a handle of its own.

        After its first error an OpenSlide handle fails for ever, also for the threads that are
        reading good pixels from it at that moment: only a fresh handle tells whose fault it was.
        """
        shared = self._slide
        try:
            return read(shared)
        except openslide.OpenSlideError:
            with self._lock:
                if self._slide is shared:
                    # The old handle is left to the collector: other threads may still be in it.
                    self._slide = self._open_handle()
                with self._open_handle() as own:
                    return read(own)

    def close(self) -> None:
        self._slide.close()

    def _open_handle(self) -> openslide.OpenSlide:
        try:
            handle = openslide.OpenSlide(self._path)
        except openslide.OpenSlideUnsupportedFormatError as err:
            raise UnsupportedSlideError("openslide: does not know this format") from err
        except openslide.OpenSlideError as err:
            raise SlideOpenError(f"{self._path}: openslide: {err}") from err
        handle.set_cache(_cache)
        return handle


def _with_dicom(properties: dict[str, str]) -> dict[str, str]:
    return properties | {
        to: properties[key] for key, to in _DICOM_KEYS.items() if key in properties
    }
