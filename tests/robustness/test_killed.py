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
TILES = 256


def embed(slide: Path, out: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "wsi_pipeline", "embed", str(slide), "-o", str(out),
        "--tile-px", "64", "--min-tissue", "0.5", "--progress", "json",
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


@pytest.mark.slow
def test_the_store_of_a_killed_run_equals_one_that_was_not(
    tissue_path: Path, tmp_path: Path
) -> None:
    whole = embed(tissue_path, tmp_path / "whole")
    assert whole.communicate()[0].count('"tiles"') >= 2
    assert whole.returncode == 0
    expected = arrays_of(tmp_path / "whole" / "stores" / "tissue.zarr")

    store = tmp_path / "killed" / "stores" / "tissue.zarr"
    rng = np.random.default_rng(3)
    seen: dict[Path, int] = {}
    for _ in range(KILLS):
        process = embed(tissue_path, tmp_path / "killed")
        assert process.stdout is not None
        process.stdout.readline()  # the batch has started
        time.sleep(rng.uniform(0, 0.35))
        process.kill()
        process.communicate()
        now = finished_chunks(store)
        assert {path: now[path] for path in seen} == seen  # what was done is not done again
        seen = now
    last = embed(tissue_path, tmp_path / "killed")
    events = [json.loads(line) for line in last.communicate()[0].splitlines()]
    assert last.returncode == 0
    assert events[-1]["event"] == "slide"
    assert arrays_of(store) == expected
    assert {path: mtime for path, mtime in finished_chunks(store).items() if path in seen} == seen
    assert not list(tmp_path.rglob("*.partial"))
    assert len(open_store(store)) == TILES
