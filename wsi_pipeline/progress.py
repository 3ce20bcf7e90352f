"""Where a batch is: a live display for people, JSON lines for programs."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from wsi_pipeline.run_table import StageRow


class Reporter(Protocol):
    """What a batch tells while it works; used as a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def start(self, slides: int) -> None:
        """Begin a batch of so many slides."""

    def tiles(self, slide_id: str, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is with a slide."""

    def slide(self, slide_id: str, rows: Sequence[StageRow]) -> None:
        """Tell that a slide is finished, well or badly."""


class SilentReporter:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, slides: int) -> None:
        pass

    def tiles(self, slide_id: str, stage: str, done: int, total: int) -> None:
        pass

    def slide(self, slide_id: str, rows: Sequence[StageRow]) -> None:
        pass


class JsonReporter(SilentReporter):
    """One JSON object a line: start, tiles, slide; a viewer follows a run by them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # two slides are in work at once

    def start(self, slides: int) -> None:
        self._tell({"event": "start", "slides": slides})

    def tiles(self, slide_id: str, stage: str, done: int, total: int) -> None:
        self._tell(
            {"event": "tiles", "slide_id": slide_id, "stage": stage, "done": done, "total": total}
        )

    def slide(self, slide_id: str, rows: Sequence[StageRow]) -> None:
        stages = [asdict(row) for row in rows]
        self._tell({"event": "slide", "slide_id": slide_id, "stages": stages})

    def _tell(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


class RichReporter(SilentReporter):
    """A bar for the batch and one for each slide in work, on standard error."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("slides", total=None, unit="slides")
        self._failed = 0
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, slides: int) -> None:
        self._progress.update(self._all, total=slides)

    def tiles(self, slide_id: str, stage: str, done: int, total: int) -> None:
        if slide_id not in self._bars:
            self._bars[slide_id] = self._progress.add_task("", total=total, unit="tiles")
        self._progress.update(
            self._bars[slide_id],
            description=f"  {stage} {escape(_shortened(slide_id))}",
            completed=done,
            total=total,
        )

    def slide(self, slide_id: str, rows: Sequence[StageRow]) -> None:
        if slide_id in self._bars:
            self._progress.remove_task(self._bars.pop(slide_id))
        for row in rows:
            if row.status == "failed":
                self._failed += 1
                text = f"[red]failed[/] {row.stage} {escape(f'{slide_id}: {row.reason}')}"
                self._progress.console.print(text, highlight=False, soft_wrap=True)
        unit = f"slides, {self._failed} failed" if self._failed else "slides"
        self._progress.update(self._all, advance=1, unit=unit)


def create_reporter(kind: Literal["auto", "json", "none"]) -> Reporter:
    """Return the reporter called `kind`."""
    if kind == "json":
        return JsonReporter(sys.stdout)
    if kind == "none":
        return SilentReporter()
    return RichReporter(Console(stderr=True))


def quiet_libraries() -> None:
    """Keep to itself what tifffile thinks of broken files: our own errors name the file."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def _shortened(text: str, width: int = 32) -> str:
    return text if len(text) <= width else f"…{text[1 - width :]}"
