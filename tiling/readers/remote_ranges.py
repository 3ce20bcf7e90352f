"""Ranges of a remote file: any number of them in few requests, each checked, none a whole file."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.asyn import sync

from tiling.errors import SlideAccessError
from tiling.readers.range_cache import Range

if TYPE_CHECKING:
    import aiohttp

HEAD_BYTES = 64 << 10
"""Bytes that the first request to a web server asks for."""
MAX_GAP_BYTES = 4 << 10
"""Bytes between two wanted ranges that are fetched along rather than asked for apart."""
MAX_REQUEST_BYTES = 8 << 20
REQUESTS_AT_ONCE = 16
PAUSES_S = (0.2, 0.8)
"""Waits before a web server is asked a second and a third time."""
CONNECT_S, SILENCE_S = 15, 30
"""After how long a web server that does not answer, or stops sending, is given up."""
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status of what may work a moment later (RFC 9110, RFC 6585, RFC 8470)."""
EXTRAS = {"http": "remote", "https": "remote", "s3": "remote", "gs": "gcs", "gcs": "gcs"}
"""Protocol to the extra that installs what it needs; fsspec's message names what others need."""
CREDENTIALS = (
    "give credentials by the environment (AWS_…, GOOGLE_APPLICATION_CREDENTIALS, FSSPEC_…) or "
    "storage_options; a signed address may have run out"
)


WHOLE_FILES = ("simplecache::", "filecache::")
"""Beginnings of URLs that fsspec fetches as a whole."""


class RemoteRanges(ABC):
    """A remote file of known size whose ranges can be asked for."""

    size: int
    head: bytes = b""
    """Its first bytes, where learning its size brought them along."""

    @abstractmethod
    def fetch(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        """Return the bytes of each span, or why they did not come; spans lie within the file."""


class WholeFile(RemoteRanges):
    """A file that fsspec has fetched as a whole, to `path` on this machine.

    Not by the cache's own ranges: those of fsspec 2026.7 fail, and its `open` fetches twice.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.size = os.path.getsize(path)

    def fetch(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        found: list[bytes | BaseException] = []
        with open(self._path, "rb") as file:
            for offset, count in spans:
                file.seek(offset)
                found.append(file.read(count))
        return found


class FsspecRanges(RemoteRanges):
    """A file of any file system that fsspec knows."""

    def __init__(self, files: Any, path: str) -> None:
        info = files.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError("a folder, not a file")
        if info.get("size") is None:
            raise OSError("its size is not stated")
        self.size = int(info["size"])
        self._files = files
        self._path = path

    def fetch(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        starts = [offset for offset, _ in spans]
        stops = [offset + count for offset, count in spans]
        found = self._files.cat_ranges([self._path] * len(spans), starts, stops, on_error="return")
        return [
            data
            if isinstance(data, BaseException) or len(data) == count
            else OSError(f"{len(data)} bytes came in place of {count}")
            for data, (_, count) in zip(found, spans, strict=True)
        ]


class HttpRanges(RemoteRanges):
    """A file on a web server that gives byte ranges (RFC 9110, section 14).

    fsspec takes what a server sends for what was asked for; a server without ranges sends the
    whole file, for every tile. Here every reply is checked before its body is read, and what
    fails for a moment is asked for again.
    """

    def __init__(self, files: Any, url: str) -> None:
        self._files = files
        self._url = files.encode_url(url)
        self.size = 0
        self.head, self.size = sync(files.loop, self._reply, 0, HEAD_BYTES)

    def fetch(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        found: list[bytes | BaseException] = sync(self._files.loop, self._fetch_all, spans)
        return found

    async def _fetch_all(self, spans: Sequence[Range]) -> list[bytes | BaseException]:
        gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

        async def fetch_one(offset: int, count: int) -> bytes:
            async with gate:
                data, size = await self._reply(offset, count)
            if size != self.size or len(data) != count:
                raise OSError(f"the file changed on the server ({size} bytes, it had {self.size})")
            return data

        return await asyncio.gather(*(fetch_one(*span) for span in spans), return_exceptions=True)

    async def _reply(self, offset: int, count: int) -> tuple[bytes, int]:
        """Return the bytes of a range and the file's size, after some attempts."""
        import aiohttp

        pauses = iter(PAUSES_S)
        passing = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError,
                   _PassingError)  # fmt: skip
        while True:
            try:
                return await self._ask(offset, count)
            except passing as err:
                pause = next(pauses, None)
                if pause is None:
                    raise OSError(str(err) or type(err).__name__) from err
            await asyncio.sleep(pause)

    async def _ask(self, offset: int, count: int) -> tuple[bytes, int]:
        import aiohttp

        options = dict(self._files.kwargs)
        headers = {
            **options.pop("headers", {}),
            "Range": f"bytes={offset}-{offset + count - 1}",
            "Accept-Encoding": "identity",  # ranges are counted in what is sent
        }
        options.setdefault(
            "timeout", aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=SILENCE_S)
        )
        session = await self._files.set_session()
        async with session.get(self._url, headers=headers, **options) as reply:
            size = _checked_size(reply, offset)
            body = bytearray()
            async for piece in reply.content.iter_chunked(1 << 16):
                body += piece
                if len(body) > count:
                    raise OSError(f"more came than the {count} bytes that were asked for")
            return bytes(body), size


