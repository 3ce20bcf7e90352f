"""What identifies a slide's file, wherever it lies."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiling.errors import SlideAccessError, SlideOpenError
from tiling.readers.base import UnsupportedSlideError
from tiling.readers.byte_source import open_bytes
from tiling.readers.kinds import is_zarr
from tiling.readers.registry import slide_file
from tiling.urls import file_name

HASH_BYTES = 1 << 16
"""Bytes hashed at the start, in the middle and at the end."""


@dataclass(frozen=True, slots=True)
class Source:
    """What identifies a slide file: its size and a hash of its first, middle and last bytes.

    Of a DICOM series it is the base level's file; of an OME-Zarr image the size is that of the
    finest level, decoded, and the hash one of its metadata and a few chunks.
    """

    name: str
    size_bytes: int
    quick_hash: str


def read_source(path: str, *, storage_options: Mapping[str, Any] | None = None) -> Source:
    """Return the identity of the slide at `path`; reads about 192 KiB.

    Raises
    ------
    SlideOpenError
        It cannot be read.
    """
    path = slide_file(path)
    if is_zarr(path):
        return _zarr_source(path, storage_options or {})
    try:
        with contextlib.closing(open_bytes(path, storage_options or {})) as file:
            digest = hashlib.sha256(str(file.size).encode())
            middle, end = max(file.size // 2 - HASH_BYTES // 2, 0), max(file.size - HASH_BYTES, 0)
            parts = [(start, HASH_BYTES) for start in (0, middle, end)]
            file.prefetch(parts)
            for part in parts:
                digest.update(file.read(*part))
            return Source(file_name(path), file.size, digest.hexdigest())
    except SlideAccessError:
        raise
    except OSError as err:
        raise SlideOpenError(f"{path}: cannot be read: {err}") from err


def _zarr_source(path: str, storage_options: Mapping[str, Any]) -> Source:
    from tiling.readers.ome_zarr import OmeZarrReader  # zarr is slow to import

    try:
        opened = OmeZarrReader.open(path, storage_options)
    except UnsupportedSlideError as err:
        raise SlideOpenError(f"{path}: {err}") from err
    try:
        size_bytes, digest = opened.identity()
    finally:
        opened.close()
    return Source(file_name(path), size_bytes, digest)
