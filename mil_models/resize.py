"""A resize that every engine can run: two matrix products, with Pillow's weights."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Keys's kernel with a = -1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


Kernel = Callable[[NDArray[np.float64]], NDArray[np.float64]]
KERNELS: dict[str, tuple[Kernel, float]] = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}
"""Interpolation to its kernel and how far that reaches."""


@functools.lru_cache(maxsize=16)
def resize_weights(size: int, target: int, interpolation: str) -> NDArray[np.float32]:
    """Return the weights of a resize of one axis from `size` to `target` pixels.

    Antialiased as Pillow's and torchvision's are: where the image shrinks, the kernel widens.

    Returns
    -------
    Shape ``(target, size)``; every row sums to 1.

    Examples
    --------
    >>> resize_weights(4, 2, "bilinear").astype(float).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    kernel, support = KERNELS[interpolation]
    scale = size / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    offsets = (np.arange(size) + 0.5)[None] - centres[:, None]
    weights = np.where(np.abs(offsets) < support * stretch, kernel(offsets / stretch), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def resize(
    pixels: Tensor, target: int, interpolation: str, *, black: Tensor, white: Tensor
) -> Tensor:
    """Return `pixels` (B, C, H, W) resized to `target` x `target`.

    First along rows, then along columns, and each time kept from `black` to `white` (1, C, 1, 1):
    so Pillow does, whose pixels are bytes, and bicubic weights would overshoot.
    """
    height, width = (
        torch.tensor(resize_weights(int(size), target, interpolation), device=pixels.device)
        for size in pixels.shape[-2:]
    )
    wide = torch.matmul(pixels.float(), width.T).maximum(black).minimum(white)
    found = torch.matmul(height, wide).maximum(black).minimum(white)
    return found.to(pixels.dtype)
