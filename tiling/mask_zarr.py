"""Areas as OME-NGFF 0.5 pyramids of 0 and 255: tiled, lossless, drawn only where there is some."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from shapely import MultiPolygon

from tiling.probability_map import NGFF_VERSION, blocks
from tiling.region_masks import OutlineMask

CHUNK_PX = 512


def write_mask_zarr(
    path: str | Path,
    area: MultiPolygon,
    size: tuple[int, int],
    *,
    mpp: float | tuple[float, float] | None,
) -> Path:
    """Write an area as an OME-Zarr image; memory and space do not grow with the slide.

    Every level halves the one before and is drawn from the outlines: a pixel is 255 where its
    centre lies inside. Chunks of nothing are not written.

    Parameters
    ----------
    path
        Where; an existing image is replaced once the new one is whole.
    area
        Polygons in level-0 px, valid.
    size
        (width, height) of the slide, level-0 px.
    mpp
        Pixel size in µm, or (x, y); None gives a scale in pixels, without a unit.

    Raises
    ------
    ValueError
        `size` is not positive.
    AnnotationError
        An outline has no part on the slide.
    """
    path = Path(path)
    outlines = OutlineMask(area, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        group = zarr.open_group(str(partial), mode="w", zarr_format=3)
        levels = 0
        while levels == 0 or max(size) > CHUNK_PX * 2 ** (levels - 1):
            _write_level(group, levels, outlines, size)
            levels += 1
        group.attrs["ome"] = _metadata(path.name, levels, mpp)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def _write_level(
    group: zarr.Group, level: int, outlines: OutlineMask, size: tuple[int, int]
) -> None:
    step = 2**level
    shape = max(size[1] // step, 1), max(size[0] // step, 1)
    array = group.create_array(
        str(level), shape=shape, dtype=np.uint8, chunks=(CHUNK_PX, CHUNK_PX), fill_value=0,
        dimension_names=("y", "x"),
    )  # fmt: skip
    if outlines.area.is_empty:
        return
    low_x, low_y, high_x, high_y = (v / step for v in outlines.area.bounds)
    for rows, columns in blocks(shape, CHUNK_PX):
        if rows.stop <= low_y or columns.stop <= low_x:
            continue
        if rows.start >= high_y or columns.start >= high_x:
            continue
        width, height = columns.stop - columns.start, rows.stop - rows.start
        corner = np.array([[columns.start * step, rows.start * step]])
        [mask] = outlines.read(corner, (width * step, height * step), (width, height))
        if mask.any():
            array[rows, columns] = mask.view(np.uint8) * np.uint8(255)


def _metadata(name: str, levels: int, mpp: float | tuple[float, float] | None) -> dict[str, Any]:
    x, y = (mpp, mpp) if isinstance(mpp, int | float) else mpp or (1.0, 1.0)
    unit = {} if mpp is None else {"unit": "micrometer"}
    axes = [{"name": axis, "type": "space", **unit} for axis in ("y", "x")]
    datasets = []
    for level in range(levels):
        step = 2**level
        # Level-0 pixel (0, 0) has its centre at 0.
        transforms: list[dict[str, Any]] = [
            {"type": "scale", "scale": [y * step, x * step]},
            {"type": "translation", "translation": [y * (step - 1) / 2, x * (step - 1) / 2]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    image = {"name": name, "axes": axes, "datasets": datasets}
    return {"version": NGFF_VERSION, "multiscales": [image]}
