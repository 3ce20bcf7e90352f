"""What a killed training goes on from: a folder of safetensors beside the model to be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from mil_models.errors import ModelError
from tiling.nodes import Json

IDENTITY, LOCK = "identity.json", "lock"


def packed(
    network: nn.Module, best: Mapping[str, Tensor], optimizer: Optimizer
) -> dict[str, Tensor]:
    """Return all tensors that a training goes on from, by flat names; `best` are weights too."""
    found = {f"network.{key}": value for key, value in network.state_dict().items()}
    found |= {f"best.{key}": value for key, value in best.items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{key}": torch.as_tensor(v) for key, v in state.items()}
    return found


def unpack(
    tensors: Mapping[str, Tensor], network: nn.Module, optimizer: Optimizer
) -> dict[str, Tensor]:
    """Put what :func:`packed` returned back into both; return the best weights."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    network.load_state_dict(part("network."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, _, name = key.partition(".")
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    device = next(network.parameters()).device
    return {key: value.to(device) for key, value in part("best.").items()}


class ResumeFolder:
    """States of the heads of one training, by name; one process writes at a time.

    A file holds tensors and one JSON text, and is there whole or not at all. The folder of a
    training that was told something else is emptied, with a warning.
    """

    def __init__(self, model: Path, identity: Json, *, writes: bool = True) -> None:
        self.folder = model.with_name(f".{model.name}.training")
        self._digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._writes = writes
        self._lock: FileLock | None = None
        if writes and self.folder.exists():
            self._prepare()

    def load(self, name: str) -> tuple[dict[str, Tensor], Json] | None:
        """Return the tensors and the record saved as `name`, or None."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                record: Json = json.loads(file.metadata()["record"])
                return {key: file.get_tensor(key) for key in file.keys()}, record  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as err:
            warnings.warn(f"{path}: cannot be read ({err}); trained anew", stacklevel=2)
            return None

    def save(self, name: str, tensors: Mapping[str, Tensor], record: Json) -> None:
        """Save tensors and record as `name`."""
        if not self._writes:
            return
        self._prepare()
        path = self.folder / f"{name}.safetensors"
        partial = path.with_suffix(".partial")
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        partial.write_bytes(save(plain, metadata={"record": json.dumps(record)}))
        os.replace(partial, path)

    def drop(self, name: str) -> None:
        """Remove what was saved as `name`."""
        if self._writes:
            (self.folder / f"{name}.safetensors").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder: the model is finished."""
        self.close()
        if self._writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _prepare(self) -> None:
        """Take the lock; make the folder this training's."""
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as err:
            raise ModelError(
                f"{self.folder}: another process trains this model; wait, or choose another -o"
            ) from err
        self._lock = lock
        identity = self.folder / IDENTITY
        found = identity.read_text(encoding="utf-8") if identity.exists() else None
        if found != self._digest:
            states = list(self.folder.glob("*.safetensors"))
            for path in states:
                path.unlink()
            if states:
                warnings.warn(
                    f"{self.folder.name}: an unfinished training with other settings or slides; "
                    "training anew",
                    stacklevel=4,
                )
            identity.write_text(self._digest, encoding="utf-8")
