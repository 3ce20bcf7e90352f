"""Maps of probability in a slide store: OME-NGFF 0.5 pyramids, written strip by strip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from tiling.errors import MissingNodeError, StoreMismatchError
from tiling.nodes import ATTRIBUTES, Json, as_json, attributes_of, slug_of
from tiling.store import SlideStore
from tiling.windows import WindowGrid

FOLDER = "segmentations"
NGFF_VERSION = "0.5"
MAX_CHUNK_PX = 512
LARGEST_TOP_PX = 512
"""Both sides of the coarsest level are at most this."""
SCALE = 255
"""The stored value of probability 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbabilityMap:
    """A node ``segmentations/<name>``: uint8 levels ``0``, ``1``, … and ``strips``.

    Level 0 has the network's pixels; each next one halves them. Values are probability times 255;
    0 also where no window was looked at. `strips` int32 ``(rows,)`` says of each strip how many of
    its windows could not be read, -1 where it is not done.
    """

    name: str
    group: zarr.Group

    @property
    def attrs(self) -> Json:
        """What it was made with, and when it is complete the counts."""
        return attributes_of(self.group)

    @property
    def is_complete(self) -> bool:
        """Whether all strips and levels are written; never guessed from chunks."""
        return bool(self.attrs.get("complete"))

    @property
    def grid(self) -> WindowGrid:
        """The windows that it was blended from."""
        found: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self.attrs["grid"].items()
        }
        return WindowGrid(**found)

    @property
    def levels(self) -> int:
        """How many levels a complete map has."""
        return len(_level_shapes(self.grid.size))

    def shape(self, level: int) -> tuple[int, int]:
        """(height, width) of a level."""
        return _level_shapes(self.grid.size)[level]

    def mpp(self, level: int) -> tuple[float, float]:
        """Pixel size (x, y) of a level, µm."""
        x, y = self.grid.mpp
        return x * 2**level, y * 2**level

    def pixel(self, level: int) -> tuple[float, float]:
        """Size (x, y) of a level's pixel, level-0 px of the slide."""
        x, y = self.grid.pixel
        return x * 2**level, y * 2**level

    def read(self, level: int, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Return part of a level."""
        return np.asarray(self._array(str(level))[rows, columns])

    def level_within(self, max_px: int) -> int:
        """Return the finest level with at most `max_px` pixels; the coarsest if none has."""
        shapes = _level_shapes(self.grid.size)
        fitting = [level for level, (h, w) in enumerate(shapes) if h * w <= max_px]
        return min(fitting, default=len(shapes) - 1)

    def missing_strips(self) -> list[int]:
        """Return the strips that are not done, ascending."""
        return np.flatnonzero(np.asarray(self._array("strips")[:]) < 0).tolist()

    def write_strip(self, strip: int, cells: Iterable[tuple[int, NDArray[np.uint8]]]) -> None:
        """Write the cells (column, pixels) of a strip as they come."""
        image, step = self._array("0"), self.grid.stride_px
        top = strip * step
        for column, pixels in cells:
            left = column * step
            part = pixels[: image.shape[0] - top, : image.shape[1] - left]
            image[top : top + part.shape[0], left : left + part.shape[1]] = part

    def finish_strip(self, strip: int, *, unreadable: int) -> None:
        """Record that a strip is written, and how many of its windows could not be read."""
        self._array("strips")[strip] = unreadable

    def finish(self, **attributes: Any) -> None:
        """Write the coarser levels, the image's metadata, and that all is there."""
        missing = self.missing_strips()
        if missing:
            raise StoreMismatchError(f"{self.name}: {len(missing)} strips are not written yet")
        for level in range(1, self.levels):
            self._write_level(level)
        self.group.attrs["ome"] = self._metadata()
        unreadable = int(np.asarray(self._array("strips")[:]).sum())
        found = {**self.attrs, **attributes, "unreadable": unreadable, "complete": True}
        self.group.attrs[ATTRIBUTES] = as_json(found)

    def _write_level(self, level: int) -> None:
        source = self._array(str(level - 1))
        target = _create_level(self.group, level, self.shape(level), self.grid.stride_px)
        step = int(target.chunks[0])
        for rows, columns in blocks(self.shape(level), step):
            finer = source[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]
            if np.any(finer):
                target[rows, columns] = halved(np.asarray(finer))

    def _metadata(self) -> Json:
        mpp = self.grid.slide_mpp
        datasets = []
        for level in range(self.levels):
            x, y = self.mpp(level)
            datasets.append({
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [y, x]},
                    # Level-0 pixel (0, 0) has its centre at 0, as in heat maps.
                    {"type": "translation", "translation": [(y - mpp[1]) / 2, (x - mpp[0]) / 2]},
                ],
            })  # fmt: skip
        axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
        image = {"name": self.name, "axes": axes, "datasets": datasets, "type": "mean"}
        return {"version": NGFF_VERSION, "multiscales": [image]}

    def _array(self, name: str) -> zarr.Array[Any]:
        array = cast("zarr.Array[Any]", self.group[name])
        # A level's empty chunks stay unwritten; a strip's number says that it is done.
        return array.with_config({"write_empty_chunks": name == "strips", "order": "C"})


