"""Which readers there are, and which of them opens a given slide."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiling.errors import SlideAccessError, SlideOpenError, UnsoundSlideError
from tiling.readers.base import Reader, UnsupportedSlideError
from tiling.readers.kinds import is_dicom, is_zarr
from tiling.urls import is_url

READERS: dict[str, str] = {
    "tiff": "tiling.readers.tiff:TiffReader",
    "openslide": "tiling.readers.openslide:OpenSlideReader",
    "dicom": "tiling.readers.dicom:DicomReader",
    "ome-zarr": "tiling.readers.ome_zarr:OmeZarrReader",
    "tiffslide": "tiling.readers.tiffslide:TiffSlideReader",
}
"""Reader name to "module:class", in the order in which `auto` tries those that fit the slide."""

EXTRAS = {"wsidicom": "dicom"}
"""Package that only one reader needs, to the extra that installs it."""

REMOTE_READERS = ("tiff", "tiffslide")
"""Those that read a TIFF by its URL, in the order in which `auto` tries them."""


def slide_file(path: str) -> str:
    """Return what stands for the slide at `path`: its base level's file for a DICOM series.

    Any file of the series leads to that file, and so does a folder that holds the series alone.
    Other slides, and what is none, stand for themselves.

    Raises
    ------
    SlideOpenError
        A folder that is no slide, or holds several.
    """
    if is_url(path) or is_zarr(path):
        return path
    is_folder = Path(path).is_dir()
    if not is_folder and not is_dicom(path):
        return path
    from tiling.readers.dicom_series import only_series, series_of  # pydicom is slow to import

    series = only_series(path) if is_folder else series_of(path)
    return path if series is None else series.base.path


def load_reader(name: str) -> type[Reader]:
    """Return the reader class called `name`.

    Raises
    ------
    ValueError
        There is no reader of that name.
    SlideOpenError
        It needs a package that is not installed.
    """
    if name not in READERS:
        raise ValueError(f"reader={name!r}: choose from auto, {', '.join(READERS)}")
    module, _, attribute = READERS[name].partition(":")
    try:
        found: type[Reader] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as err:
        package = str(err.name).partition(".")[0]
        if package not in EXTRAS:
            raise
        raise SlideOpenError(
            f"{name}: {package} is not installed: pip install 'wsi-pipeline[{EXTRAS[package]}]'"
        ) from err
    return found


def open_reader(path: str, *, reader: str, storage_options: Mapping[str, Any]) -> Reader:
    """Open `path` with the reader called `reader`, or with the first that can ("auto").

    Raises
    ------
    SlideOpenError
        The file is missing or no reader opens it; the message gives each reader's reason.
    """
    if not is_url(path) and not Path(path).exists():
        raise SlideOpenError(f"{path}: no such file; check the path")
    file = slide_file(path)
    if reader != "auto":
        if is_url(path) and reader not in (*REMOTE_READERS, "ome-zarr"):
            raise SlideOpenError(
                f"{path}: {reader} reads local files only; download the slide, or use reader='auto'"
            )
        try:
            return load_reader(reader).open(file, storage_options)
        except UnsupportedSlideError as err:
            raise SlideOpenError(f"{path}: {err}; try reader='auto'") from err
    refusals: dict[str, str] = {}
    for name in _fitting_readers(file):
        try:
            opened = load_reader(name).open(file, storage_options)
            if refusals:
                _probe(opened, path)
                opened.refusals = refusals
            return opened
        except (SlideAccessError, UnsoundSlideError):
            raise  # nor can, or may, another reader have it
        except (UnsupportedSlideError, OSError) as err:
            refusals[name] = str(err).removeprefix(f"{file}: ").removeprefix(f"{name}: ")
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
    raise SlideOpenError(
        f"{path}: not a slide that can be read ({reasons}); "
        "check that the file is whole, or copy it again"
    )


def _fitting_readers(path: str) -> tuple[str, ...]:
    """Return the readers that `auto` tries on a slide of this kind, in order."""
    if is_zarr(path):
        return ("ome-zarr",)
    if is_url(path):
        return REMOTE_READERS
    if is_dicom(path):
        return "openslide", "dicom"
    return "tiff", "openslide", "tiffslide"


def _probe(opened: Reader, path: str) -> None:
    """Decode one pixel: an earlier reader refused this slide, so a promise is not enough."""
    try:
        opened.read_region((0, 0), len(opened.level_sizes) - 1, (1, 1))
    except OSError as err:
        opened.close()
        reason = str(err).removeprefix(f"{path}: ")
        raise SlideOpenError(f"{opened.name} opens it, but cannot read {reason}") from err
