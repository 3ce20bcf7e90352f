"""Which slides a run works on: files, folders, globs, URLs or a manifest, each with a unique id."""

from __future__ import annotations

import csv
import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tiling.errors import SlideError, StoreError
from tiling.readers.kinds import is_zarr
from tiling.readers.registry import slide_file
from tiling.slide_folder import SLIDE_SUFFIXES, slide_name, slides_below
from tiling.source import read_source
from tiling.store import open_store
from tiling.urls import is_url, public_url
from wsi_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class SlideEntry:
    """One slide of a run; `mpp` overrides what the slide states."""

    slide_id: str
    path: str
    mpp: float | None = None

    def __repr__(self) -> str:
        return f"SlideEntry({self.slide_id!r}, {public_url(self.path)!r}, mpp={self.mpp})"


def collect_slides(inputs: Sequence[str], stores: Path) -> list[SlideEntry]:
    """Return the slides that `inputs` name, each once, with ids that fit the stores in `stores`.

    Parameters
    ----------
    inputs
        Files, folders (searched below too), globs, fsspec URLs, or manifest CSVs with a `path`
        column (relative to the manifest) and, if wanted, `slide_id` and `mpp`. The files of one
        DICOM series are one slide, and so is an OME-Zarr folder; slide stores are none.

    Raises
    ------
    UsageError
        An input names nothing, or a manifest's columns or values are wrong.
    """
    entries: list[SlideEntry] = []
    for text in inputs:
        entries += _entries_of(text)
    unique = {_place(entry.path): entry for entry in entries}
    if not unique:
        raise UsageError("no slides given; name files, folders, globs, URLs or a manifest CSV")
    return _with_unique_ids(unique.values(), stores)


def _place(path: str) -> str:
    """Return where a slide is, however it was named."""
    return path if is_url(path) else str(Path(path).resolve())


def _entries_of(text: str) -> list[SlideEntry]:
    if is_url(text):
        return [SlideEntry(slide_name(text), text)]
    path = Path(text)
    if path.is_dir() and not is_zarr(path):
        return _entries_below(path)
    if path.suffix.lower() == ".csv" and path.is_file():
        return read_manifest(path)
    if path.exists():
        return [SlideEntry(slide_name(text), _slide_file(str(path)))]
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not matches:
        raise UsageError(f"{text}: no such file or folder, and no glob that matches a file")
    return [entry for match in matches for entry in _entries_of(match)]


def _slide_file(path: str) -> str:
    """Return what stands for the slide at `path`; what is none stays, and fails when opened."""
    try:
        return slide_file(path)
    except SlideError:
        return path


def _entries_below(folder: Path) -> list[SlideEntry]:
    found = slides_below(folder)
    if not found:
        raise UsageError(
            f"{folder}: no slides here (looked for {', '.join(sorted(SLIDE_SUFFIXES))} "
            "and OME-Zarr images)"
        )
    return [SlideEntry(slide_id, path) for slide_id, path in found]


def read_manifest(path: Path) -> list[SlideEntry]:
    """Return the slides of a manifest CSV (`path`, and if wanted `slide_id`, `mpp`).

    Raises
    ------
    UsageError
        It is no CSV, it has no `path` column, a path is empty or listed twice, a slide_id stands
        for two slides, or an mpp is no positive number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"{path}: cannot be read as CSV: {err}") from err
    if "path" not in columns:
        raise UsageError(
            f"{path.name}: needs a column 'path' (and may have slide_id, mpp); "
            f"it has {', '.join(columns) or 'none'}"
        )
    entries = [_manifest_entry(path, line, row) for line, row in enumerate(rows, start=2)]
    places = Counter(_place(entry.path) for entry in entries)
    given = Counter(text for row in rows if (text := (row.get("slide_id") or "").strip()))
    for what, counts in (("path", places), ("slide_id", given)):
        for value, count in counts.items():
            if count > 1:
                raise UsageError(f"{path.name}: {what} {value!r} is listed {count} times")
    return entries


def _manifest_entry(manifest: Path, line: int, row: dict[str, str]) -> SlideEntry:
    text = (row["path"] or "").strip()
    if not text:
        raise UsageError(f"{manifest.name}, line {line}: the path is empty")
    path = text if is_url(text) else str(manifest.parent / text)
    mpp_text = (row.get("mpp") or "").strip()
    try:
        mpp = float(mpp_text) if mpp_text else None
    except ValueError:
        mpp = -1.0
    if mpp is not None and not 0 < mpp < float("inf"):
        raise UsageError(
            f"{manifest.name}, line {line}: mpp is {mpp_text!r}; give µm per pixel, e.g. 0.25"
        )
    slide_id = (row.get("slide_id") or "").strip() or slide_name(path)
    if slide_id in (".", "..") or any(c in slide_id for c in "/\\:\0"):
        raise UsageError(f"{manifest.name}, line {line}: slide_id {slide_id!r} is no file name")
    return SlideEntry(slide_id, path if is_url(path) else _slide_file(path), mpp)


def _with_unique_ids(entries: Iterable[SlideEntry], stores: Path) -> list[SlideEntry]:
    """Add 8 hex digits of the source's hash to an id that another slide already has."""
    taken: set[str] = set()
    result = []
    for entry in entries:
        if entry.slide_id in taken or _is_foreign(stores / f"{entry.slide_id}.zarr", entry):
            digest = read_source(entry.path).quick_hash[:8]
            entry = replace(entry, slide_id=f"{entry.slide_id}-{digest}")
            if entry.slide_id in taken:
                continue  # the same bytes under the same name: the same slide again
        taken.add(entry.slide_id)
        result.append(entry)
    return result


def _is_foreign(path: Path, entry: SlideEntry) -> bool:
    """Whether a store of this name was made from another file."""
    if not path.exists():
        return False
    try:
        recorded = open_store(path).source.quick_hash
        return recorded != read_source(entry.path).quick_hash
    except (StoreError, OSError):
        return False  # an unfinished store or an unreadable slide: the stage reports it
