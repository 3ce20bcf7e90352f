"""Small OME-Zarr images of every kind the reader meets, written with Zarr alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zarr
from numpy.typing import NDArray

KINDS = {"t": "time", "c": "channel"}


def write_ome_zarr(
    path: Any,
    levels: Sequence[NDArray[Any]],
    *,
    axes: str = "cyx",
    version: str = "0.5",
    scale: tuple[float, float] | None = (0.5, 0.5),
    unit: str | None = "micrometer",
    chunk: int = 64,
    shard: int | None = None,
    translations: Sequence[tuple[float, float]] | None = None,
    factors: Sequence[float] | None = None,
    group_path: str = "",
    **array: Any,
) -> zarr.Group:
    """Write one image and return its group.

    Parameters
    ----------
    path
        Where, or a Zarr store.
    levels
        (height, width, channels), or (height, width) where `axes` has no c; t and z are put in.
    scale
        Pixel size (x, y) of the finest level, in `unit`; None states none.
    translations
        (x, y) of each level, in `unit`.
    factors
        By how much each level's pixels are larger; the ratio of the widths if not given.
    """
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="a", path=group_path, zarr_format=zarr_format)
    datasets = []
    for number, pixels in enumerate(levels):
        data = pixels.transpose(["yxc".index(a) for a in axes if a in "yxc"])
        data = data[tuple(slice(None) if a in "yxc" else None for a in axes)]
        extra: dict[str, Any] = dict(array)
        if version == "0.4":
            extra.setdefault("chunk_key_encoding", {"name": "v2", "separator": "/"})
        else:
            extra.setdefault("dimension_names", tuple(axes))
        if shard is not None:
            lengths = zip(axes, data.shape, strict=True)
            extra["shards"] = tuple(shard if a in "xy" else length for a, length in lengths)
        stored = group.create_array(
            str(number),
            shape=data.shape,
            dtype=data.dtype,
            chunks=tuple(chunk if a in "xy" else 1 for a in axes),
            **extra,
        )
        stored[...] = data
        factor = factors[number] if factors else round(levels[0].shape[1] / pixels.shape[1])
        datasets.append({"path": str(number)})
        steps = []
        if scale is not None:
            size = {"x": scale[0] * factor, "y": scale[1] * factor}
            steps.append({"type": "scale", "scale": [size.get(a, 1.0) for a in axes]})
        if translations is not None:
            place = dict(zip("xy", translations[number], strict=True))
            steps.append({"type": "translation", "translation": [place.get(a, 0.0) for a in axes]})
        if steps:
            datasets[-1]["coordinateTransformations"] = steps
    described = []
    for axis in axes:
        described.append({"name": axis, "type": KINDS.get(axis, "space")})
        if unit is not None and axis not in KINDS:
            described[-1]["unit"] = unit
    multiscale = {"axes": described, "datasets": datasets}
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": version, **multiscale}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    return group
