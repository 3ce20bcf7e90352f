"""MIL heads by name; a new one is a file beside this and a line in `HEADS`.

`HEADS` needs no torch, so that a command line may list it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mil_models.heads.base import Criterion, MILHead, MILOutput

__all__ = ["HEADS", "Criterion", "HeadEntry", "MILHead", "MILOutput", "create_head", "head_class"]


@dataclass(frozen=True, slots=True)
class HeadEntry:
    """Where a head is, and what it is in one line."""

    module: str
    cls: str
    summary: str


HEADS: dict[str, HeadEntry] = {
    "abmil": HeadEntry("abmil", "GatedABMIL", "gated attention (Ilse 2018)"),
    "abmil_plain": HeadEntry("abmil", "PlainABMIL", "attention without the gate (Ilse 2018)"),
    "acmil": HeadEntry("acmil", "ACMIL", "several branches kept apart (Zhang 2024)"),
    "additive": HeadEntry("additive", "AdditiveMIL", "tiles' contributions add up (Javed 2022)"),
    "clam_mb": HeadEntry("clam", "CLAMMB", "an attention branch a class, clustering (Lu 2021)"),
    "clam_sb": HeadEntry("clam", "CLAMSB", "one attention branch, clustering (Lu 2021)"),
    "dsmil": HeadEntry("dsmil", "DSMIL", "attention to the critical tile (Li 2021)"),
    "dtfd": HeadEntry("dtfd", "DTFDMIL", "pseudo-bags, two tiers (Zhang 2022)"),
    "max": HeadEntry("max", "MaxPool", "largest value of every feature"),
    "mean": HeadEntry("mean", "MeanPool", "mean of all tiles; the baseline"),
    "tile": HeadEntry("tile", "TileClassifier", "a classifier of tiles; the slide as its highest"),
    "topk": HeadEntry("topk", "TopK", "mean of the highest tile scores of each class"),
    "transmil": HeadEntry("transmil", "TransMIL", "transformer at linear cost (Shao 2021)"),
    "windowed": HeadEntry("windowed", "WindowedTransformer", "transformer in windows of tiles"),
}


def head_class(name: str) -> type[MILHead]:
    """Return the class of the head called `name`.

    Raises
    ------
    ValueError
        No such head.
    """
    if name not in HEADS:
        raise ValueError(f"head={name!r}: choose from {', '.join(HEADS)}")
    entry = HEADS[name]
    module = importlib.import_module(f"mil_models.heads.{entry.module}")
    found: type[MILHead] = getattr(module, entry.cls)
    return found


def create_head(name: str, *, dim: int, classes: int, **arguments: Any) -> MILHead:
    """Create the head called `name` for embeddings of length `dim` and so many logits.

    Raises
    ------
    ValueError
        No such head, or an argument it does not take.
    """
    cls = head_class(name)
    try:
        return cls(dim, classes, **arguments)
    except TypeError as err:
        raise ValueError(f"head {name}: {err}") from err


def __getattr__(name: str) -> object:
    if name not in ("Criterion", "MILHead", "MILOutput"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("mil_models.heads.base"), name)
