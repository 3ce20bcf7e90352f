"""Nodes of a slide store: rows written in blocks, names that hold the hash of what made them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from tiling.errors import StoreMismatchError
from tiling.tiles import TileStatus

ATTRIBUTES = "wsi_pipeline"
"""Key of our attributes on a group or array; other tools' keys (``ome``) stand beside it."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """A node of one row per tile and the status beside it, both written block by block."""

    name: str
    data: zarr.Array[Any]
    status: zarr.Array[Any]
    block: int

    def __len__(self) -> int:
        return int(self.data.shape[0])

    @property
    def attrs(self) -> Json:
        """What the stage recorded."""
        return attributes_of(self.data)

    @property
    def is_complete(self) -> bool:
        """Whether the stage said that it finished; never guessed from chunks."""
        return bool(self.attrs.get("complete"))

    def rows_of(self, block: int) -> slice:
        """Return the rows of a block."""
        return slice(block * self.block, min((block + 1) * self.block, len(self)))

    def missing_blocks(self) -> list[int]:
        """Return the blocks whose chunk was never written, ascending."""
        written = _keys(self.data)
        tail = (0,) * (self.data.ndim - 1)
        blocks = range(-(-len(self) // self.block))
        return [b for b in blocks if self._chunk_key((b, *tail)) not in written]

    def write(self, block: int, data: NDArray[Any], status: NDArray[np.uint8]) -> None:
        """Write a whole block: the status first, since the data's chunk says that both are there.

        Raises
        ------
        OSError
            No space or no permission; what was written before stays valid.
        """
        rows = self.rows_of(block)
        self.status[rows] = status
        self.data[rows] = data

    def finish(self, **attributes: Any) -> None:
        """Record that every block is written, with the stage's own `attributes`."""
        missing = self.missing_blocks()
        if missing:
            raise StoreMismatchError(f"{self.name}: {len(missing)} blocks are not written yet")
        update_attributes(self.data, {**attributes, "complete": True})

    def _chunk_key(self, coordinates: tuple[int, ...]) -> str:
        key = self.data.metadata.encode_chunk_key(coordinates)
        return f"{self.data.path}/{key}"


def node_name(slug: str, identity: Json) -> str:
    """Return ``<slug>-<8 hex digits>`` of what a node was made with.

    Examples
    --------
    >>> node_name("ResNet 50", {"batch": 32})
    'resnet-50-1d43da4a'
    """
    text = json.dumps(as_json(identity), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^a-z0-9._-]+', '-', slug.lower()).strip('-.')}-{digest}"


def slug_of(name: str) -> str:
    """Return the slug of a node's full name.

    Examples
    --------
    >>> slug_of("resnet-50-1d43da4a")
    'resnet-50'
    """
    return re.sub(r"-[0-9a-f]{8}$", "", name)


def count_unreadable(status: NDArray[np.uint8]) -> int:
    """Return how many tiles could not be decoded."""
    return int((status == TileStatus.UNREADABLE).sum())


def attributes_of(node: zarr.Group | zarr.Array[Any]) -> Json:
    """Return our attributes on a node, other tools' left out."""
    found = node.attrs.asdict().get(ATTRIBUTES, {})
    return cast(Json, found)


def update_attributes(array: zarr.Array[Any], changes: Json) -> None:
    """Change some of our attributes on an array."""
    array.attrs[ATTRIBUTES] = as_json({**attributes_of(array), **changes})


def as_json(value: Json) -> Json:
    """Return `value` as it reads back from JSON: tuples as lists, NumPy numbers refused."""
    return cast(Json, json.loads(json.dumps(value, allow_nan=False)))


def _keys(array: zarr.Array[Any]) -> set[str]:
    """Return the store's keys below `array`."""

    async def collect(keys: AsyncIterator[str]) -> set[str]:
        return {key async for key in keys}

    return sync(collect(array.store.list_prefix(f"{array.path}/")))
