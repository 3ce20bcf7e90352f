"""Scores are made beside the work, not too often, and never end it."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from wsi_pipeline import live_scores
from wsi_pipeline.live_scores import LiveScores


def test_work_is_not_held_up_and_one_score_is_made_at_a_time() -> None:
    may_end, begun, told = threading.Event(), threading.Semaphore(0), list[int]()

    def score() -> None:
        begun.release()
        may_end.wait(10)

    with LiveScores(score, lambda done, _total: told.append(done)) as live:
        live(1, 9)
        assert begun.acquire(timeout=10)
        for done in (2, 3):
            live(done, 9)
        assert not begun.acquire(blocking=False)
        may_end.set()
    assert told == [1, 2, 3]


def test_scores_take_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_scores, "EVERY_S", 0.0)
    spent: list[float] = []

    def score() -> None:
        started = time.monotonic()
        time.sleep(0.02)
        spent.append(time.monotonic() - started)

    started = time.monotonic()
    with LiveScores(score) as live:
        while time.monotonic() - started < 1.0:
            live(1, 9)
            time.sleep(0.001)
        whole = time.monotonic() - started
    assert len(spent) >= 2
    assert sum(spent[:-1]) <= 0.12 * whole


def test_the_last_block_is_left_to_the_finished_score() -> None:
    made: list[int] = []
    with LiveScores(lambda: made.append(1)) as live:
        live(9, 9)
    assert made == []


def test_what_goes_wrong_is_logged_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def score() -> None:
        raise ValueError("no tile yet")

    with caplog.at_level(logging.WARNING), LiveScores(score) as live:
        live(1, 9)
    assert "no tile yet" in caplog.text
