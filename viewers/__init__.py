"""Pictures, the page of a run, and napari. Names load on first use: importing is cheap."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viewers.draw import draw_store
    from viewers.layers import attention_layers, slide_layers, store_layers
    from viewers.report import ReportRow, write_report

_HOMES = {
    "ReportRow": "report",
    "attention_layers": "layers",
    "draw_store": "draw",
    "slide_layers": "layers",
    "store_layers": "layers",
    "write_report": "report",
}

__all__ = [
    "ReportRow",
    "attention_layers",
    "draw_store",
    "slide_layers",
    "store_layers",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