def create_map(store: SlideStore, name: str, grid: WindowGrid, attrs: Json) -> ProbabilityMap:
    """Create the node ``segmentations/<name>``, or open it to go on.

    Parameters
    ----------
    name
        Holds the hash of `attrs`: see :func:`tiling.nodes.node_name`.
    attrs
        What the map is made with, beside `grid`.

    Raises
    ------
    StoreMismatchError
        The node exists and was made with others.
    """
    group = store.image_group(name, folder=FOLDER)
    found = ProbabilityMap(name, group)
    wanted = as_json({**attrs, "grid": _as_dict(grid), "scale": SCALE})
    if not found.attrs:
        width, height = grid.size
        _create_level(group, 0, (height, width), grid.stride_px)
        group.create_array(
            "strips", shape=grid.cells[1:], dtype=np.int32, chunks=(1,), fill_value=-1,
            overwrite=True,
        )  # fmt: skip
        group.attrs[ATTRIBUTES] = wanted  # last: without them the node is made anew
    recorded = {key: found.attrs.get(key) for key in wanted}
    changed = [key for key in wanted if recorded[key] != wanted[key]]
    if changed:
        raise StoreMismatchError(
            f"{store.slide_id}: {FOLDER}/{name} was made with other {', '.join(changed)}; use "
            "another output folder"
        )
    return found


def map_names(store: SlideStore) -> list[str]:
    """Return the names of a store's complete maps, sorted."""
    names = store.image_names(FOLDER)
    maps = (ProbabilityMap(n, store.image_group(n, folder=FOLDER)) for n in names)
    return [one.name for one in maps if one.is_complete]


def open_map(store: SlideStore, name: str | None = None) -> ProbabilityMap:
    """Return a complete map by full name, by slug, or the only one.

    Raises
    ------
    MissingNodeError
        There is none of that name, or several and the name does not tell them apart.
    """
    names = map_names(store)
    matching = [n for n in names if name is None or name in (n, slug_of(n))]
    if len(matching) == 1:
        return ProbabilityMap(matching[0], store.image_group(matching[0], folder=FOLDER))
    if matching:
        raise MissingNodeError(
            f"{store.slide_id}: several segmentations fit; name one of {', '.join(matching)}"
        )
    wanted = "segmentation" if name is None else f"segmentation called {name!r}"
    found = f"; it has {', '.join(names)}" if names else ""
    raise MissingNodeError(
        f"{store.slide_id}: the store holds no finished {wanted}{found}; run `wsi segment predict`"
    )


def halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean of each 2 x 2 pixels, rounded half up; an odd last line stands for two.

    Examples
    --------
    >>> halved(np.array([[0, 255, 10], [255, 255, 10], [3, 4, 9]], np.uint8)).tolist()
    [[191, 10], [4, 9]]
    """
    padded = np.pad(pixels, [(0, n % 2) for n in pixels.shape], mode="edge").astype(np.uint16)
    total = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def blocks(shape: tuple[int, int], step: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of blocks of `step` px that make up `shape`, row by row."""
    for top in range(0, shape[0], step):
        for left in range(0, shape[1], step):
            yield (
                slice(top, min(top + step, shape[0])), slice(left, min(left + step, shape[1]))
            )  # fmt: skip


def _create_level(
    group: zarr.Group, level: int, shape: tuple[int, int], stride_px: int
) -> zarr.Array[Any]:
    edge = stride_px // -(-stride_px // MAX_CHUNK_PX) if level == 0 else MAX_CHUNK_PX
    return group.create_array(
        str(level),
        shape=shape,
        dtype=np.uint8,
        chunks=(edge, edge),
        fill_value=0,
        dimension_names=("y", "x"),
        overwrite=True,
    )


def _level_shapes(size: tuple[int, int]) -> list[tuple[int, int]]:
    shapes = [(size[1], size[0])]
    while max(shapes[-1]) > LARGEST_TOP_PX:
        height, width = shapes[-1]
        shapes.append((-(-height // 2), -(-width // 2)))
    return shapes


def _as_dict(grid: WindowGrid) -> Json:
    return {name: getattr(grid, name) for name in WindowGrid.__dataclass_fields__}
