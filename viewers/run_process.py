"""A run of `wsi` as a process of its own: followed by its JSON lines, ended with all it started."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import psutil

GRACE_S = 0.4
"""Seconds from being asked to end until being killed."""
RATE_WINDOW_S = 20.0
"""Seconds over which the speed is measured."""
LEAST_S = 0.5
"""Over less nothing is measured: two blocks may end at the same moment."""
KEPT_LINES = 40

Event = dict[str, Any]


class RunProcess:
    """``python -m wsi_pipeline ARGUMENTS`` at work.

    Nothing here waits: `poll` returns what was said since it was last called, and kills what did
    not end in time after `cancel`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = tuple(arguments)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._complaints: deque[str] = deque(maxlen=KEPT_LINES)
        self._deadline: float | None = None
        self._family: list[psutil.Process] = []
        self.cancelled = False
        # The arguments are a list and go to no shell.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "wsi_pipeline", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        readers = ((self._process.stdout, self._take_event), (self._process.stderr, self._complain))
        self._threads = [
            threading.Thread(target=_read_lines, args=reader, daemon=True) for reader in readers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it, or anything that it started and that was told to end, still runs."""
        return self._process.poll() is None or any(_lives(p) for p in self._family)

    @property
    def returncode(self) -> int | None:
        """The exit code of `wsi`; None while it runs."""
        return self._process.poll()

    @property
    def complaints(self) -> str:
        """The last that it said on standard error."""
        for thread in self._threads:
            if not self.is_running:
                thread.join(timeout=1)
        return "\n".join(self._complaints)

    def poll(self) -> list[Event]:
        """Return the events since the last call."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            for process in self._family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        found = []
        while True:
            try:
                found.append(self._events.get_nowait())
            except queue.Empty:
                return found

    def cancel(self) -> None:
        """End it and all that it started; what its stores hold stays whole."""
        self.cancelled = True
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            self._family = [own, *own.children(recursive=True)]
        for process in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        self._deadline = time.monotonic() + GRACE_S

    def _take_event(self, line: str) -> None:
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(line)
            if isinstance(found, dict) and "event" in found:
                self._events.put(found)

    def _complain(self, line: str) -> None:
        if line.strip():
            self._complaints.append(line.rstrip())


@dataclass(slots=True)
class RunProgress:
    """How far a run is, from its events; times in seconds of one clock."""

    slides: int = 0
    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Slides that failed, and why."""
    stage: str = ""
    slide_id: str = ""
    done: int = 0
    total: int = 0
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def feed(self, event: Event, at: float) -> None:
        """Take up one event, heard at the time `at`."""
        if event["event"] == "start":
            self.slides = int(event["slides"])
        elif event["event"] == "tiles":
            if (event["slide_id"], event["stage"]) != (self.slide_id, self.stage):
                self._seen.clear()
            self.slide_id, self.stage = str(event["slide_id"]), str(event["stage"])
            self.done, self.total = int(event["done"]), int(event["total"])
            self._seen.append((at, self.done))
            while at - self._seen[0][0] > RATE_WINDOW_S and len(self._seen) > 2:
                self._seen.popleft()
        elif event["event"] == "slide":
            self.finished += 1
            for row in event["stages"]:
                if row["status"] == "failed":
                    self.failed[str(event["slide_id"])] = str(row["reason"])

    @property
    def tiles_per_s(self) -> float | None:
        """Speed over the last seconds; None until two counts were heard, some time apart."""
        if len(self._seen) < 2 or self._seen[-1][0] - self._seen[0][0] < LEAST_S:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until this slide's tiles are done, at this speed; None where it is not known."""
        speed = self.tiles_per_s
        return None if not speed else (self.total - self.done) / speed

    @property
    def text(self) -> str:
        """All of it in a line."""
        if not self.total:
            return "starting" if not self.finished else f"{self.finished} of {self.slides} slides"
        parts = [f"{self.stage} {self.slide_id}: {self.done} of {self.total} tiles"]
        if self.tiles_per_s is not None:
            parts.append(f"{self.tiles_per_s:.1f} tiles/s")
        if self.seconds_left is not None:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes} min {seconds:02d} s left")
        return " · ".join(parts)


def _read_lines(stream: IO[str], take: Any) -> None:
    with stream:
        for line in stream:
            take(line)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
