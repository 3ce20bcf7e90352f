"""What a reader must offer. A new one is a file beside this, named in `registry.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError, UnsoundSlideError
from tiling.geometry import PixelBox

WHITE = 255
MAX_SIDE_PX = 1 << 22
"""0.2 m at 0.05 µm per pixel: no glass slide is longer."""
MAX_TILE_PX = 1 << 26
"""Pixels of one stored tile or strip, e.g. 8192 x 8192; as RGB, 192 MiB."""
MAX_TILE_BYTES = 4 * MAX_TILE_PX
MAX_ASSOCIATED_PX = 100_000_000
"""Pixels of a label, macro or thumbnail image."""


class UnsupportedSlideError(Exception):
    """The reader does not know the format; another may. Never leaves `tiling.readers`."""


class Reader(ABC):
    """An open slide file.

    Reading follows OpenSlide's rule: `location` is (x0, y0) in level 0 whatever the level, `size`
    is (width, height) in pixels of that level, and what lies outside the slide or was never
    scanned is white.
    """

    name: ClassVar[str]
    notes: tuple[str, ...] = ()
    """What a user should know of how this slide is read, e.g. which of its focal planes."""
    refusals: Mapping[str, str] = MappingProxyType({})
    """Readers that were tried before this one, and why they refused the slide."""

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
    def decoder(self) -> str:
        """What decodes the stored tiles, with its version; the reader itself where it does."""
        return self.version()

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Each level's downsample relative to level 0, the mean of both axes (OpenSlide's rule)."""
        width, height = self.level_sizes[0]
        return tuple((width / w + height / h) / 2 for w, h in self.level_sizes)

    @property
    @abstractmethod
    def properties(self) -> Mapping[str, str]:
        """Metadata as the slide states it."""

    @property
    @abstractmethod
    def vendor(self) -> str:
        """The format's name, e.g. ``"aperio"``; "" if unknown."""

    @property
    def icc_profile(self) -> bytes | None:
        """ICC profile of the pixels, as the scanner wrote it; None if it wrote none."""
        return None

    @property
    @abstractmethod
    def associated_names(self) -> tuple[str, ...]:
        """Names of label, macro and thumbnail images; they may show the patient's name."""

    @abstractmethod
    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return RGB pixels, shape ``(height, width, 3)``; raise `SlideReadError` on bad data."""

    def tile_size(self, level: int) -> tuple[int, int]:
        """Return (width, height) of the tiles stored at `level`; 256 x 256 where not known."""
        return 256, 256

    def reductions(self, level: int) -> tuple[int, ...]:
        """Return the factors by which `level` can be shrunk while it is decoded, 1 first."""
        return (1,)

    def read_boxes(
        self,
        level: int,
        boxes: Sequence[PixelBox],
        *,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> Iterator[NDArray[np.uint8] | SlideReadError]:
        """Read several boxes of one level, in order, going on past those that cannot be decoded.

        Parameters
        ----------
        boxes
            In pixels of the level after `reduction`; white outside of it.
        reduction
            One of :meth:`reductions`.
        out
            Where to put the pixels, shape ``(N, height, width, 3)``, for boxes of one size.

        Yields
        ------
        uint8 RGB ``(height, width, 3)``, not to be written to, a row of `out` if that is given; or
        the error of that box.
        """
        downsample = self.level_downsamples[level]
        for index, box in enumerate(boxes):
            try:
                location = round(box.left * downsample), round(box.top * downsample)
                pixels = self.read_region(location, level, box.size)
            except SlideReadError as err:
                yield err
                continue
            if out is not None:
                out[index] = pixels
            yield pixels if out is None else out[index]

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


def check_level_sizes(path: str, level_sizes: Sequence[tuple[int, int]]) -> None:
    """Raise `UnsoundSlideError` if a level has no pixels, or more than a slide can have."""
    for level, (width, height) in enumerate(level_sizes):
        if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
            raise UnsoundSlideError(
                f"{path}: level {level} states {width} x {height} px; a side of a slide "
                f"has 1 to {MAX_SIDE_PX} px"
            )
