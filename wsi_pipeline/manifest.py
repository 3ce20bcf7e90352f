"""Which slides a run works on: files, folders, globs, URLs or a manifest, each with a unique id."""

from __future__ import annotations

import csv
import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tiling.errors import SlideError, StoreError
from tiling.readers.kinds import is_dicom, is_zarr
from tiling.readers.ngff import is_image_group
from tiling.readers.registry import slide_file
from tiling.slide import read_source
from tiling.store import open_store
from tiling.urls import file_name, is_url, public_url
from wsi_pipeline.errors import UsageError

SLIDE_SUFFIXES = frozenset(
    [".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm"]
)
"""What counts as a slide inside a folder; a file that is named outright may be called anything."""
ZARR_SUFFIXES = (".zarr", ".ozx", ".zarr.zip")


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


def slide_name(path: str) -> str:
    """Return a slide's name by its path: the file's or image's without suffix, a folder's as it is.

    Examples
    --------
    >>> slide_name("s3://bucket/a.svs"), slide_name("in/b.ome.zarr/")
    ('a', 'b.ome')
    """
    name = file_name(path)
    if not is_url(path) and Path(path).is_dir() and not is_zarr(path):
        return name
    endings = (*ZARR_SUFFIXES, PurePosixPath(name).suffix)
    suffix = next(ending for ending in endings if name.lower().endswith(ending.lower()))
    return name[: len(name) - len(suffix)]


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
    entries: list[SlideEntry] = []
    for parent, names in _walk(folder):
        entries += [
            SlideEntry(_id_below(folder, parent / name), str(parent / name))
            for name in names
            if not name.lower().endswith(".dcm")
        ]
        files = [str(parent / name) for name in names if name.lower().endswith(".dcm")]
        entries += _dicom_entries(folder, parent, files)
    if not entries:
        raise UsageError(
            f"{folder}: no slides here (looked for {', '.join(sorted(SLIDE_SUFFIXES))} "
            "and OME-Zarr images)"
        )
    return sorted(entries, key=lambda entry: entry.path)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder below `folder` and the names in it that look like slides."""
    for place, folders, files in os.walk(folder):
        parent = Path(place)
        # A Zarr folder holds chunks: it is an image, or nothing to be looked into.
        stores = {name for name in folders if name.lower().endswith(".zarr")}
        stores |= {name for name in folders if is_zarr(parent / name)}
        folders[:] = sorted(set(folders) - stores)
        slides = [
            name
            for name in files
            if _has_slide_suffix(name) and name[0] != "." and (parent / name).is_file()
        ]
        yield parent, sorted([*slides, *(n for n in stores if _is_ome_zarr(parent / n))])


def _has_slide_suffix(name: str) -> bool:
    return name.lower().endswith((*SLIDE_SUFFIXES, *ZARR_SUFFIXES[1:]))


def _is_ome_zarr(path: Path) -> bool:
    """Whether a Zarr group says that it is an OME-NGFF image; our slide stores do not."""
    for name, key in (("zarr.json", "attributes"), (".zattrs", None)):
        try:
            found = json.loads((path / name).read_text(encoding="utf-8"))
            attributes = found[key] if key else found
        except (OSError, ValueError, LookupError, TypeError):
            continue
        return is_image_group(attributes)
    return False


def _id_below(folder: Path, path: Path) -> str:
    relative = path.relative_to(folder)
    return "__".join([*relative.parts[:-1], slide_name(str(path))])


def _dicom_entries(folder: Path, parent: Path, files: list[str]) -> list[SlideEntry]:
    """Return one slide per series; a folder that holds one alone names it."""
    readable = [path for path in files if is_dicom(path)]
    entries = [SlideEntry(_id_below(folder, Path(p)), p) for p in files if p not in readable]
    if not readable:
        return entries
    from tiling.readers.dicom_series import group_series, is_other_object

    series = group_series(readable)
    known = {file.path for one in series for file in one.files}
    # Annotations and reports lie beside slides; what cannot be told is tried, and fails by name.
    unknown = [path for path in readable if path not in known and not is_other_object(path)]
    entries += [SlideEntry(_id_below(folder, Path(path)), path) for path in unknown]
    if len(series) == 1 and len(series[0].files) > 1:
        name = _id_below(folder, parent) if parent != folder else folder.resolve().name
        return [*entries, SlideEntry(name, series[0].base.path)]
    return entries + [SlideEntry(_id_below(folder, Path(s.base.path)), s.base.path) for s in series]


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
