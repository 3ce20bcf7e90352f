"""Tumour masks at level 5, in the names and kinds in which they are found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mil_models.lesions import DOWNSAMPLE
from tiling import open_slide
from tiling.region_masks import MaskImageError, read_mask_picture
from wsi_pipeline.camelyon.errors import MaskError

MASK_NAME = re.compile(r"(?P<slide>.+?)((_evaluation)?_mask)?", re.IGNORECASE)
SUFFIXES = {".png", ".tif", ".tiff"}
DOWNSAMPLE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class TumourMask:
    """True where tumour is, ``(height, width)`` at level 5; `size` of the slide, level-0 px.

    A PNG does not say its slide's size: the largest that level 5 rounds down to it then.
    """

    pixels: NDArray[np.bool_]
    size: tuple[int, int]


def find_masks(folder: Path) -> dict[str, Path]:
    """Return the mask of each slide: X, X_mask, X_Mask or X_evaluation_mask, PNG or TIFF.

    Raises
    ------
    MaskError
        The folder is not there, or a slide has two masks.
    """
    if not folder.is_dir():
        raise MaskError(f"{folder}: no such folder of masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = MASK_NAME.fullmatch(path.stem)
        if path.suffix.lower() not in SUFFIXES or match is None or path.name.startswith("."):
            continue
        slide = match["slide"]
        if slide in found:
            raise MaskError(f"{folder}: two masks of {slide}: {found[slide].name} and {path.name}")
        found[slide] = path
    return found


def read_mask(path: Path, *, tumour_value: int | None = None) -> TumourMask:
    """Return a mask: 1-bit or 0 and 255, or where `tumour_value` says so equal to that.

    A PNG is level 5 itself; of a TIFF the level with a downsample of 32 is read. Of several
    channels the first counts, as in the challenge's program.

    Raises
    ------
    MaskError
        The file cannot be read, has no such level, or holds other values.
    """
    if path.suffix.lower() == ".png":
        values, size = _read_png(path)
    else:
        values, size = _read_tiff(path)
    if tumour_value is not None:
        return TumourMask(values == tumour_value, size)
    if values.dtype == bool:
        return TumourMask(values.astype(np.bool_), size)
    strange = np.unique(values[(values != 0) & (values != 255)])
    if len(strange):
        held = ", ".join(map(str, strange[:4].tolist()))
        raise MaskError(
            f"{path.name}: holds the values {held}, where 0 and 255 are needed; "
            "say which one is tumour, e.g. --tumour-value 2 for masks of 0, 1 and 2"
        )
    return TumourMask(values == 255, size)


def _read_png(path: Path) -> tuple[NDArray[np.generic], tuple[int, int]]:
    try:
        values = read_mask_picture(path)
    except MaskImageError as err:
        raise MaskError(str(err)) from err
    if values.min(initial=0) < 0:
        raise MaskError(f"{path.name}: {values.dtype} is no mask; use 1-bit, or 0 and 255")
    height, width = ((edge + 1) * DOWNSAMPLE - 1 for edge in values.shape)
    return values, (width, height)


def _read_tiff(path: Path) -> tuple[NDArray[np.generic], tuple[int, int]]:
    with open_slide(path) as slide:
        levels = [
            level
            for level, d in enumerate(slide.level_downsamples)
            if abs(d / DOWNSAMPLE - 1) < DOWNSAMPLE_TOLERANCE
        ]
        if not levels:
            held = ", ".join(f"{d:g}" for d in slide.level_downsamples)
            raise MaskError(
                f"{path.name}: no level with a downsample of {DOWNSAMPLE} (there are {held}); "
                "give a pyramid that has one, or that level as PNG"
            )
        pixels = slide.read_region((0, 0), level=levels[0], size=slide.level_sizes[levels[0]])
        return pixels[..., 0], slide.size
