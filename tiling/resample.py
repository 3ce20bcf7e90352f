"""Pixels at another scale: each result pixel is the mean over its own area of the source."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Box = tuple[float, float, float, float]
"""left, top, right, bottom in source pixels, fractions allowed."""

ENLARGED = 0.98
"""Source pixels per result pixel below which areas would show as blocks: interpolate instead."""
_SNAP = 1e-6


def resample(pixels: NDArray[np.uint8], box: Box, out: NDArray[np.uint8]) -> None:
    """Fill `out` with the part of `pixels` inside `box`.

    Every result pixel is the mean over exactly its own area, fractions of source pixels included,
    so that nothing is shifted whatever the scale. Where the source has too few pixels, the box
    (rounded to whole ones) is enlarged by bicubic interpolation.

    Parameters
    ----------
    pixels
        uint8, shape ``(h, w, 3)``.
    box
        Within `pixels`.
    out
        uint8, shape ``(height, width, 3)``, contiguous.
    """
    left, top, right, bottom = box
    height, width = out.shape[:2]
    scale = (right - left) / width, (bottom - top) / height
    if min(scale) < ENLARGED or all(float(v).is_integer() for v in (*box, *scale)):
        # Whole source pixels, which OpenCV averages exactly, and fast.
        x, y = round(left), round(top)
        part = pixels[y : max(round(bottom), y + 1), x : max(round(right), x + 1)]
        method = cv2.INTER_CUBIC if min(scale) < ENLARGED else cv2.INTER_AREA
        cv2.resize(part, (width, height), dst=out, interpolation=method)
        return
    # Columns first, on the transposed image, so that both passes add up whole rows.
    rows, columns = pixels.shape[:2]
    flat = cv2.transpose(pixels).reshape(columns, rows * 3).astype(np.float32)
    across = area_weights(columns, left, right, width) @ flat
    flat = cv2.transpose(across.reshape(width, rows, 3)).reshape(rows, width * 3)
    down = area_weights(rows, top, bottom, height) @ flat
    cv2.convertScaleAbs(down, dst=out.reshape(height, width * 3))


@functools.lru_cache(maxsize=512)
def area_weights(length: int, start: float, stop: float, count: int) -> sparse.csr_array:
    """Return the weights that average `length` pixels into `count` between `start` and `stop`.

    Returns
    -------
    float32, shape ``(count, length)``; row j holds the share of each source pixel in result pixel
    j, and sums to 1.

    Examples
    --------
    >>> area_weights(3, 0.0, 3.0, 2).toarray().astype(float).round(4).tolist()
    [[0.6667, 0.3333, 0.0], [0.0, 0.3333, 0.6667]]
    """
    edges = np.linspace(start, stop, count + 1)
    low, high = edges[:-1, None], edges[1:, None]
    first = np.floor(low + _SNAP).astype(np.int64)
    taps = int(np.max(np.ceil(high - _SNAP) - first))
    index = first + np.arange(max(taps, 1))
    share = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None) / (high - low)
    share /= share.sum(axis=1, keepdims=True)
    columns = np.clip(index, 0, length - 1)
    starts = np.arange(0, index.size + 1, index.shape[1])
    return sparse.csr_array(
        (share.astype(np.float32).ravel(), columns.ravel(), starts), shape=(count, length)
    )
