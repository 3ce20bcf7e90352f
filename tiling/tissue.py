"""Where a slide holds tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiling.errors import SlideReadError
from tiling.slide import Slide

WORKING_MPP = 8.0
"""µm per mask pixel: a cell is about one pixel, a 60,000 px slide at 0.25 µm is 1875 px."""
MAX_MASK_PX = 1 << 25
"""21 cm² at `WORKING_MPP`, a whole glass slide; larger ones get coarser mask pixels."""
MAX_FAILURES = 256
"""Undecodable blocks after which one more is given up whole, not searched for what is readable."""
SATURATION_FLOOR = 0.06
"""No pixel below this is tissue, so that glass, dust and JPEG noise stay background."""
SATURATION_CEILING = 0.14
"""Every pixel above this is tissue, so that a heavily stained part never hides a pale one."""
MIN_TISSUE_UM2 = 10_000.0
MAX_HOLE_UM2 = 10_000.0
SMOOTHING_UM = 8.0
_BLOCK_PX = 512
_SMALLEST_BLOCK_PX = 32


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Which parts of a slide are tissue.

    Attributes
    ----------
    mask
        bool, shape ``(rows, columns)``; True = tissue. It spans the whole slide.
    slide_size
        (width, height) of level 0, px.
    slide_mpp
        Pixel size (x, y) at level 0, µm.
    parameters
        Threshold and settings it was made with, as JSON values.
    """

    mask: NDArray[np.bool_]
    slide_size: tuple[int, int]
    slide_mpp: tuple[float, float]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 px per mask pixel, (x, y)."""
        rows, columns = self.mask.shape
        return self.slide_size[0] / columns, self.slide_size[1] / rows

    @property
    def area_mm2(self) -> float:
        """Tissue area, mm²."""
        scale = self.downsample
        pixel_um2 = scale[0] * self.slide_mpp[0] * scale[1] * self.slide_mpp[1]
        return float(self.mask.sum() * pixel_um2 / 1e6)

    def fraction(self, coords: NDArray[np.int64], extent: tuple[int, int]) -> NDArray[np.float32]:
        """Return each tile's share of tissue, exactly, parts of mask pixels included.

        Parameters
        ----------
        coords
            x0, y0 of the tiles, level 0, shape ``(N, 2)``.
        extent
            (width, height) of every tile, level 0. What lies outside the slide does not count.

        Returns
        -------
        float32, shape ``(N,)``, 0 to 1.
        """
        scale = np.asarray(self.downsample)
        low = np.clip(coords, 0, self.slide_size) / scale
        high = np.clip(coords + np.asarray(extent), 0, self.slide_size) / scale
        area = np.prod(high - low, axis=1)
        table = np.asarray(cv2.integral(self.mask.view(np.uint8), sdepth=cv2.CV_64F), np.float64)
        tissue = _integral(table, high) + _integral(table, low)
        tissue -= _integral(table, np.stack([low[:, 0], high[:, 1]], axis=1))
        tissue -= _integral(table, np.stack([high[:, 0], low[:, 1]], axis=1))
        share = np.divide(tissue, area, out=np.zeros_like(area), where=area > 0)
        fraction: NDArray[np.float32] = np.clip(share, 0, 1).astype(np.float32)
        return fraction


def tissue_mask(slide: Slide) -> TissueMask:
    """Find the tissue of `slide` by the saturation of its colours.

    The slide is averaged to `WORKING_MPP`; its saturation is smoothed and cut at Otsu's threshold
    [1]_, which is held between a floor and a ceiling: Otsu always cuts, also a blank slide (the
    floor stops that) and one that is all tissue (the ceiling stops that). Specks and holes of
    less than 0.01 mm² go. A part that cannot be decoded counts as tissue, so that its tiles are
    tried and reported, not silently left out.

    Raises
    ------
    MissingMppError, ImplausibleMppError, ConflictingMppError
        The slide has no pixel size that can be believed.
    SlideReadError
        No part of the slide can be decoded.
    SlideTooLargeError
        It has no level coarse enough to be looked at as a whole.

    References
    ----------
    .. [1] Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on
       Systems, Man, and Cybernetics 9 (1979).
    """
    mpp = slide.require_mpp()
    width, height = slide.size
    area_um2 = width * mpp[0] * height * mpp[1]
    working_mpp = max(WORKING_MPP, round(math.sqrt(area_um2 / MAX_MASK_PX), 3))
    columns = max(round(width * mpp[0] / working_mpp), 1)
    rows = max(round(height * mpp[1] / working_mpp), 1)
    pixels, readable = _read_overview(slide, (columns, rows))
    pixel_um2 = (width * mpp[0] / columns) * (height * mpp[1] / rows)
    values = ndimage.gaussian_filter(saturation(pixels), SMOOTHING_UM / math.sqrt(pixel_um2))
    threshold = tissue_threshold(values[readable])
    mask = clean_mask(
        (values > threshold) | ~readable,
        min_object_px=MIN_TISSUE_UM2 / pixel_um2,
        max_hole_px=MAX_HOLE_UM2 / pixel_um2,
    )
    parameters = {
        "method": "saturation-otsu",
        "working_mpp": working_mpp,
        "threshold": round(float(threshold), 6),
        "floor": SATURATION_FLOOR,
        "ceiling": SATURATION_CEILING,
        "smoothing_um": SMOOTHING_UM,
        "min_tissue_um2": MIN_TISSUE_UM2,
        "max_hole_um2": MAX_HOLE_UM2,
        "unreadable_fraction": round(float(1 - readable.mean()), 6),
    }
    return TissueMask(mask, slide.size, mpp, parameters)


def saturation(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the saturation of RGB `pixels` ``(..., 3)``, 0 to 1, steadied in the dark.

    (max - min) / max as in HSV, but divided by at least 0.5: in near-black pixels (scanner
    borders, marker ink) the quotient of two small numbers would be noise.

    Examples
    --------
    >>> saturation(np.array([[255, 255, 255], [255, 0, 0], [4, 0, 0]], np.uint8)).round(2).tolist()
    [0.0, 1.0, 0.029999999329447746]
    """
    red, green, blue = (pixels[..., channel] for channel in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    result: NDArray[np.float32] = np.divide(high - low, np.maximum(high, 255 / 2), dtype=np.float32)
    return result


def tissue_threshold(values: NDArray[np.float32]) -> float:
    """Return the saturation above which a pixel is tissue: Otsu's, between floor and ceiling."""
    if values.size == 0 or values.min() == values.max():
        return SATURATION_FLOOR
    from skimage.filters import threshold_otsu  # here: opening a store does without skimage

    return float(np.clip(threshold_otsu(values), SATURATION_FLOOR, SATURATION_CEILING))


def clean_mask(
    mask: NDArray[np.bool_], *, min_object_px: float, max_hole_px: float
) -> NDArray[np.bool_]:
    """Return `mask` without objects and holes below the given areas in px."""
    from skimage.morphology import remove_small_holes, remove_small_objects

    filled = remove_small_holes(mask, max_size=max(math.ceil(max_hole_px) - 1, 0))
    cleaned: NDArray[np.bool_] = remove_small_objects(
        filled, max_size=max(math.ceil(min_object_px) - 1, 0)
    )
    return cleaned


def _integral(table: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the tissue above and left of `corners` (x, y), between the entries of `table`."""
    rows, columns = table.shape
    column, row = np.floor(corners).astype(np.int64).T
    column = np.minimum(column, columns - 2)
    row = np.minimum(row, rows - 2)
    right, down = corners[:, 0] - column, corners[:, 1] - row
    above = table[row, column] * (1 - right) + table[row, column + 1] * right
    below = table[row + 1, column] * (1 - right) + table[row + 1, column + 1] * right
    total: NDArray[np.float64] = above * (1 - down) + below * down
    return total


def _read_overview(
    slide: Slide, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the slide as `size` pixels and which of them could be decoded, block by block."""
    columns, rows = size
    pixels = np.full((rows, columns, 3), 255, np.uint8)
    readable = np.ones((rows, columns), np.bool_)
    slide.check_source(slide.size, size)
    scale = slide.size[0] / columns, slide.size[1] / rows
    failures = 0
    first_error: SlideReadError | None = None
    blocks = [
        (left, top, min(_BLOCK_PX, columns - left), min(_BLOCK_PX, rows - top))
        for top in range(0, rows, _BLOCK_PX)
        for left in range(0, columns, _BLOCK_PX)
    ]
    while blocks:
        left, top, width, height = blocks.pop()
        here = slice(top, top + height), slice(left, left + width)
        # Block edges in whole level-0 px, so that no pixel is read outside the slide.
        x0, y0 = round(left * scale[0]), round(top * scale[1])
        x1, y1 = round((left + width) * scale[0]), round((top + height) * scale[1])
        try:
            pixels[here] = slide.read_scaled((x0, y0), (x1 - x0, y1 - y0), (width, height))
        except SlideReadError as err:
            first_error = first_error or err
            failures += 1
            if max(width, height) <= _SMALLEST_BLOCK_PX or failures > MAX_FAILURES:
                readable[here] = False
            else:
                blocks += _quarters(left, top, width, height)
    if first_error is not None and not readable.any():
        raise SlideReadError(
            f"{slide.name}: no part of it can be decoded, the file is damaged: copy it again "
            f"({first_error})"
        ) from first_error
    return pixels, readable


def _quarters(left: int, top: int, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Split a block in four (two if it is one pixel thin)."""
    half_x, half_y = (width + 1) // 2, (height + 1) // 2
    parts = [
        (left + x, top + y, w, h)
        for x, w in ((0, half_x), (half_x, width - half_x))
        for y, h in ((0, half_y), (half_y, height - half_y))
    ]
    return [part for part in parts if part[2] > 0 and part[3] > 0]
