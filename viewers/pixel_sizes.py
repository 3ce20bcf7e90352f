"""The pixel sizes that a user told the window, for slides that state none; kept per slide."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs

from tiling.atomic import replacing
from tiling.resolution import PLAUSIBLE_MPP
from tiling.source import read_source


def memory_path() -> Path:
    """Return the file, in the user's configuration folder."""
    return platformdirs.user_config_path("wsi-pipeline") / "pixel_sizes.json"


def remembered_mpp(slide: str) -> float | None:
    """Return the pixel size in µm that was told of the slide at `slide`, wherever it lies now.

    Slides are known by a hash of their bytes.
    """
    sizes = _sizes()
    found = sizes.get(read_source(slide).quick_hash) if sizes else None
    return float(found) if isinstance(found, int | float) else None


def remember_mpp(slide: str, mpp: float) -> None:
    """Keep what was told of the slide at `slide`.

    Raises
    ------
    ValueError
        No slide scanner has such pixels.
    OSError
        The file cannot be written.
    """
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise ValueError(f"{mpp} µm per pixel: slides have {low} to {high}, e.g. 0.25 at 40x")
    sizes = {**_sizes(), read_source(slide).quick_hash: mpp}
    with replacing(memory_path()) as partial:
        partial.write_text(json.dumps(sizes, indent=1), encoding="utf-8")


def _sizes() -> dict[str, object]:
    try:
        found = json.loads(memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # none told yet, or not by us
    return found if isinstance(found, dict) else {}
