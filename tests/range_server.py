"""A small web server for tests: byte ranges, and what servers do wrong with them."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class RangeServer:
    """Serves the files of a folder on 127.0.0.1 and notes what it was asked for.

    Attributes
    ----------
    url
        Of the folder, without a slash at its end.
    sent
        (path, offset, bytes sent) of each reply with a body.
    has_ranges
        If not, every reply is a whole file, as from servers without ranges.
    wanted_user
        "user:password" that must be given, if any.
    wanted_query
        What the query must contain, if anything: a signature.
    fault
        Called with (offset, end, number of requests so far); what it returns is done instead: a
        status to answer with, "drop" to close the connection in the middle of the body, "stall" to
        say nothing for a second, or None.
    """

    folder: Path
    url: str = ""
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    has_ranges: bool = True
    wanted_user: str = ""
    wanted_query: str = ""
    fault: Callable[[int, int, int], int | str | None] = lambda *_: None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes_sent(self) -> int:
        return sum(count for _, _, count in self.sent)


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    """Serve `folder` until the block ends."""
    state = RangeServer(folder)

    class Handler(_Handler):
        server_state = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: RangeServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        state, address = self.server_state, urlsplit(self.path)
        path = state.folder / unquote(address.path).lstrip("/")
        status = self._refusal(path, address.query)
        if status:
            self._end(status, {}, b"")
            return
        content = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        offset, stop, status = 0, len(content), 200
        headers = {"Accept-Ranges": "bytes"}  # also if it is a lie
        if asked and state.has_ranges:
            offset, status = int(asked[1]), 206
            stop = min(int(asked[2] or len(content)) + 1, len(content))
            if offset >= len(content):
                self._end(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            headers["Content-Range"] = f"bytes {offset}-{stop - 1}/{len(content)}"
        body = content[offset:stop]
        with state.lock:
            fault = state.fault(offset, stop, len(state.sent))
            if with_body:
                state.sent.append((address.path, offset, len(body)))
        if fault == "stall":
            time.sleep(1)
        if isinstance(fault, int):
            self._end(fault, {}, b"")
        elif fault == "drop":
            self._end(status, headers, body, cut=len(body) // 2)
        else:
            self._end(status, headers, body if with_body else b"", length=len(body))

    def _refusal(self, path: Path, query: str) -> int:
        state = self.server_state
        user = "Basic " + base64.b64encode(state.wanted_user.encode()).decode()
        if state.wanted_user and self.headers.get("Authorization") != user:
            return 401
        if state.wanted_query not in query:
            return 403
        return 0 if path.is_file() else 404

    def _end(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        length: int | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        try:
            self.wfile.write(body[:cut])
        except OSError:  # the client had seen enough
            self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
