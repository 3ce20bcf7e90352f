"""Write a big synthetic slide out of the sample pixels: 0.25 µm, 35 % tissue, levels 1, 4, 16.

Nothing is held in memory but one texture, so the size is limited by the disk alone (a slide of
60,000 x 60,000 px takes about 0.4 GB). For speed and memory, not for judging segmentation.

    python benchmarks/make_slide.py 60000 big.tif
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tiling.samples import mosaic, sample_fields
from tiling.write import write_slide

BLOCK = 1024
TISSUE_SHARE = 0.35
GLASS = (244, 242, 245)


class SyntheticSlide:
    """A `PixelSource` that makes its pixels when they are asked for, always the same ones."""

    def __init__(self, size: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape = (size, size, 3)
        normal, tumor, stroma = sample_fields()
        self._texture = mosaic(rng, normal + tumor + stroma, 4 * BLOCK, 4 * BLOCK)
        self._glass = rng.normal(GLASS, 1.2, (BLOCK, BLOCK, 3)).astype(np.uint8)
        blocks = -(-size // BLOCK)
        noise = ndimage.gaussian_filter(rng.normal(size=(blocks, blocks)), 2.0)
        self._is_tissue = noise > np.quantile(noise, 1 - TISSUE_SHARE)
        self._corner = rng.integers(0, 3 * BLOCK, (blocks, blocks, 2))

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = (range(*k.indices(self.shape[axis])) for axis, k in enumerate(key))
        out = np.empty((len(rows), len(columns), 3), np.uint8)
        for block_row in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            for block_column in range(columns.start // BLOCK, -(-columns.stop // BLOCK)):
                top, left = block_row * BLOCK, block_column * BLOCK
                y0, y1 = max(rows.start, top), min(rows.stop, top + BLOCK)
                x0, x1 = max(columns.start, left), min(columns.stop, left + BLOCK)
                block = self._block(block_row, block_column)
                out[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start] = (
                    block[y0 - top : y1 - top, x0 - left : x1 - left]
                )
        return out

    def _block(self, row: int, column: int) -> NDArray[np.uint8]:
        if not self._is_tissue[row, column]:
            return self._glass
        y, x = self._corner[row, column]
        return self._texture[y : y + BLOCK, x : x + BLOCK]


def make_slide(path: Path, size: int) -> Path:
    """Write the slide if it is not there yet."""
    if not path.exists():
        write_slide(path, SyntheticSlide(size), mpp=0.25, downsamples=(1, 4, 16), quality=80)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", type=int, help="width and height in px, e.g. 60000")
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    print(make_slide(arguments.path, arguments.size))
