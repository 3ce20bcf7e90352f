"""What was fetched of remote slides, bounded for the whole process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

Range = tuple[int, int]
"""(offset, count) of bytes."""


class RangeCache:
    """Ranges of several files, least recently used ones dropped; safe in several threads.

    Parameters
    ----------
    limit_bytes
        Kept at most, of all files together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._kept: OrderedDict[tuple[int, Range], bytes] = OrderedDict()
        # Python may let go of a source, and so drop its file, wherever it makes an object: in the
        # midst of these methods too, where a plain lock would wait for itself.
        self._lock = threading.RLock()

    def get(self, file: int, wanted: Range) -> bytes | None:
        """Return what was kept under that very range."""
        with self._lock:
            found = self._kept.get((file, wanted))
            if found is not None:
                self._kept.move_to_end((file, wanted))
            return found

    def missing(self, file: int, wanted: Iterable[Range]) -> set[Range]:
        """Return the ranges that are not kept."""
        with self._lock:
            return {r for r in wanted if (file, r) not in self._kept}

    def put(self, file: int, found: Mapping[Range, bytes]) -> None:
        """Keep ranges; what was used least recently goes."""
        with self._lock:
            for key, data in found.items():
                before = self._kept.pop((file, key), b"")
                self._kept[file, key] = data
                self.bytes += len(data) - len(before)
            while self.bytes > self.limit_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.bytes -= len(dropped)

    def drop(self, file: int) -> None:
        """Forget a file that was closed."""
        with self._lock:
            for key in [k for k in list(self._kept) if k[0] == file]:
                dropped = self._kept.pop(key, b"")
                self.bytes -= len(dropped)
