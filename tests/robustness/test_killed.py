"""`wsi embed` killed at random moments and started again ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tiling import open_store

pytest.importorskip("torch")
KILLS = int(os.environ.get("WSI_TEST_KILLS", "3"))
TILES, BLOCKS = 4202, 33
"""Tiles that lie in the tissue, and blocks of 128 that they make: more than the kills leave."""


def embed(slide: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "wsi_pipeline", "embed", str(slide), "-o", str(out),
        "--tile-px", "64", "--overlap", "48", "--min-tissue", "0.5", "--progress", "json",
        "--encoder", "resnet10t", "--random-weights", "--allow-mismatch",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def arrays_of(store: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()
    }


def finished_chunks(store: Path) -> dict[Path, int]:
    """Return the modification times of the embeddings' chunk files."""
    found = store.glob("embeddings/*/c/**/*")
    return {p: p.stat().st_mtime_ns for p in found if p.is_file() and p.suffix != ".partial"}


def follow(process: subprocess.Popen[str], blocks: int) -> list[float]:
    """Read what `process` tells until so many blocks are written; return when that was, s."""
    times: list[float] = []
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] in ("start", "tiles"):
            times.append(time.monotonic())
        if len(times) > blocks:
            break
    return times


@pytest.mark.slow
def test_the_store_of_a_killed_run_equals_one_that_was_not(
    tissue_path: Path, tmp_path: Path
) -> None:
    """Killed before the first block, between blocks, and within one: wherever chance has it."""
    whole = embed(tissue_path, tmp_path / "whole")
    times = follow(whole, blocks=BLOCKS)
    block_s = float(np.median(np.diff(times[1:])))
    whole.communicate()
    assert whole.returncode == 0
    expected = arrays_of(tmp_path / "whole" / "stores" / "tissue.zarr")

    store = tmp_path / "killed" / "stores" / "tissue.zarr"
    rng = np.random.default_rng(3)
    seen: dict[Path, int] = {}
    for kill in range(KILLS):
        process = embed(tissue_path, tmp_path / "killed")
        follow(process, blocks=min(kill, 1 + int(rng.integers(2))))  # the first: before any
        time.sleep(rng.uniform(0, block_s))
        process.kill()
        process.communicate()
        now = finished_chunks(store)
        assert {path: now[path] for path in seen} == seen  # what was done is not done again
        assert len(now) > len(seen) or kill == 0
        seen = now
    assert 0 < len(seen) < BLOCKS
    last = embed(tissue_path, tmp_path / "killed")
    events = [json.loads(line) for line in last.communicate()[0].splitlines()]
    assert last.returncode == 0
    assert events[-1]["event"] == "slide"
    assert arrays_of(store) == expected
    assert {path: mtime for path, mtime in finished_chunks(store).items() if path in seen} == seen
    assert not list(tmp_path.rglob("*.partial"))
    assert len(open_store(store)) == TILES
