"""Lesions that were missed and the surest false alarms: where they are and how they look."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.measure import find_contours, regionprops

from mil_models.lesions import DILATION_UM, DOWNSAMPLE, Lesions, find_lesions
from tiling.errors import WSIError
from tiling.slide import open_slide
from tiling.store import SlideStore
from viewers.camelyon import Crop
from wsi_pipeline.camelyon.detections import Detections, read_detections
from wsi_pipeline.camelyon.masks import find_masks, read_mask
from wsi_pipeline.camelyon.tables import named_as

SMALLEST_UM = 800.0
"""A picture shows at least so much of the slide, so that one sees where it is."""
AROUND = 0.5
"""How much of a lesion's size is shown around it, on each side."""
PICTURE_PX = 420


@dataclass(frozen=True, slots=True, eq=False)
class Miss:
    """A lesion that no detection hit, or a detection off every lesion.

    `box` is x0, y0, width, height of what it spans, level-0 px; `size` the longest axis of a lesion
    in level-0 px, or the score of a false alarm.
    """

    slide: str
    is_lesion: bool
    box: tuple[int, int, int, int]
    size: float


@dataclass(frozen=True, slots=True, eq=False)
class SlideTruth:
    """A slide's tumour mask at level 5 (None for normal slides), its lesions and detections."""

    mask: NDArray[np.bool_] | None
    lesions: Lesions | None
    detections: Detections


def find_misses(
    detections: Path,
    masks: Path,
    truth: Mapping[str, bool],
    *,
    tumour_value: int | None = None,
    exclude: Collection[str] = (),
) -> tuple[list[Miss], dict[str, SlideTruth]]:
    """Return what was missed, the largest lesions and the surest alarms first, and all truths."""
    found, slides = [], {}
    left_out = {name.lower() for name in exclude}
    known = named_as(find_masks(masks), truth, str(masks))
    for name, tumour in truth.items():
        path = detections / f"{name}.csv"
        if name.lower() in left_out or not path.exists():
            continue
        mask = read_mask(known[name], tumour_value=tumour_value).pixels if tumour else None
        slide = SlideTruth(
            mask, None if mask is None else find_lesions(mask), read_detections(path)
        )
        slides[name] = slide
        found += _of_slide(name, slide)
    found.sort(key=lambda miss: (not miss.is_lesion, -miss.size, miss.slide, miss.box))
    return found, slides


def _of_slide(name: str, slide: SlideTruth) -> list[Miss]:
    scores, x0, y0 = slide.detections.scores, slide.detections.x0, slide.detections.y0
    region = np.zeros(len(scores), np.int64)
    found = []
    if slide.lesions is not None:
        labels = slide.lesions.labels
        rows = np.minimum(y0 // DOWNSAMPLE, labels.shape[0] - 1)
        region = labels[rows, np.minimum(x0 // DOWNSAMPLE, labels.shape[1] - 1)]
        for lesion in regionprops(labels):
            if lesion.label in slide.lesions.itc or (region[scores > 0] == lesion.label).any():
                continue
            top, left, bottom, right = (int(v) * DOWNSAMPLE for v in lesion.bbox)
            length = lesion.axis_major_length * DOWNSAMPLE
            found.append(Miss(name, True, (left, top, right - left, bottom - top), length))
    found += [
        Miss(name, False, (int(x), int(y), 1, 1), float(score))
        for score, x, y, hit in zip(scores, x0, y0, region, strict=True)
        if not hit
    ]
    return found


def crop_of(miss: Miss, slide: SlideTruth, store: SlideStore) -> Crop | str:
    """Return the part of the slide around a miss; or why it cannot be read."""
    mpp = store.slide_mpp[0]
    x0, y0, width, height = miss.box
    edge = max(max(width, height) * (1 + 2 * AROUND), SMALLEST_UM / mpp)
    edge = int(min(edge, *store.slide_size))
    left = min(max(x0 + width // 2 - edge // 2, 0), store.slide_size[0] - edge)
    top = min(max(y0 + height // 2 - edge // 2, 0), store.slide_size[1] - edge)
    try:
        with open_slide(store.slide_path) as opened:
            pixels = opened.read_scaled((left, top), (edge, edge), (PICTURE_PX, PICTURE_PX))
    except (WSIError, OSError) as err:
        return f"{miss.slide} cannot be read: {err}"
    found = slide.detections
    here = (found.x0 >= left) & (found.x0 < left + edge)
    here &= (found.y0 >= top) & (found.y0 < top + edge)
    points = np.stack([found.scores, found.x0, found.y0], axis=1)[here]
    outlines = [] if slide.mask is None else _rings(slide.mask)
    return Crop(pixels, left, top, edge, edge, outlines, points.astype(np.float64), mpp)


def caption_of(miss: Miss, mpp: float) -> str:
    """Return a miss in words.

    Examples
    --------
    >>> caption_of(Miss("test_001", False, (640, 320, 1, 1), 0.93), 0.25)
    'test_001: false alarm of 0.93 at (640, 320)'
    """
    x0, y0, width, height = miss.box
    if not miss.is_lesion:
        return f"{miss.slide}: false alarm of {miss.size:.2f} at ({x0}, {y0})"
    longest = max(miss.size * mpp - DILATION_UM, 0) / 1000
    place = f"({x0 + width // 2}, {y0 + height // 2})"
    return f"{miss.slide}: missed, about {longest:.2f} mm, at {place}"


def _rings(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Return the outlines of a mask at level 5, x and y in level-0 px."""
    rings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    return [(ring[:, ::-1] - 0.5) * DOWNSAMPLE for ring in rings]
