"""Bytes of a slide file: from a local disk, or by range requests through fsspec."""

from __future__ import annotations

import io
import itertools
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from tiling.readers.range_cache import Range, RangeCache
from tiling.readers.remote_ranges import HEAD_BYTES, merge_ranges, open_remote

__all__ = ["ByteSource", "LocalBytes", "Range", "RemoteBytes", "open_bytes"]

CACHE_BYTES = 64 << 20
"""Compressed bytes kept for all remote slides of a process together."""
LOT_BYTES = 8 << 20
"""Compressed bytes that are fetched together, ahead of being read."""
METADATA_BLOCK_BYTES = HEAD_BYTES

_cache = RangeCache(CACHE_BYTES)
_numbers = itertools.count()


class ByteSource(ABC):
    """A file whose ranges are read from several threads at once."""

    size: int
    """Bytes in the file."""

    @abstractmethod
    def open(self) -> IO[bytes]:
        """Return a file object, for libraries that parse metadata."""

    @abstractmethod
    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes, or fewer where the file ends; raise `OSError`."""

    def prefetch(self, ranges: Iterable[Range]) -> None:  # noqa: B027 (a disk has no need)
        """Say what this thread will read, in that order: fetched together where that is faster."""

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
        self.size = os.fstat(self._file).st_size

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
    """A file behind an fsspec URL.

    What a thread announces by `prefetch` is fetched in lots, neighbours in one request, when the
    first range of a lot is read; what another thread is fetching is waited for, not asked for
    again. What was fetched last is kept, within `CACHE_BYTES` for the process.

    Raises
    ------
    SlideAccessError
        The file is not there, access is refused, or its bytes cannot be had by ranges.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._remote = open_remote(url, storage_options)
        self.size = self._remote.size
        self._number = next(_numbers)
        self._plans = threading.local()
        self._arrival = threading.Condition()
        self._coming: set[Range] = set()
        self._close = weakref.finalize(self, _cache.drop, self._number)
        if self._remote.head:
            _cache.put(self._number, {(0, METADATA_BLOCK_BYTES): self._remote.head})

    def open(self) -> IO[bytes]:
        return cast(IO[bytes], _RemoteFile(self))

    def read(self, offset: int, count: int) -> bytes:
        wanted = offset, count
        found = self._arrived(wanted)
        if found is None:
            lots: dict[Range, list[Range]] = getattr(self._plans, "lots", {})
            found = self._fetch(lots.get(wanted, [wanted])).get(wanted)
        if found is None:  # another thread fetches it, or the request that it was part of failed
            found = self._arrived(wanted)
        if found is None:
            [alone] = self._ask([self._span([wanted])])
            if isinstance(alone, BaseException):
                raise alone if isinstance(alone, OSError) else OSError(str(alone)) from alone
            found = alone
        return found

    def prefetch(self, ranges: Iterable[Range]) -> None:
        self._plans.lots = {r: lot for lot in _lots(ranges) for r in lot}

    def _arrived(self, wanted: Range) -> bytes | None:
        """Return a range that is kept, or that another thread is just fetching."""
        with self._arrival:
            self._arrival.wait_for(lambda: wanted not in self._coming)
        return _cache.get(self._number, wanted)

    def _fetch(self, lot: Iterable[Range]) -> dict[Range, bytes]:
        """Fetch and keep what nobody has or fetches; a request that fails leaves its ranges out."""
        with self._arrival:
            mine = sorted(_cache.missing(self._number, lot) - self._coming)
            self._coming.update(mine)
        found: dict[Range, bytes] = {}
        try:
            groups = merge_ranges(mine)
            spans = [self._span(members) for members in groups]
            for (start, _), members, data in zip(spans, groups, self._ask(spans), strict=True):
                if isinstance(data, bytes):
                    found |= {(o, c): data[o - start : o - start + c] for o, c in members}
            _cache.put(self._number, found)
        finally:
            with self._arrival:
                self._coming.difference_update(mine)
                self._arrival.notify_all()
        return found

    def _ask(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        """Return what the spans hold; nothing is asked for beyond the end of the file."""
        real = [span for span in spans if span[1] > 0]
        came = iter(self._remote.fetch(real) if real else ())
        return [next(came) if span[1] > 0 else b"" for span in spans]

    def _span(self, members: Sequence[Range]) -> Range:
        """Return what holds all members, as far as the file goes."""
        start = min(members[0][0], self.size)
        stop = min(max(offset + count for offset, count in members), self.size)
        return start, stop - start

    def close(self) -> None:
        self._close()


class _RemoteFile(io.RawIOBase):
    """A remote file for libraries that read metadata here and there: whole blocks are kept."""

    def __init__(self, source: RemoteBytes) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}
        self._position = max(origin[whence] + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._source.size - self._position, 0)
        count = left if size is None or size < 0 else min(size, left)
        start = self._position
        self._position += count
        first = start // METADATA_BLOCK_BYTES * METADATA_BLOCK_BYTES
        blocks = [
            (offset, METADATA_BLOCK_BYTES)
            for offset in range(first, start + count, METADATA_BLOCK_BYTES)
        ]
        self._source.prefetch(blocks)
        joined = b"".join(self._source.read(*block) for block in blocks)
        return joined[start - first : start - first + count]

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)


def open_bytes(path: str, storage_options: Mapping[str, Any]) -> ByteSource:
    """Return the bytes of the file at a local path or fsspec URL; raise `OSError`."""
    return RemoteBytes(path, storage_options) if "://" in path else LocalBytes(path)


def _lots(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    """Return `ranges` in order, in lots of about `LOT_BYTES`; empty ones are left out."""
    lot: list[Range] = []
    total = 0
    for offset, count in ranges:
        if lot and total + count > LOT_BYTES:
            yield lot
            lot, total = [], 0
        if count > 0:
            lot.append((offset, count))
            total += count
    if lot:
        yield lot
