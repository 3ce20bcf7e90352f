"""What runs an encoder's network; a new engine is a file beside this and a line in `ENGINES`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from torch import nn

from mil_models.engines.base import PRECISIONS, Engine
from mil_models.errors import EngineError

ENGINES: dict[str, tuple[str, str, str]] = {
    "torch": ("mil_models.engines.torch", "TorchEngine", "torch"),
    "openvino": ("mil_models.engines.openvino", "OpenVinoEngine", "openvino"),
}
"""Name to module, class and the package that must be installed."""

# OpenVINO and nncf report their use to their makers unless this package is missing; where
# patients' slides are, nothing calls home: it is made to look missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

__all__ = ["ENGINES", "PRECISIONS", "Engine", "create_engine", "is_installed", "load_engine"]


def is_installed(name: str) -> bool:
    """Whether the package behind an engine is installed."""
    return importlib.util.find_spec(ENGINES[name][2]) is not None


def resolve_engine(name: str, device_type: str) -> str:
    """Return the engine called `name`, or for ``"auto"`` the fastest that is installed.

    Raises
    ------
    EngineError
        No such engine, it is not installed, or it does not run on such a device.
    """
    if name == "auto":
        return "openvino" if device_type == "cpu" and is_installed("openvino") else "torch"
    if name not in ENGINES:
        raise EngineError(f"engine={name!r}: choose from auto, {', '.join(ENGINES)}")
    if not is_installed(name):
        raise EngineError(f"engine {name} is not installed: pip install 'wsi-pipeline[{name}]'")
    if name == "openvino" and device_type != "cpu":
        raise EngineError(f"engine openvino runs on the CPU, not on {device_type}; use torch")
    return name


def load_engine(name: str) -> type[Engine]:
    """Return the class of the engine called `name`."""
    module, attribute, _ = ENGINES[name]
    found: type[Engine] = getattr(importlib.import_module(module), attribute)
    return found


def create_engine(name: str, network: nn.Module, **arguments: Any) -> Engine:
    """Create the engine called `name`; the arguments are those of :class:`Engine`."""
    return load_engine(name)(network, **arguments)
