"""Which readers there are, and which of them opens a given file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tiling.errors import SlideOpenError, UnsoundSlideError
from tiling.readers.base import Reader, UnsupportedSlideError

READERS: dict[str, str] = {
    "tiff": "tiling.readers.tiff:TiffReader",
    "openslide": "tiling.readers.openslide:OpenSlideReader",
    "tiffslide": "tiling.readers.tiffslide:TiffSlideReader",
}
"""Reader name to "module:class", in the order in which `auto` tries them."""

REMOTE_READERS = ("tiff", "tiffslide")


def is_url(path: str) -> bool:
    """Whether `path` is an fsspec URL such as ``s3://bucket/slide.svs``.

    Examples
    --------
    >>> is_url("s3://bucket/a.svs"), is_url("/data/a.svs"), is_url("C:/a.svs")
    (True, False, False)
    """
    return "://" in path


def load_reader(name: str) -> type[Reader]:
    """Return the reader class called `name`."""
    if name not in READERS:
        raise ValueError(f"reader={name!r}: choose from auto, {', '.join(READERS)}")
    module, _, attribute = READERS[name].partition(":")
    found: type[Reader] = getattr(importlib.import_module(module), attribute)
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
    if reader != "auto":
        try:
            return load_reader(reader).open(path, storage_options)
        except UnsupportedSlideError as err:
            raise SlideOpenError(f"{path}: {err}; try reader='auto'") from err
    names = REMOTE_READERS if is_url(path) else tuple(READERS)
    reasons = []
    for position, name in enumerate(names):
        try:
            opened = load_reader(name).open(path, storage_options)
            if position:
                _probe(opened)
            return opened
        except UnsoundSlideError:
            raise
        except UnsupportedSlideError as err:
            reasons.append(str(err))
        except OSError as err:
            reasons.append(str(err).removeprefix(f"{path}: "))
    raise SlideOpenError(f"{path}: not a slide that can be read ({'; '.join(reasons)})")


def _probe(opened: Reader) -> None:
    """Decode one pixel: an earlier reader refused this slide, so a promise is not enough."""
    try:
        opened.read_region((0, 0), len(opened.level_sizes) - 1, (1, 1))
    except OSError:
        opened.close()
        raise
