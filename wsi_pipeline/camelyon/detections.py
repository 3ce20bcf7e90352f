"""Detections of lesions: a CSV file for each slide, `probability,x,y`, no header."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.camelyon.errors import DetectionError
from wsi_pipeline.camelyon.tables import read_rows


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Scores float64 ``(N,)`` from 0 to 1, and where: `x0`, `y0` int64 ``(N,)``, level-0 px."""

    scores: NDArray[np.float64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]

    @classmethod
    def none(cls) -> Detections:
        """Return what an empty file holds."""
        return cls(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_detections(path: Path, *, size: tuple[int, int] | None = None) -> Detections:
    """Return the detections of one slide; an empty file is a slide without any.

    Positions are cut to whole pixels, as the challenge's program does.

    Parameters
    ----------
    size
        (width, height) of the slide, level-0 px, where known.

    Raises
    ------
    DetectionError
        There is a header, another number of columns, no number, or a position off the slide.
    """
    parsed = [_parse(place, cells, size) for place, cells in read_rows(path)]
    if not parsed:
        return Detections.none()
    scores, x0, y0 = zip(*parsed, strict=True)
    return Detections(np.array(scores), np.array(x0, np.int64), np.array(y0, np.int64))


def _parse(place: str, cells: list[str], size: tuple[int, int] | None) -> tuple[float, int, int]:
    if len(cells) != 3:
        raise DetectionError(f"{place}: {len(cells)} columns; needed are probability,x,y")
    try:
        score, x, y = (float(cell) for cell in cells)
    except ValueError as err:
        header = "; there must be no header" if place.endswith("line 1") else ""
        raise DetectionError(f"{place}: {','.join(cells)!r} are not three numbers{header}") from err
    if not all(map(math.isfinite, (score, x, y))):
        raise DetectionError(f"{place}: {','.join(cells)!r} holds NaN or infinity")
    if not 0 <= score <= 1:
        raise DetectionError(f"{place}: the probability is {score:g}, not between 0 and 1")
    x, y = int(x), int(y)
    if min(x, y) < 0 or (size is not None and (x >= size[0] or y >= size[1])):
        within = f" of {size[0]} x {size[1]} px" if size else ""
        raise DetectionError(
            f"{place}: ({x}, {y}) lies outside the slide{within}; x and y are level-0 pixels"
        )
    return score, x, y
