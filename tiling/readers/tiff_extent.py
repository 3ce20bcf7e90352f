"""Does a TIFF hold all the stored tiles that it lists? A broken download keeps its start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from tiling.errors import SlideOpenError


def missing_bytes(path: str | Path) -> int:
    """Return how many bytes of its stored tiles a TIFF lacks at its end; 0 of a whole one.

    Reads the tables of all pages, no pixel.

    Raises
    ------
    SlideOpenError
        It is no TIFF, or is cut off before its tables.
    """
    path = Path(path)
    needed = 0
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                whole = page.aspage()
                offsets = np.asarray(whole.dataoffsets, np.int64)
                counts = np.asarray(whole.databytecounts, np.int64)
                if not len(offsets) or len(offsets) != len(counts):
                    raise SlideOpenError(f"{path.name}: a page lists no stored tiles; cut off?")
                needed = max(needed, int((offsets + counts).max()))
    except SlideOpenError:
        raise
    except Exception as err:  # tifffile raises many kinds on what is cut off
        raise SlideOpenError(f"{path.name}: no whole TIFF: {err}") from err
    return max(needed - path.stat().st_size, 0)
