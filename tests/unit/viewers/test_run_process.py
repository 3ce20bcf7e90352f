"""A run in a process of its own: what it says is heard, and cancelled it is gone in a second."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from viewers.run_process import RunProcess, RunProgress


def wait_for(process: RunProcess, seconds: float) -> list[dict[str, object]]:
    events, end = [], time.monotonic() + seconds
    while process.is_running and time.monotonic() < end:
        events += process.poll()
        time.sleep(0.01)
    time.sleep(0.05)
    return events + process.poll()


def test_speed_and_time_left_come_from_the_counts() -> None:
    progress = RunProgress()
    assert (progress.text, progress.tiles_per_s, progress.seconds_left) == ("starting", None, None)
    progress.feed({"event": "start", "slides": 2}, 0.0)
    for at, done in ((0.9, 50), (0.9001, 100)):  # two blocks end at the same moment
        tiles = {"event": "tiles", "slide_id": "a", "stage": "tile", "done": done, "total": 6200}
        progress.feed(tiles, at)
    assert progress.tiles_per_s is None
    for at, done in ((1.0, 100), (2.0, 150), (3.0, 200)):
        tiles = {"event": "tiles", "slide_id": "a", "stage": "embed", "done": done, "total": 6200}
        progress.feed(tiles, at)
    assert progress.tiles_per_s == 50
    assert progress.seconds_left == 120
    assert progress.text == "embed a: 200 of 6200 tiles · 50.0 tiles/s · 2 min 00 s left"
    rows = [{"stage": "embed", "status": "failed", "reason": "broken"}]
    progress.feed({"event": "slide", "slide_id": "a", "stages": rows}, 4.0)
    progress.feed({**tiles, "slide_id": "b", "done": 10}, 5.0)
    assert (progress.finished, progress.failed) == (1, {"a": "broken"})
    assert progress.tiles_per_s is None  # another slide: the count begins anew


def test_old_counts_do_not_slow_the_speed_down() -> None:
    progress = RunProgress()
    for at, done in ((0.0, 0), (100.0, 10), (110.0, 110), (115.0, 160), (120.0, 210)):
        progress.feed(
            {"event": "tiles", "slide_id": "a", "stage": "embed", "done": done, "total": 1000}, at
        )
    assert progress.tiles_per_s == 10


def test_a_run_is_heard_and_its_refusal_too(tissue_path: Path, tmp_path: Path) -> None:
    arguments = ["tile", str(tissue_path), "-o", str(tmp_path / "out"), "--progress", "json"]
    process = RunProcess(arguments)
    events = wait_for(process, 300)
    assert process.returncode == 0
    assert [e["event"] for e in events][:1] == ["start"]
    assert events[-1]["event"] == "slide"
    refused = RunProcess(["tile", str(tmp_path / "none.svs"), "-o", str(tmp_path / "x")])
    wait_for(refused, 300)
    assert refused.returncode == 2
    assert "none.svs" in refused.complaints


@pytest.mark.parametrize("deaf", [False, True])
def test_cancelled_it_is_gone_within_a_second_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    """A stand-in for `wsi`: it starts a child, and both may be deaf to SIGTERM."""
    package = tmp_path / "wsi_pipeline"
    package.mkdir()
    (package / "__init__.py").touch()
    deafness = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else "pass"
    code = f"import signal, time; {deafness}; print(1, flush=True); time.sleep(60)"
    (package / "__main__.py").write_text(
        "import json, signal, subprocess, sys, time\n"
        f"{deafness}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {code!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(json.dumps({'event': 'start', 'slides': child.pid}), flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.chdir(tmp_path)  # where `python -m` looks first
    process = RunProcess([])
    events: list[dict[str, object]] = []
    end = time.monotonic() + 300
    while not events and time.monotonic() < end:
        events = process.poll()
        time.sleep(0.01)
    child = psutil.Process(int(str(events[0]["slides"])))
    started = time.monotonic()
    process.cancel()
    wait_for(process, 5)
    assert time.monotonic() - started < 1.0
    assert not process.is_running
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert process.cancelled
