"""Scores of tiles as a map of the slide, and as an OME-NGFF image beside the embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tiling.store import SlideStore

NGFF_VERSION = "0.5"


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """A map of scores that spans the slide from its top left corner.

    Attributes
    ----------
    values
        float32, shape ``(rows, columns)``; NaN where there is no tile.
    cell
        (width, height) of a map pixel in level-0 px.
    """

    values: NDArray[np.float32]
    cell: tuple[int, int]

    def center_um(self, mpp: tuple[float, float]) -> tuple[float, float]:
        """Return where the first cell's centre lies, (y, x) in µm.

        Level-0 pixel (0, 0) has its centre at 0, as napari and OME-NGFF place it.
        """
        return (self.cell[1] - 1) / 2 * mpp[1], (self.cell[0] - 1) / 2 * mpp[0]

    def cell_um(self, mpp: tuple[float, float]) -> tuple[float, float]:
        """Return the size of a cell, (y, x) in µm."""
        return self.cell[1] * mpp[1], self.cell[0] * mpp[0]


def score_map(
    coords: NDArray[np.int64],
    scores: NDArray[np.floating],
    *,
    extent: tuple[int, int],
    stride: tuple[int, int],
    slide_size: tuple[int, int],
) -> ScoreMap:
    """Lay the scores of tiles out as a map.

    Without overlap a cell is a tile. With overlap a cell is one step of the grid, and its value the
    mean of the tiles that cover it, weighted by the area they cover.

    Parameters
    ----------
    coords
        x0, y0 of the tiles, level 0, shape ``(N, 2)``; multiples of `stride`.
    scores
        Shape ``(N,)``; a tile of NaN counts as no tile.
    extent, stride
        (x, y) that a tile covers, and the step to the next, level-0 px.
    slide_size
        (width, height) of the slide.

    Raises
    ------
    ValueError
        A tile does not lie on the grid, or the shapes do not fit.
    """
    if scores.shape != (len(coords),):
        raise ValueError(f"{len(coords)} tiles, but scores of shape {scores.shape}")
    cells, remainder = np.divmod(coords, np.asarray(stride))
    if remainder.any():
        x0, y0 = coords[remainder.any(axis=1)][0].tolist()
        raise ValueError(f"tile at ({x0}, {y0}) does not lie on a grid of step {tuple(stride)}")
    columns, rows = (-(-slide_size[axis] // stride[axis]) for axis in (0, 1))
    real = np.isfinite(scores)
    column, row = cells[real].T
    total, weight = np.zeros((rows, columns)), np.zeros((rows, columns))
    for right, share_x in enumerate(_cover(extent[0], stride[0])):
        for down, share_y in enumerate(_cover(extent[1], stride[1])):
            inside = (row + down < rows) & (column + right < columns)
            where = row[inside] + down, column[inside] + right
            np.add.at(total, where, scores[real][inside] * share_x * share_y)
            np.add.at(weight, where, share_x * share_y)
    values = np.full((rows, columns), np.nan)
    np.divide(total, weight, out=values, where=weight > 0)
    return ScoreMap(values.astype(np.float32), (int(stride[0]), int(stride[1])))


def percentile_rank(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the rank of each value among the finite ones, 0 to 1, ties shared; NaN stays NaN.

    Raw attention of a large bag is tiny and uneven, so that its map looks empty; ranks do not.

    Examples
    --------
    >>> percentile_rank(np.array([0.1, np.nan, 0.3, 0.2])).tolist()
    [0.0, nan, 1.0, 0.5]
    """
    ranks = np.full(values.shape, np.nan, np.float32)
    real = np.isfinite(values)
    count = int(real.sum())
    if count == 1:
        ranks[real] = 1.0
    elif count:
        _, place, ties = np.unique(values[real], return_inverse=True, return_counts=True)
        below = np.cumsum(ties) - ties  # how many are lower
        ranks[real] = ((below + (ties - 1) / 2) / (count - 1))[place]
    return ranks


def write_heatmap(store: SlideStore, name: str, found: ScoreMap) -> zarr.Group:
    """Write `found` to ``heatmaps/<name>`` as an OME-NGFF 0.5 image placed in µm.

    The image's metadata are written last; writing again gives the same bytes.
    """
    group = store.image_group(name)
    rows, columns = found.values.shape
    array = group.create_array(
        "0",
        shape=(rows, columns),
        dtype=np.float32,
        chunks=(min(rows, 1024), min(columns, 1024)),
        fill_value=np.nan,
        dimension_names=("y", "x"),
        overwrite=True,
    )
    array[...] = found.values
    mpp = store.slide_mpp
    transforms = [
        {"type": "scale", "scale": list(found.cell_um(mpp))},
        {"type": "translation", "translation": list(found.center_um(mpp))},
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    image = {"name": name, "axes": axes, "datasets": datasets}
    metadata: dict[str, Any] = {"version": NGFF_VERSION, "multiscales": [image]}
    group.attrs["ome"] = metadata
    return group


def _cover(extent: int, stride: int) -> list[float]:
    """Return which share of each step a tile covers, from its own step on.

    Examples
    --------
    >>> _cover(10, 4)
    [1.0, 1.0, 0.5]
    """
    steps = -(-extent // stride)
    return [min(extent - step * stride, stride) / stride for step in range(steps)]
