"""Ctrl-C in a terminal: it reaches every process of the run, and one of them speaks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no process groups")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_says_so_once_and_goes_on(
    tissue_path: Path, tmp_path: Path, workers: int
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in "abcd":
        shutil.copy(tissue_path, slides / f"{name}.tif")
    command = [
        sys.executable, "-m", "wsi_pipeline", "embed", str(slides), "-o", str(tmp_path / "out"),
        "--encoder", "resnet10t", "--random-weights", "--tile-px", "64", "--allow-mismatch",
        "--workers", str(workers), "--progress", "json",
    ]  # fmt: skip
    # Where the tests themselves run behind a shell's "&", SIGINT is ignored, by children too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    assert run.stdout is not None
    assert any('"tiles"' in line for line in run.stdout)
    os.killpg(run.pid, signal.SIGINT)
    said = run.communicate(timeout=120)[1]
    assert said == "wsi: interrupted; run the same command again to go on\n"
    assert run.returncode == 130
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count('"event": "slide"') == 4
