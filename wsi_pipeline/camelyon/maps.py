"""Maps of tumour probability, one npz file for each slide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiling.atomic import replacing
from tiling.heatmap import score_map
from tiling.store import SlideStore
from wsi_pipeline.errors import UsageError

FIELDS = ("values", "cell_px", "slide_size", "mpp")


@dataclass(frozen=True, slots=True, eq=False)
class TumourMap:
    """Probabilities ``(rows, columns)`` float32 from the slide's top left corner, NaN off tissue.

    `cell_px` (width, height) of a cell and `slide_size` in level-0 px, `mpp` (x, y) in µm.
    """

    values: NDArray[np.float32]
    cell_px: tuple[int, int]
    slide_size: tuple[int, int]
    mpp: tuple[float, float]

    @classmethod
    def of(cls, store: SlideStore, values: NDArray[np.float64]) -> TumourMap:
        """Return the map of the tiles' values ``(N,)``; where tiles overlap, their mean."""
        grid = store.grid
        found = score_map(
            grid.coords, values, extent=grid.extent, stride=grid.stride, slide_size=grid.slide_size
        )
        return cls(found.values, found.cell, grid.slide_size, store.slide_mpp)

    def save(self, path: Path) -> None:
        """Write the map, whole or not at all."""
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file, values=self.values, cell_px=self.cell_px, slide_size=self.slide_size,
                mpp=self.mpp,
            )  # fmt: skip


def load_map(path: Path) -> TumourMap:
    """Read a map that :meth:`TumourMap.save` wrote.

    Raises
    ------
    UsageError
        It is none.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            values, cell, size, mpp = (found[name] for name in FIELDS)
    except (OSError, ValueError, KeyError, EOFError) as err:
        raise UsageError(f"{path}: no map of wsi camelyon predict: {err}") from err
    return TumourMap(
        np.asarray(values, np.float32), (int(cell[0]), int(cell[1])), (int(size[0]), int(size[1])),
        (float(mpp[0]), float(mpp[1])),
    )  # fmt: skip
