"""What `wsi doctor` finds: packages, readers, device, offline weights, viewer."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import psutil

from tiling.errors import WSIError
from tiling.readers.registry import READERS, load_reader
from wsi_pipeline.results import package_versions


def examine() -> dict[str, dict[str, Any]]:
    """Return what is installed and usable, section by section, as JSON values."""
    return {
        "versions": dict(package_versions()),
        "machine": {
            "cpu cores": os.cpu_count(),
            "memory GiB": round(psutil.virtual_memory().total / 2**30, 1),
        },
        "readers": {name: _reader_state(name) for name in READERS},
        "device": _device(),
        "engines": _engines(),
        "offline weights": _weights(),
        "viewer": _viewer(),
    }


def _reader_state(name: str) -> str:
    try:
        return load_reader(name).version()
    except (ImportError, OSError) as err:
        return f"not usable: {err}"


def _device() -> dict[str, Any]:
    if importlib.util.find_spec("torch") is None:
        return {"torch": "not installed: pip install 'wsi-pipeline[mil]'"}
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    else:
        found["cuda"] = "none"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def _engines() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        return {}
    from mil_models.engines import ENGINES, is_installed, load_engine

    found = {}
    for name in ENGINES:
        if is_installed(name):
            engine = load_engine(name)
            found[name] = f"{engine.version()}, {', '.join(engine.precisions_here())}"
        else:
            found[name] = f"missing: pip install 'wsi-pipeline[{name}]'"
    return found


def _weights() -> dict[str, str]:
    """Return the encoders that need no network, and where their weights are."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from mil_models.registry import DEFAULT_ENCODER, specs
    from mil_models.weight_files import is_here, weights_state

    try:
        return {
            name: weights_state(spec)
            for name, spec in specs().items()
            if name == DEFAULT_ENCODER or is_here(spec)
        }
    except WSIError as err:
        return {"not usable": str(err)}


def _viewer() -> dict[str, str]:
    state = {}
    for name in ("napari", "bermuda"):
        missing = importlib.util.find_spec(name) is None
        state[name] = "missing: pip install 'wsi-pipeline[gui]'" if missing else "installed"
    bindings = [n for n in ("PySide6", "PyQt6", "PyQt5") if importlib.util.find_spec(n)]
    state["Qt binding"] = ", ".join(bindings) or "missing: pip install 'wsi-pipeline[gui]'"
    return state
