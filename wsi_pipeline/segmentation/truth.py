"""Which annotation or mask belongs to which slide, and what it says is inside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from shapely import MultiPolygon

from tiling.annotation_files import read_annotations
from tiling.annotations import (
    EXCLUDED_GROUPS,
    TUMOUR_GROUPS,
    AnnotationError,
    UnknownGroupError,
    tumour_area,
)
from tiling.readers.kinds import is_zarr
from tiling.region_masks import ImageMask, OutlineMask, RegionMask
from tiling.slide_folder import slide_name
from wsi_pipeline.errors import UsageError
from wsi_pipeline.manifest import SlideEntry
from wsi_pipeline.segmentation.options import TruthOptions

OUTLINES = (".xml", ".json", ".geojson")
PICTURES = (".png", ".bmp", ".tif", ".tiff")
TRUTH_NAME = re.compile(r"(?P<slide>.+?)((_evaluation)?_mask)?(\.ome)?", re.IGNORECASE)


def find_truth(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the annotation or mask of each slide, by the slide's name.

    ``X.xml``, ``X.geojson``, ``X.json``; ``X.png``, ``X.tif``, ``X.zarr``, or with ``_mask`` after
    the name. Of an outline and a mask the outline is taken.

    Raises
    ------
    UsageError
        A path is not there, holds none, or a slide has two of a kind.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such annotation, mask or folder of them")
        inside = sorted(path.iterdir()) if path.is_dir() and not is_zarr(path) else [path]
        for file in (f for f in inside if _is_truth(f)):
            name = _slide_of(file)
            other = found.get(name)
            if other is None or (_is_outline(file) and not _is_outline(other)):
                found[name] = file
            elif _is_outline(file) == _is_outline(other):
                raise UsageError(f"{name} has two: {other} and {file}; take one away")
    if not found:
        raise UsageError(
            f"{paths[0]}: no annotation and no mask in it ({', '.join((*OUTLINES, *PICTURES))}, "
            ".zarr)"
        )
    return found


def truth_path(entry: SlideEntry, found: Mapping[str, Path]) -> Path | None:
    """Return the annotation of a slide, by its id or by its file's name; None if there is none."""
    return found.get(entry.slide_id) or found.get(slide_name(entry.path))


def read_truth(
    entry: SlideEntry, size: tuple[int, int], found: Mapping[str, Path], options: TruthOptions
) -> RegionMask:
    """Return what is annotated on a slide of `size` (width, height).

    Raises
    ------
    AnnotationError
        There is no annotation of it, the file is wrong, its groups are unknown, an outline lies
        outside the slide, or a mask has another shape or other values.
    """
    path = truth_path(entry, found)
    if path is None:
        if options.is_normal(entry.slide_id):
            return OutlineMask(MultiPolygon(), size)
        known = ", ".join(sorted(found)[:4])
        raise AnnotationError(
            f"{entry.slide_id}: no annotation of it (there are {known}{', …' * (len(found) > 4)}); "
            "name the file after the slide, leave the slide out, or pass --normal where slides "
            "hold nothing"
        )
    if not _is_outline(path):
        return ImageMask(path, size, value=options.mask_value)
    try:
        area = tumour_area(
            read_annotations(path),
            tumour=options.inside or TUMOUR_GROUPS,
            excluded=options.outside or EXCLUDED_GROUPS - set(options.inside),
        )
        return OutlineMask(area, size)
    except UnknownGroupError as err:
        raise AnnotationError(f"{path.name}: {err}; pass --inside and --outside") from err
    except AnnotationError as err:
        raise AnnotationError(f"{path.name}: {err}") from err


def _is_outline(path: Path) -> bool:
    return path.suffix.lower() in OUTLINES


def _is_truth(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return path.suffix.lower() in (*OUTLINES, *PICTURES) or is_zarr(path)


def _slide_of(path: Path) -> str:
    match = TRUTH_NAME.fullmatch(slide_name(str(path)))
    return match["slide"] if match else path.stem
