"""What a reader must offer. A new one is a file beside this, named in `registry.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

WHITE = 255


class UnsupportedSlideError(Exception):
    """The reader does not know the format; another may. Never leaves `tiling.readers`."""


class Reader(ABC):
    """An open slide file.

    Reading follows OpenSlide's rule: `location` is (x0, y0) in level 0 whatever the level, `size`
    is (width, height) in pixels of that level, and what lies outside the slide or was never
    scanned is white.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> Reader:
        """Open `path`; raise `UnsupportedSlideError` or `SlideOpenError` where that fails."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return reader and decoder with their versions, e.g. ``"openslide 4.0.1"``."""

    @property
    @abstractmethod
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level, finest first."""

    @property
    @abstractmethod
    def level_downsamples(self) -> tuple[float, ...]:
        """Each level's downsample relative to level 0, >= 1."""

    @property
    @abstractmethod
    def properties(self) -> Mapping[str, str]:
        """Metadata as the slide states it."""

    @property
    @abstractmethod
    def vendor(self) -> str:
        """The format's name, e.g. ``"aperio"``; "" if unknown."""

    @property
    @abstractmethod
    def associated_names(self) -> tuple[str, ...]:
        """Names of label, macro and thumbnail images; they may show the patient's name."""

    @abstractmethod
    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return RGB pixels, shape ``(height, width, 3)``; raise `SlideReadError` on bad data."""

    @abstractmethod
    def read_associated(self, name: str) -> NDArray[np.uint8]:
        """Return an associated image as RGB, shape ``(h, w, 3)``."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""


def rgb_over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``(h, w, 3)`` RGB of ``(h, w, 4)`` RGBA laid over white.

    Examples
    --------
    >>> rgb_over_white(np.array([[[9, 8, 7, 255], [9, 8, 7, 0]]], np.uint8)).tolist()
    [[[9, 8, 7], [255, 255, 255]]]
    """
    rgb = rgba[..., :3]
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgb)
    weight = alpha.astype(np.uint16)
    blended = (rgb * weight + WHITE * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)
