"""A slide's own pyramid as a Zarr group, its stored tiles the chunks: no byte is copied."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tiling.geometry import PixelBox, true_downsample
from tiling.readers.tile_store import StoredTileStore, TileSource
from tiling.resolution import Resolution, as_pair, resolve_mpp
from tiling.urls import is_url

NGFF_VERSION = "0.5"
_COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


class SlideLevel(zarr.Array[Any]):
    """A level of a slide, ``(c, y, x)``; plain slices are read in the calling thread.

    Zarr sends every chunk through the one thread of its event loop, at about the cost of decoding
    it, so that threads wait for each other. Dask, napari and NumPy ask for slices: those are read
    by the slide reader. Whatever else can be asked goes through Zarr; the pixels are equal.
    """

    def __getitem__(self, selection: Any) -> Any:
        store, found = self.store, plain_slices(selection, self.shape)
        if found is None or not isinstance(store, StoredTileStore):
            return super().__getitem__(selection)
        channel, rows, columns = found
        box = PixelBox(columns.start, rows.start, columns.stop, rows.stop)
        return store.tiles.read_planes(int(self.path), box)[channel]


class SlideGroup(zarr.Group):
    """The levels of a slide, ``"0"`` the finest, as :class:`SlideLevel`."""

    def __getitem__(self, path: str) -> zarr.Array[Any] | zarr.Group:
        found = super().__getitem__(path)
        return SlideLevel(found.async_array) if isinstance(found, zarr.Array) else found

    def arrays(self) -> Generator[tuple[str, zarr.Array[Any]], None]:
        for name, array in super().arrays():
            yield name, SlideLevel(array.async_array)


def slide_as_zarr(
    path: str | Path,
    *,
    mpp: float | tuple[float, float] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> zarr.Group:
    """Return a TIFF slide's pyramid as a read-only Zarr v3 group; nothing is read but the header.

    Its arrays ``"0"`` (the finest), ``"1"``... are uint8, ``(c, y, x)``, with the stored tiles as
    chunks; parts that were never scanned are white. The group carries OME-NGFF 0.5 metadata and
    pickles as the path, so it serves :func:`dask.array.from_zarr`, ``dask.distributed`` and napari.
    Copies made by Zarr keep the codec ``wsi_pipeline.stored_tile``, which only this package has.

    Parameters
    ----------
    path
        A TIFF slide (Aperio, Philips, OME, generic), or a URL of one.
    mpp
        Pixel size at level 0 in µm, or (x, y); overrides what the slide states. Where none can be
        believed, the metadata give level-0 pixels and no unit.
    storage_options
        Passed to fsspec for URLs, and kept in pickles of the group.

    Raises
    ------
    SlideOpenError
        No such file, or its format has no tiles of its own to show; use :func:`level_array` then.

    References
    ----------
    https://ngff.openmicroscopy.org/0.5/
    """
    where = str(path) if is_url(str(path)) else str(Path(path).absolute())
    source = TileSource(where, dict(storage_options or {}))
    tiles = source.open()
    resolution = resolve_mpp(tiles.properties, override=as_pair(mpp))
    image = ome_image(Path(where).stem, tiles.level_sizes, resolution)
    return SlideGroup.open(StoredTileStore(source, {"ome": image}, tiles=tiles))


def ome_image(
    name: str, level_sizes: tuple[tuple[int, int], ...], resolution: Resolution
) -> dict[str, Any]:
    """Return the OME-NGFF 0.5 metadata of an RGB pyramid, axes (c, y, x).

    Parameters
    ----------
    level_sizes
        (width, height) of each level, finest first.
    resolution
        Where its pixel size cannot be believed, positions are level-0 pixels and have no unit.

    Examples
    --------
    >>> unknown = Resolution(None, "", (), (), "no mpp in the metadata")
    >>> image = ome_image("a", ((1000, 800), (250, 200)), unknown)
    >>> scale, translation = image["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    >>> scale["scale"], translation["translation"]
    ([1.0, 4.0, 4.0], [0.0, 1.5, 1.5])
    """
    is_known = resolution.mpp is not None and not resolution.problem
    mpp = resolution.mpp if is_known and resolution.mpp is not None else (1.0, 1.0)
    unit = {"unit": "micrometer"} if is_known else {}
    datasets = []
    for level, size in enumerate(level_sizes):
        x, y = (true_downsample(level_sizes[0][axis], size[axis]) for axis in (0, 1))
        scale = [1.0, y * mpp[1], x * mpp[0]]
        # A pixel's place is its centre, and level 0 begins at 0.
        translation = [0.0, (y - 1) / 2 * mpp[1], (x - 1) / 2 * mpp[0]]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", **unit} for axis in ("y", "x")]
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": colour, "window": window, "active": True}
        for label, colour in _COLOURS.items()
    ]
    return {
        "version": NGFF_VERSION,
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
        "omero": {"channels": channels},
    }


def plain_slices(selection: Any, shape: tuple[int, ...]) -> tuple[Any, slice, slice] | None:
    """Return (channel, rows, columns) of a selection of ``(c, y, x)``; None if it is not plain.

    Plain are a channel or a slice of them, and rows and columns without steps, not empty.

    Examples
    --------
    >>> plain_slices((0, slice(2, 9), slice(-3, None)), (3, 8, 6))
    (0, slice(2, 8, 1), slice(3, 6, 1))
    >>> plain_slices((..., 4), (3, 8, 6)) is None
    True
    """
    parts = selection if isinstance(selection, tuple) else (selection,)
    if not all(part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts):
        return None
    gaps = [place for place, part in enumerate(parts) if part is Ellipsis] or [len(parts)]
    given = (*parts[: gaps[0]], *parts[gaps[0] + 1 :])
    if len(gaps) > 1 or len(given) > len(shape):
        return None
    whole = (slice(None),) * (len(shape) - len(given))
    channel, *plane = given[: gaps[0]] + whole + given[gaps[0] :]
    rows, columns = (_forward(part, length) for part, length in zip(plane, shape[1:], strict=True))
    if isinstance(channel, slice):
        channel = _forward(channel, shape[0])
    elif isinstance(channel, bool) or not -shape[0] <= channel < shape[0]:
        channel = None
    if channel is None or rows is None or columns is None:
        return None
    return channel, rows, columns


def _forward(part: Any, length: int) -> slice | None:
    """Return a slice with its bounds, or None if it has a step or nothing in it."""
    if not isinstance(part, slice) or part.step not in (None, 1):
        return None
    start, stop, _ = part.indices(length)
    return slice(start, stop, 1) if start < stop else None
