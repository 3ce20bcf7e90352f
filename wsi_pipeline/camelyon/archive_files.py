"""Which files below a folder are of which slide of a challenge: told by their names alone."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsi_pipeline.camelyon.challenges import CHALLENGES, Challenge, challenge_of
from wsi_pipeline.camelyon.masks import MASK_NAME
from wsi_pipeline.camelyon.masks import SUFFIXES as MASK_SUFFIXES

SLIDE_SUFFIXES = (".tif", ".tiff")
ANNOTATION_SUFFIXES = (".xml", ".json", ".geojson")


@dataclass(slots=True)
class Found:
    """Files of one challenge by slide: paths, or ``archive.zip/member`` inside a zip file."""

    slides: dict[str, list[Path]] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    zipped: dict[str, Path] = field(default_factory=dict)


def look_below(root: Path) -> tuple[dict[Challenge, Found], dict[str, list[Path]]]:
    """Return the files of each challenge below `root`, and the CSV tables by name."""
    found: dict[Challenge, Found] = {name: Found() for name in CHALLENGES}
    tables: dict[str, list[Path]] = {}
    for path in _files(root):
        suffix, stem = path.suffix.lower(), path.stem.lower()
        if suffix == ".csv":
            tables.setdefault(path.name.lower(), []).append(path)
        elif suffix == ".zip":
            _look_into(path, found)
        else:
            match = MASK_NAME.fullmatch(stem)
            slide = match["slide"] if match else stem
            challenge = challenge_of(slide)
            if challenge is None:
                continue
            here = found[challenge]
            in_masks = slide != stem or "mask" in path.parent.name.lower()
            if suffix in ANNOTATION_SUFFIXES:
                here.annotations[slide] = str(path)
            elif suffix in MASK_SUFFIXES and (in_masks or suffix == ".png"):
                here.masks[slide] = path
            elif suffix in SLIDE_SUFFIXES:
                here.slides.setdefault(slide, []).append(path)
    return found, tables


def _files(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.endswith(".zarr") and f[0] != ".")
        yield from (Path(place) / name for name in sorted(names) if name[0] != ".")


def _look_into(path: Path, found: Mapping[Challenge, Found]) -> None:
    """Note the outlines, masks and slides inside a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    for name in names:
        inner = Path(name)
        challenge = challenge_of(inner.stem.lower())
        if challenge is None:
            continue
        if inner.suffix.lower() in ANNOTATION_SUFFIXES:
            found[challenge].annotations.setdefault(inner.stem.lower(), f"{path}/{name}")
        elif inner.suffix.lower() in SLIDE_SUFFIXES and "mask" not in str(path).lower():
            found[challenge].zipped[inner.stem.lower()] = path
