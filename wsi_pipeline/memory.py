"""How much memory a run took."""

from __future__ import annotations

import sys

import psutil


def peak_memory_bytes() -> int:
    """Return the most memory that this process, or the largest of its ended children, has held."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    users = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return unit * max(resource.getrusage(user).ru_maxrss for user in users)
