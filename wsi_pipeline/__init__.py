"""The `wsi` command line and whole runs over many slides."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_pipeline.config import BatchOptions, EncoderOptions, TileOptions
    from wsi_pipeline.pipeline import RunResult, run

__version__ = "0.1.0"

_HOMES = {
    "BatchOptions": "config",
    "EncoderOptions": "config",
    "RunResult": "pipeline",
    "TileOptions": "config",
    "run": "pipeline",
}

__all__ = ["BatchOptions", "EncoderOptions", "RunResult", "TileOptions", "__version__", "run"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
