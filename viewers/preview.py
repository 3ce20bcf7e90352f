"""The coarse levels of a slide that stores none: read once, in blocks, on a thread of their own.

A picture of the whole slide is made of all its pixels there. That takes a minute or more, so what
is read is shown as it comes, beginning where the user looks, and the rest in a plain grey.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from viewers.level_plan import LevelPlan

Pixels = NDArray[np.uint8]
BLOCK_PX = 2048
"""Wanted edge of a block in pixels of the stored level: what is read together."""
PENDING = 96
"""Grey of what is not read yet: neither glass nor tissue."""


class Preview:
    """A level of the pyramid that is read block by block, and the coarser ones made from it.

    Parameters
    ----------
    plans
        The level that is read, finest, and the coarser ones.
    read
        Returns the pixels of the first level at a corner and of a size, both (x, y); raises
        nothing.
    block
        (width, height) of a block, px of the first level.
    """

    def __init__(
        self,
        plans: tuple[LevelPlan, ...],
        read: Callable[[tuple[int, int], tuple[int, int]], Pixels],
        block: tuple[int, int],
    ) -> None:
        self.plans = plans
        self._read = read
        self._block = block
        width, height = plans[0].size
        self._pixels = np.full((height, width, 3), PENDING, np.uint8)
        self._is_read = np.zeros((-(-height // block[1]), -(-width // block[0])), bool)
        self._middle = (self._is_read.shape[0] / 2, self._is_read.shape[1] / 2)
        self._is_stopped = False
        self._thread = threading.Thread(
            target=_fill, args=(weakref.ref(self),), name="slide-preview", daemon=True
        )
        self._thread.start()

    @property
    def done(self) -> float:
        """Which part is read, 0 to 1."""
        return float(self._is_read.mean())

    def stop(self) -> None:
        """Read no further block; what is read stays."""
        self._is_stopped = True

    def read(self, number: int, rows: range, columns: range) -> Pixels:
        """Return pixels of the level `number` of `plans`, what is not read yet in grey.

        The blocks that are nearest to their middle are read next.
        """
        full = self.plans[0].size
        size = self.plans[number].size
        # Where a coarser level's pixels lie in the first level: by the ratio of their sizes.
        scale_x, scale_y = full[0] / size[0], full[1] / size[1]
        self._middle = (
            (rows.start + rows.stop) / 2 * scale_y / self._block[1] - 0.5,
            (columns.start + columns.stop) / 2 * scale_x / self._block[0] - 0.5,
        )
        top, bottom = round(rows.start * scale_y), max(round(rows.stop * scale_y), 1)
        left, right = round(columns.start * scale_x), max(round(columns.stop * scale_x), 1)
        part = self._pixels[top:bottom, left:right]
        if number == 0:
            return part.copy()
        found = cv2.resize(part, (len(columns), len(rows)), interpolation=cv2.INTER_AREA)
        return np.asarray(found, np.uint8)

    def _read_next(self) -> bool:
        """Read the missing block nearest to what is looked at; return whether there is another."""
        rows, columns = np.nonzero(~self._is_read)
        if self._is_stopped or not len(rows):
            return False
        distance = np.hypot(rows - self._middle[0], columns - self._middle[1])
        row, column = int(rows[distance.argmin()]), int(columns[distance.argmin()])
        left, top = column * self._block[0], row * self._block[1]
        width, height = self.plans[0].size
        size = (min(self._block[0], width - left), min(self._block[1], height - top))
        self._pixels[top : top + size[1], left : left + size[0]] = self._read((left, top), size)
        self._is_read[row, column] = True
        return True


def _fill(found: weakref.ref[Preview]) -> None:
    """Read all blocks, until the preview is stopped or nobody holds it any more."""
    while (preview := found()) is not None and preview._read_next():
        del preview
