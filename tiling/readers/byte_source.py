"""Bytes of a slide file: from a local disk, or by range requests through fsspec."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import fsspec

Range = tuple[int, int]
"""(offset, count) of bytes."""

CACHE_BYTES = 64 << 20
"""Compressed bytes kept for one remote slide."""
MAX_GAP_BYTES = 4 << 10
"""Bytes between two wanted ranges that are fetched along rather than asked for apart."""
MAX_REQUEST_BYTES = 8 << 20
METADATA_BLOCK_BYTES = 64 << 10


class ByteSource(ABC):
    """A file whose ranges are read from several threads at once."""

    @abstractmethod
    def open(self) -> IO[bytes]:
        """Return a file object, for libraries that parse metadata."""

    @abstractmethod
    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes, or fewer where the file ends; raise `OSError`."""

    def prefetch(self, ranges: Iterable[Range]) -> None:  # noqa: B027 (a disk has no need)
        """Fetch `ranges` together, where that is faster than one by one."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""


class LocalBytes(ByteSource):
    """A local file. Read, not mapped: a mapped file that shrinks kills the process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, os.close, self._file)

    def open(self) -> IO[bytes]:
        return Path(self._path).open("rb")

    def read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file, count, offset)
        with self._lock:  # Windows
            os.lseek(self._file, offset, os.SEEK_SET)
            return os.read(self._file, count)

    def close(self) -> None:
        self._close()


class RemoteBytes(ByteSource):
    """A file behind an fsspec URL; what was fetched last is kept, within `CACHE_BYTES`."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._files, self._path = fsspec.core.url_to_fs(url, **storage_options)
        self._cache: OrderedDict[Range, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def open(self) -> IO[bytes]:
        file: IO[bytes] = self._files.open(
            self._path, "rb", block_size=METADATA_BLOCK_BYTES, cache_type="blockcache"
        )
        return file

    def read(self, offset: int, count: int) -> bytes:
        with self._lock:
            found = self._cache.get((offset, count))
            if found is not None:
                self._cache.move_to_end((offset, count))
                return found
        data: bytes = self._files.cat_file(self._path, start=offset, end=offset + count)
        self._keep({(offset, count): data})
        return data

    def prefetch(self, ranges: Iterable[Range]) -> None:
        with self._lock:
            missing = sorted({r for r in ranges if r[1] > 0} - self._cache.keys())
        for requests in _within(merge_ranges(missing), CACHE_BYTES // 2):
            spans = [(members[0][0], sum(members[-1])) for members in requests]
            fetched = self._files.cat_ranges(
                [self._path] * len(spans), *zip(*spans, strict=True), on_error="return"
            )
            for (start, _), members, data in zip(spans, requests, fetched, strict=True):
                if isinstance(data, bytes):  # a failed range is asked for, and named, by read
                    self._keep({(o, c): data[o - start : o - start + c] for o, c in members})

    def _keep(self, found: Mapping[Range, bytes]) -> None:
        with self._lock:
            for key, data in found.items():
                if key not in self._cache:
                    self._cache[key] = data
                    self._cached_bytes += len(data)
            while self._cached_bytes > CACHE_BYTES and self._cache:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= len(dropped)

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
            self._cached_bytes = 0


def merge_ranges(ranges: Iterable[Range]) -> list[list[Range]]:
    """Return ascending `ranges` in groups that are each worth one request.

    Examples
    --------
    >>> merge_ranges([(0, 100), (100, 50), (90_000, 10)])
    [[(0, 100), (100, 50)], [(90000, 10)]]
    """
    groups: list[list[Range]] = []
    end = 0
    for offset, count in ranges:
        start = groups[-1][0][0] if groups else 0
        if groups and offset - end <= MAX_GAP_BYTES and offset + count - start <= MAX_REQUEST_BYTES:
            groups[-1].append((offset, count))
        else:
            groups.append([(offset, count)])
        end = max(end, offset + count) if len(groups[-1]) > 1 else offset + count
    return groups


def _within(groups: list[list[Range]], limit_bytes: int) -> Iterable[list[list[Range]]]:
    """Return `groups` in lots whose bytes together stay below `limit_bytes`."""
    lot: list[list[Range]] = []
    total = 0
    for group in groups:
        count = sum(c for _, c in group)
        if lot and total + count > limit_bytes:
            yield lot
            lot, total = [], 0
        lot.append(group)
        total += count
    if lot:
        yield lot
