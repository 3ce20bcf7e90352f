"""Nodes of a slide store: rows written in blocks, names that hold the hash of what made them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore

from tiling.errors import StoreMismatchError, StoreOpenError
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
        blocks = range(-(-len(self) // self.block))
        return [b for b in blocks if _chunk_key(self.data, b) not in written]

    def read(self, wanted: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return rows in the order of `wanted`, or all of them; what is not written is the fill.

        Chunks that lie uncompressed on a disk are read without zarr: 100,000 rows of 1024, or 8,192
        of them, in a third of its time.

        Raises
        ------
        StoreOpenError
            A chunk's file is shorter or longer than the chunk.
        """
        return _read_rows(self.data, wanted)

    def read_status(self) -> NDArray[np.uint8]:
        """Return the status of every row; raises as :meth:`read` does."""
        return np.asarray(_read_rows(self.status, None), np.uint8)

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


def _chunk_key(array: zarr.Array[Any], block: int) -> str:
    """Return the store's key of the chunk that holds a block of rows."""
    key = array.metadata.encode_chunk_key((block, *(0,) * (array.ndim - 1)))
    return f"{array.path}/{key}"


def _read_rows(array: zarr.Array[Any], wanted: NDArray[np.int64] | None) -> NDArray[Any]:
    root, total = _plain_root(array), array.shape[0]
    if root is None or not total:
        return np.asarray(array[:] if wanted is None else array.oindex[wanted])
    found = np.empty((total if wanted is None else len(wanted), *array.shape[1:]), array.dtype)
    chunk = np.empty(array.chunks, array.dtype)
    starts = range(0, total, len(chunk))
    if wanted is None:
        for block, start in enumerate(starts):
            _read_chunk(root / _chunk_key(array, block), chunk, array.fill_value)
            found[start : start + len(chunk)] = chunk[: total - start]
    else:
        places = np.argsort(wanted)
        edges = np.searchsorted(wanted[places], starts[1:])
        for block, here in enumerate(np.split(places, edges)):
            if len(here):
                _read_chunk(root / _chunk_key(array, block), chunk, array.fill_value)
                found[here] = chunk[wanted[here] - starts[block]]
    return found


def _plain_root(array: zarr.Array[Any]) -> Path | None:
    """Return the folder of the store if the array's chunks are files of bare numbers there."""
    codecs = cast(ArrayV3Metadata, array.metadata).codecs
    is_plain = codecs in ((BytesCodec(),), (BytesCodec(endian=None),))
    return array.store.root if is_plain and isinstance(array.store, LocalStore) else None


def _read_chunk(path: Path, into: NDArray[Any], fill: Any) -> None:
    try:
        with path.open("rb") as file:
            if file.readinto(into.data.cast("B")) != into.nbytes or file.read(1):
                raise StoreOpenError(
                    f"{path}: not a whole chunk of {into.nbytes} bytes; delete the array that it "
                    "is of, and make it again"
                )
    except FileNotFoundError:
        into[:] = fill


def _keys(array: zarr.Array[Any]) -> set[str]:
    """Return the store's keys below `array`."""

    async def collect(keys: AsyncIterator[str]) -> set[str]:
        return {key async for key in keys}

    return sync(collect(array.store.list_prefix(f"{array.path}/")))
