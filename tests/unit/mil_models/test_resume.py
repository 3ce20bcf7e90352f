"""A training that is killed goes on and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mil_models import train
from mil_models.errors import ModelError
from mil_models.resume import ResumeFolder
from tests.unit.mil_models.conftest import MakeStores
from tests.unit.mil_models.test_training import labels_of
from tiling import SlideStore

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys
from pathlib import Path
from mil_models import train
from tiling.store import iter_stores
train(list(iter_stores(Path(sys.argv[1]))), sys.argv[2], sys.argv[3], folds=2, epochs=12,
      patience=12, device="cpu", checkpoint_seconds=0)
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def stores(make_stores: MakeStores) -> list[SlideStore]:
    return make_stores(4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_training_ends_with_the_same_bytes(
    stores: list[SlideStore], write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    """Killed without warning while the second fold trains; both processes start from nothing."""
    labels = write_labels(labels_of(stores))
    folder, state = tmp_path / "killed", tmp_path / ".killed.training"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "stores"), str(labels)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, str(folder)], cwd=ROOT, env=environment)
    deadline = time.monotonic() + 120
    while not (state / "fold 1.safetensors").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.exists()
    kept = sorted(path.name for path in state.glob("*.safetensors"))
    assert kept == ["fold 0 done.safetensors", "fold 1.safetensors"]
    for name in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, check=True, env=environment)
    assert contents(folder) == contents(tmp_path / "whole")
    assert not state.exists()


def test_a_stopped_training_goes_on_in_the_middle_of_a_head(
    stores: list[SlideStore], write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    labels, seen = write_labels(labels_of(stores)), []
    options = {"folds": 2, "epochs": 6, "patience": 6, "seeds": 2, "checkpoint_seconds": 0,
               "device": "cpu", "schedule": "cosine", "warmup": 2, "batch": 2}  # fmt: skip
    train(stores, labels, tmp_path / "whole", **options)

    def stop(fold: str, epoch: int, *_: object) -> None:
        seen.append((fold, epoch))
        if seen.count((fold, epoch)) == 2 and (fold, epoch) == ("fold 0", 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stores, labels, tmp_path / "again", on_progress=stop, **options)
    before = len(seen)
    train(stores, labels, tmp_path / "again", on_progress=stop, **options)
    assert before == 6 + 4  # the first seed's head, and four epochs of the second's
    assert seen[before] == ("fold 0", 4)  # the state of epoch 3 was the last one saved
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert {"fold_0_seed_0.safetensors", "fold_1_seed_1.safetensors"} < set(
        contents(tmp_path / "again")
    )


def test_another_training_does_not_go_on_from_what_is_there(tmp_path: Path) -> None:
    first = ResumeFolder(tmp_path / "m", {"seed": 0})
    first.save("fold 0", {"w": torch.ones(2)}, {"epoch": 3})
    with pytest.raises(ModelError, match="another process trains this model"):
        ResumeFolder(tmp_path / "m", {"seed": 0})
    first.close()
    again = ResumeFolder(tmp_path / "m", {"seed": 0})
    loaded = again.load("fold 0")
    assert loaded is not None
    assert loaded[0]["w"].tolist() == [1, 1]
    assert loaded[1] == {"epoch": 3}
    again.close()
    with pytest.warns(UserWarning, match="other settings or slides; training anew"):
        other = ResumeFolder(tmp_path / "m", {"seed": 1})
    assert other.load("fold 0") is None
    other.remove()
    assert not (tmp_path / ".m.training").exists()


def test_a_damaged_state_is_left_aside(tmp_path: Path) -> None:
    folder = ResumeFolder(tmp_path / "m", {})
    folder.save("fold 0", {"w": torch.ones(2)}, {})
    path = tmp_path / ".m.training" / "fold 0.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.warns(UserWarning, match="cannot be read .*trained anew"):
        assert folder.load("fold 0") is None
    folder.close()