class _PassingError(OSError):
    """The server may answer a moment later."""


def _checked_size(reply: aiohttp.ClientResponse, offset: int) -> int:
    """Return the size of the file that a reply is a part of; raise if it is no such part."""
    status = reply.status
    if status in (404, 410):
        raise FileNotFoundError("no such file")
    if status in (401, 403):
        raise PermissionError(f"HTTP {status} {reply.reason}")
    if status == 200:
        raise OSError(
            "the server sends whole files only, no byte ranges; download the slide, or read it as "
            "simplecache::URL, which fetches it once"
        )
    if status != 206:
        kind = _PassingError if status in TRY_AGAIN else OSError
        raise kind(f"HTTP {status} {reply.reason}")
    stated = reply.headers.get("Content-Range", "")
    unit, _, place = stated.partition(" ")
    span, _, size = place.partition("/")
    if unit != "bytes" or span.partition("-")[0] != str(offset) or not size.isdecimal():
        raise OSError(f"the server's reply is no range that can be used ({stated!r})")
    return int(size)


def open_remote(url: str, storage_options: Mapping[str, Any]) -> RemoteRanges:
    """Return the ranges of the file at an fsspec URL.

    Raises
    ------
    SlideAccessError
        It is not there, access is refused, or its bytes cannot be had by ranges.
    """
    protocol = fsspec.core.split_protocol(url)[0] or "file"
    try:
        if url.startswith(WHOLE_FILES):
            # As `fsspec.open_local` does, which leaves the file open.
            with fsspec.open_files(url, **storage_options) as [file], file:
                return WholeFile(file.name)
        files, path = fsspec.core.url_to_fs(url, **storage_options)
        kind = HttpRanges if protocol in ("http", "https") else FsspecRanges
        return kind(files, path)
    except ImportError as err:
        extra = EXTRAS.get(protocol)
        remedy = f": pip install 'wsi-pipeline[{extra}]'" if extra else ""
        raise SlideAccessError(f"{url}: {err}{remedy}") from err
    except FileNotFoundError as err:
        raise SlideAccessError(f"{url}: no such file; check the address") from err
    except Exception as err:  # every file system has errors of its own
        refused = isinstance(err, PermissionError) or "Credentials" in type(err).__name__
        name = "" if isinstance(err, OSError) else f"{type(err).__name__}: "
        raise SlideAccessError(
            f"{url}: cannot be reached: {name}{err}{f'; {CREDENTIALS}' if refused else ''}"
        ) from err


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
        is_near = bool(groups) and offset - end <= MAX_GAP_BYTES
        if is_near and offset + count - groups[-1][0][0] <= MAX_REQUEST_BYTES:
            groups[-1].append((offset, count))
            end = max(end, offset + count)
        else:
            groups.append([(offset, count)])
            end = offset + count
    return groups
