"""Which pixels of any region of a slide are annotated: from outlines, or from a picture of them."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from shapely import MultiPolygon

from tiling.annotations import AnnotationError, area_mask, area_pieces, check_on_slide
from tiling.geometry import true_downsample
from tiling.slide import SlideRef

PIECE_PX = 1024.0
"""Level-0 px of the pieces that outlines are cut into, so that a region draws what is near it."""
PICTURE_SUFFIXES = (".png", ".bmp")
MAX_PIXELS = 1 << 30


Corners = NDArray[np.int64] | NDArray[np.float64]


class MaskImageError(AnnotationError):
    """A picture of a mask cannot be read, is no mask, or is not its slide's."""


class RegionMask(Protocol):
    """What is annotated on a slide."""

    def read(
        self, coords: Corners, extent: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Return which pixels of regions have their centre inside, ``(N, height, width)``.

        Parameters
        ----------
        coords, extent
            x0, y0 of the regions ``(N, 2)`` and their (width, height), level-0 px.
        size
            (width, height) of the result, px.
        """


class OutlineMask:
    """Outlines in level-0 px; only what is near a region is drawn.

    Raises
    ------
    AnnotationError
        An outline has no part on the slide: it is another slide's, or another level's pixels.
    """

    def __init__(self, area: MultiPolygon, slide_size: tuple[int, int]) -> None:
        check_on_slide(area, slide_size)
        self.area = area
        self._pieces = np.array(area_pieces(area, PIECE_PX), dtype=object)
        self._tree = shapely.STRtree(self._pieces)

    def read(
        self, coords: Corners, extent: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        found = np.zeros((len(coords), size[1], size[0]), np.bool_)
        if not len(self._pieces):
            return found
        corners = np.asarray(coords, np.float64)
        regions = shapely.box(*corners.T, *(corners + extent).T)
        region, piece = self._tree.query(regions, predicate="intersects")
        scale = np.asarray(extent) / size
        for index in np.unique(region).tolist():
            near = self._pieces[piece[region == index]]
            local = shapely.transform(near, functools.partial(_within, corners[index], scale))
            found[index] = area_mask(MultiPolygon(list(local)), size, 1.0)
        return found


class ImageMask:
    """A picture of the whole slide, at whatever scale: the pixel at a place says what is there.

    Parameters
    ----------
    path
        PNG (held in memory), or any file that opens as a slide: tiled TIFF, OME-Zarr.
    slide_size
        (width, height) of the slide, level-0 px.
    value
        The value of what is inside; without it the picture is 1-bit, or 0 and 255.

    Raises
    ------
    MaskImageError
        The file cannot be read, holds other values, or has not the slide's shape.
    """

    def __init__(
        self, path: str | Path, slide_size: tuple[int, int], *, value: int | None = None
    ) -> None:
        self.path = Path(path)
        self._value = value
        self._bits: NDArray[np.uint8] | None = None
        if self.path.suffix.lower() in PICTURE_SUFFIXES:
            pixels = self._inside(read_mask_picture(self.path))
            self._size = pixels.shape[1], pixels.shape[0]
            self._bits = np.packbits(pixels, axis=1)
        else:
            self._size = SlideRef(str(self.path)).open().size
        if not _has_shape(self._size, slide_size):
            raise MaskImageError(
                f"{self.path.name}: {self._size[0]} x {self._size[1]} px is not the shape of its "
                f"slide, {slide_size[0]} x {slide_size[1]} px; give a mask of the whole slide"
            )
        self._scale = [
            true_downsample(whole, part) if whole >= part else whole / part
            for whole, part in zip(slide_size, self._size, strict=True)
        ]

    def read(
        self, coords: Corners, extent: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        found = np.zeros((len(coords), size[1], size[0]), np.bool_)
        steps = [(np.arange(size[axis]) + 0.5) * extent[axis] / size[axis] for axis in (0, 1)]
        for index, corner in enumerate(coords.tolist()):
            x, y = ((corner[axis] + steps[axis]) / self._scale[axis] for axis in (0, 1))
            found[index] = self._at(x, y)
        return found

    def _at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return what the mask says at columns `x` and rows `y`, px of its finest level."""
        level, downsample, limits = 0, 1.0, self._size
        slide = None if self._bits is not None else SlideRef(str(self.path)).open()
        if slide is not None:
            step = min((v[-1] - v[0]) / max(len(v) - 1, 1) for v in (x, y))
            level = slide.level_for(max(step, 1.0))
            downsample, limits = slide.level_downsamples[level], slide.level_sizes[level]
        columns, rows = (np.floor(v / downsample).astype(np.int64) for v in (x, y))
        left, top = max(int(columns[0]), 0), max(int(rows[0]), 0)
        right, bottom = min(int(columns[-1]) + 1, limits[0]), min(int(rows[-1]) + 1, limits[1])
        if left >= right or top >= bottom:
            return np.zeros((len(y), len(x)), np.bool_)
        if slide is None:
            pixels = self._picture(left, top, right, bottom)
        else:
            location = math.ceil(left * downsample), math.ceil(top * downsample)
            size = right - left, bottom - top
            pixels = self._inside(slide.read_region(location, level=level, size=size)[..., 0])
        return _taken(pixels, columns - left, rows - top)

    def _picture(self, left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
        """Return a part of the picture in memory, which has 8 px in a byte."""
        if self._bits is None:
            raise MaskImageError(f"{self.path.name}: is no picture in memory")
        first = left // 8
        part = np.unpackbits(self._bits[top:bottom, first : -(-right // 8)], axis=1)
        return part[:, left - 8 * first : right - 8 * first].astype(np.bool_)

    def _inside(self, values: NDArray[np.generic]) -> NDArray[np.bool_]:
        if self._value is not None:
            return np.asarray(values == self._value)
        if values.dtype == bool:
            return values.astype(np.bool_)
        strange = np.unique(values[(values != 0) & (values != 255)])
        if len(strange):
            held = ", ".join(map(str, strange[:4].tolist()))
            raise MaskImageError(
                f"{self.path.name}: holds the values {held}, where 0 and 255 are needed; say which "
                "one is inside, e.g. --mask-value 1"
            )
        return np.asarray(values == 255)


def _within(
    corner: NDArray[np.float64], scale: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return level-0 points ``(N, 2)`` in pixels of a region."""
    return np.asarray((points - corner) / scale)


def _taken(
    pixels: NDArray[np.bool_], columns: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return the pixels at all pairs of `rows` and `columns`; nothing is outside the picture."""
    across = (columns >= 0) & (columns < pixels.shape[1])
    down = (rows >= 0) & (rows < pixels.shape[0])
    found = np.zeros((len(rows), len(columns)), np.bool_)
    found[np.ix_(down, across)] = pixels[np.ix_(rows[down], columns[across])]
    return found


def _has_shape(size: tuple[int, int], slide_size: tuple[int, int]) -> bool:
    """Whether one factor makes `size` of `slide_size`, up to the rounding of a pixel.

    Examples
    --------
    >>> _has_shape((3051, 6699), (97_661, 214_397)), _has_shape((3051, 6690), (97_661, 214_397))
    (True, False)
    """
    low = max(whole / (part + 1) for whole, part in zip(slide_size, size, strict=True))
    high = min(
        whole / (part - 1) if part > 1 else math.inf
        for whole, part in zip(slide_size, size, strict=True)
    )
    return low < high


def read_mask_picture(path: Path) -> NDArray[np.generic]:
    """Return the values ``(h, w)`` of a mask as a picture, the first band of several.

    Raises
    ------
    MaskImageError
        It cannot be read, is too large to be held, or its values are no whole numbers.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MaskImageError(f"{path.name}: {image.size} px are too many; use a tiled TIFF")
            values = np.asarray(image)
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as err:
        raise MaskImageError(f"{path}: cannot be read: {err}") from err
    if values.ndim == 3:
        values = values[..., 0]
    if values.dtype.kind not in "bui":
        raise MaskImageError(f"{path.name}: {values.dtype} is no mask; use 1-bit, or 0 and 255")
    return values
