"""MIL heads by name; a new one is a file beside this and a line in `HEADS`."""

from __future__ import annotations

from typing import Any

from mil_models.heads.abmil import GatedABMIL
from mil_models.heads.base import Criterion, MILHead, MILOutput
from mil_models.heads.mean import MeanPool

HEADS: dict[str, type[MILHead]] = {"abmil": GatedABMIL, "mean": MeanPool}

__all__ = ["HEADS", "Criterion", "MILHead", "MILOutput", "create_head"]


def create_head(name: str, *, dim: int, classes: int, **arguments: Any) -> MILHead:
    """Create the head called `name` for embeddings of length `dim` and so many classes.

    Raises
    ------
    ValueError
        No such head, or an argument it does not take.
    """
    if name not in HEADS:
        raise ValueError(f"head={name!r}: choose from {', '.join(HEADS)}")
    try:
        return HEADS[name](dim, classes, **arguments)
    except TypeError as err:
        raise ValueError(f"head {name}: {err}") from err
