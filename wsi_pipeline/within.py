"""Regions of slides that are to be scored by themselves: outlines drawn in a viewer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiling.annotation_files import read_annotations
from tiling.annotations import IGNORED_GROUPS, Annotation, area_fractions, region_area
from tiling.store import SlideStore
from wsi_pipeline.errors import UsageError

SUFFIXES = (".geojson", ".xml", ".json")
LEAST_SHARE = 0.5
"""Of a tile that must lie inside for it to count."""


def outlines_of(within: Path, slide_ids: Iterable[str]) -> dict[str, Path]:
    """Return the annotation file of each slide that has one.

    Parameters
    ----------
    within
        A file named after its slide, or a folder of them. With one slide alone the file may be
        called anything.

    Raises
    ------
    UsageError
        There is no such file, or it is none of these slides'.
    """
    known = list(slide_ids)
    if not within.exists():
        raise UsageError(f"{within}: no such file or folder of outlines")
    if within.is_file():
        if len(known) == 1:
            return {known[0]: within}
        files = [within]
    else:
        files = sorted(p for p in within.iterdir() if p.suffix.lower() in SUFFIXES)
    found = {path.stem: path for path in files if path.stem in known}
    if not found:
        raise UsageError(
            f"{within}: no outlines of any of the {len(known)} slides; name a file after its "
            f"slide, e.g. {known[0] if known else 'slide'}.geojson"
        )
    return found


def tiles_inside(store: SlideStore, outlines: Path) -> NDArray[np.bool_]:
    """Return which tiles lie inside the outlines by half of their area or more, shape ``(N,)``.

    Where all that is drawn is to be left out (a pen mark, a fold), the rest of the slide is inside.

    Raises
    ------
    AnnotationError
        The file cannot be read, or encloses nothing.
    """
    grid = store.grid
    drawn = read_annotations(outlines)
    if drawn and all(annotation.group in IGNORED_GROUPS for annotation in drawn):
        width, height = grid.slide_size
        whole = [(0, 0), (width, 0), (width, height), (0, height)]
        drawn = [*drawn, Annotation("slide", "Region", "polygon", np.array(whole, float))]
    area = region_area(drawn)
    return np.asarray(area_fractions(area, grid.coords, grid.extent) >= LEAST_SHARE)
