"""How precise and how many at once: found by trial on tissue that comes with the package."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mil_models.engines.base import Engine
from mil_models.errors import EngineError

LEAST_COSINE = {"bfloat16": 0.998, "int8": 0.95}
"""Least cosine to float32, over all reference tiles, at which a precision is let through."""
REFERENCE_TILES = 32
LARGEST_BATCH, SMALLEST_BATCH = 512, 8

_log = logging.getLogger(__name__)


def reference_tiles(tile_px: int) -> NDArray[np.uint8]:
    """Return `REFERENCE_TILES` tiles of normal and tumour tissue, uint8 ``(N, px, px, 3)``."""
    from tiling.samples import sample_fields

    normal, tumor, _ = sample_fields()
    half = REFERENCE_TILES // 2
    fields = [normal[i % len(normal)] for i in range(half)]
    fields += [tumor[i % len(tumor)] for i in range(half)]
    size = (tile_px, tile_px)
    return np.stack(
        [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in fields]
    )


def choose_precision(engine: Engine, wanted: str, name: str) -> Engine:
    """Return the engine at the precision that `wanted` comes to, for the encoder called `name`.

    ``"auto"`` is bfloat16 where the device multiplies in it and the least cosine of the
    embeddings of tissue to those in float32 is at least 0.998; ``"int8"`` is held to 0.95.

    Raises
    ------
    EngineError
        int8 was asked for and loses too much.
    """
    precision = "bfloat16" if wanted == "auto" else wanted
    if wanted == "auto" and precision not in engine.precisions_here():
        return engine
    full, reduced = engine.at("float32"), engine.at(precision)
    tiles = engine.calibration
    if tiles is None:
        raise EngineError("the precision is chosen on tissue, and there is none")
    cosine = least_cosine(full.embed_in_lanes(tiles), reduced.embed_in_lanes(tiles))
    _log.info("%s: least cosine of %s to float32 is %.5f", name, precision, cosine)
    if cosine >= LEAST_COSINE[precision]:
        return reduced
    if wanted == "auto":
        return full
    raise EngineError(
        f"{name}: in {precision} its embeddings of tissue have a cosine of {cosine:.4f} to those "
        f"in float32, less than {LEAST_COSINE[precision]}; use --precision bfloat16 or float32"
    )


def least_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the least cosine between the rows of two ``(N, D)`` arrays.

    Examples
    --------
    >>> float(least_cosine(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)).round(4))
    0.7071
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Any = (a * b).sum(axis=1) / lengths
    return cosines.min()  # type: ignore[no-any-return]


def largest_batch(engine: Engine, tile_px: int) -> int:
    """Return the largest power of two, up to 512, whose forward pass fits in the GPU's memory."""
    batch = LARGEST_BATCH
    while batch > SMALLEST_BATCH:
        try:
            engine.run(np.zeros((batch, tile_px, tile_px, 3), np.uint8))
        except torch.OutOfMemoryError:
            batch //= 2
            torch.cuda.empty_cache()
        else:
            break
    return batch
