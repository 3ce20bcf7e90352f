"""Which files and folders below a folder are slides, and what they are called."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tiling.readers.kinds import is_dicom, is_zarr
from tiling.readers.ngff import is_image_group
from tiling.urls import file_name, is_url

SLIDE_SUFFIXES = frozenset(
    [".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm"]
)
"""What counts as a slide inside a folder; a file that is named outright may be called anything."""
ZARR_SUFFIXES = (".zarr", ".ozx", ".zarr.zip")


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


def slides_below(folder: Path) -> list[tuple[str, str]]:
    """Return (slide_id, path) of the slides in a folder and below it, by path.

    The files of one DICOM series are one slide, and so is an OME-Zarr folder; slide stores are
    none. An id is the slide's name, with the names of the folders between before it.
    """
    entries: list[tuple[str, str]] = []
    for parent, names in _walk(folder):
        entries += [
            (_id_below(folder, parent / name), str(parent / name))
            for name in names
            if not name.lower().endswith(".dcm")
        ]
        files = [str(parent / name) for name in names if name.lower().endswith(".dcm")]
        entries += _dicom_entries(folder, parent, files)
    return sorted(entries, key=lambda entry: entry[1])


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


def _dicom_entries(folder: Path, parent: Path, files: list[str]) -> list[tuple[str, str]]:
    """Return one slide per series; a folder that holds one alone names it."""
    readable = [path for path in files if is_dicom(path)]
    entries = [(_id_below(folder, Path(p)), p) for p in files if p not in readable]
    if not readable:
        return entries
    from tiling.readers.dicom_series import group_series, is_other_object

    series = group_series(readable)
    known = {file.path for one in series for file in one.files}
    # Annotations and reports lie beside slides; what cannot be told is tried, and fails by name.
    unknown = [path for path in readable if path not in known and not is_other_object(path)]
    entries += [(_id_below(folder, Path(path)), path) for path in unknown]
    if len(series) == 1 and len(series[0].files) > 1:
        name = _id_below(folder, parent) if parent != folder else folder.resolve().name
        return [*entries, (name, series[0].base.path)]
    return entries + [(_id_below(folder, Path(s.base.path)), s.base.path) for s in series]
