"""The score of what is embedded so far, for a viewer that looks on while a run is at work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

EVERY_S = 2.0
SHARE = 0.1
"""Of the time, at most so much is spent on scores that will be replaced."""

logger = logging.getLogger(__name__)


class LiveScores:
    """Called with (tiles done, tiles in all) after each block; scores at times, beside the work.

    Used as a context manager, which waits for a score that is being made. What goes wrong is
    logged: the finished score is made later, and says so.

    Parameters
    ----------
    score
        Scores what is there.
    then
        Called with the same.
    """

    def __init__(
        self, score: Callable[[], object], then: Callable[[int, int], None] | None = None
    ) -> None:
        self._score = score
        self._then = then
        self._next = 0.0
        self._at_work: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="live-score")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._look_back()

    def __call__(self, done: int, total: int) -> None:
        if self._then is not None:
            self._then(done, total)
        idle = self._at_work is None or self._at_work.done()
        if idle and done < total and time.monotonic() >= self._next:
            self._look_back()
            self._at_work = self._pool.submit(self._work)

    def _work(self) -> None:
        started = time.monotonic()
        try:
            self._score()
        finally:
            ended = time.monotonic()
            self._next = max(started + EVERY_S, ended + (ended - started) * (1 / SHARE - 1))

    def _look_back(self) -> None:
        failure = None if self._at_work is None else self._at_work.exception()
        if failure is not None:
            logger.warning("no score of what is embedded so far: %s", failure, exc_info=failure)
