"""Which DICOM files are one slide: the instances of one series, in one folder."""

from __future__ import annotations

import functools
import io
import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from tiling.errors import SlideOpenError
from tiling.readers.kinds import is_dicom

_IDENTITY = [Tag(keyword) for keyword in (
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "SamplesPerPixel", "NumberOfFrames", "Rows",
    "Columns", "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
)]  # fmt: skip
_METADATA = {
    "Manufacturer": "dicom.Manufacturer",
    "ManufacturerModelName": "dicom.ManufacturerModelName",
    "SeriesInstanceUID": "dicom.SeriesInstanceUID",
    "PhotometricInterpretation": "dicom.PhotometricInterpretation",
}
"""Names of no patient, specimen or hospital among them."""
_validation = threading.RLock()
"""pydicom has one setting for the whole process."""
_SEQUENCES = ("OpticalPathSequence", "SharedFunctionalGroupsSequence")


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One instance of a series, as its header describes it.

    Attributes
    ----------
    kind
        ``"VOLUME"`` for a level of the slide, ``"LABEL"``, ``"OVERVIEW"`` or ``"THUMBNAIL"``.
    size, frame
        (width, height) of the image and of the frames it is stored in, px.
    frames
        Number of frames.
    sample_count
        Samples per pixel.
    size_bytes
        Of the whole file.
    """

    path: str
    series_uid: str
    kind: str
    size: tuple[int, int]
    frame: tuple[int, int]
    frames: int
    sample_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """The instances of one series that lie in one folder, by path."""

    files: tuple[DicomFile, ...]

    @property
    def base(self) -> DicomFile:
        """The finest level, which stands for the slide; the first file if there is no level."""
        levels = [file for file in self.files if file.kind == "VOLUME"]
        return max(levels or self.files[:1], key=lambda file: math.prod(file.size))


def find_series(folder: str | Path) -> list[DicomSeries]:
    """Return the whole-slide series whose files lie in `folder` itself, by path of their base.

    Files that are not DICOM, no slide or unreadable are passed over.
    """
    with os.scandir(folder) as entries:
        paths = sorted(e.path for e in entries if e.is_file() and not e.name.startswith("."))
    return group_series(paths)


def group_series(paths: Iterable[str]) -> list[DicomSeries]:
    """Return the whole-slide series among the files at `paths`, as :func:`find_series` does."""
    members: dict[str, list[DicomFile]] = defaultdict(list)
    for path in paths:
        found = read_header(path)
        if found is not None:
            members[found.series_uid].append(found)
    series = [DicomSeries(tuple(files)) for files in members.values()]
    return sorted(series, key=lambda one: one.base.path)


def series_of(path: str | Path) -> DicomSeries | None:
    """Return the series that the file at `path` belongs to; None if it is no slide in DICOM."""
    header = read_header(str(path))
    if header is None:
        return None
    near = find_series(Path(path).parent)
    # A hidden file is not among its neighbours.
    return next((s for s in near if s.files[0].series_uid == header.series_uid),
                DicomSeries((header,)))  # fmt: skip


def only_series(folder: str | Path) -> DicomSeries:
    """Return the one series in `folder`.

    Raises
    ------
    SlideOpenError
        There is none, or more than one.
    """
    found = find_series(folder)
    if not found:
        raise SlideOpenError(f"{folder}: a folder that is no slide; name a slide file in it")
    if len(found) > 1:
        names = ", ".join(Path(series.base.path).name for series in found[:4])
        raise SlideOpenError(
            f"{folder}: holds {len(found)} DICOM series; name a file of one of them: {names}"
            f"{', …' if len(found) > 4 else ''}"
        )
    return found[0]


def read_header(path: str) -> DicomFile | None:
    """Return what a file's header says of it, or None if it is no whole-slide image."""
    try:
        state = os.stat(path)
    except OSError:
        return None
    return _read_header(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4096)
def _read_header(path: str, _mtime_ns: int, size_bytes: int) -> DicomFile | None:
    if not is_dicom(path):
        return None
    try:
        with quietly():
            header = _read(path, _IDENTITY, last="TotalPixelMatrixRows")
            if header.SOPClassUID != VLWholeSlideMicroscopyImageStorage:
                return None
            return DicomFile(
                path=path,
                series_uid=str(header.SeriesInstanceUID),
                kind=str(header.ImageType[2]),
                size=(int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows)),
                frame=(int(header.Columns), int(header.Rows)),
                frames=int(header.get("NumberOfFrames") or 1),
                sample_count=int(header.SamplesPerPixel),
                size_bytes=size_bytes,
            )
    except Exception:  # pydicom raises whatever a hostile header makes it stumble over
        return None


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom from warning of each value that breaks a rule which nothing here depends on."""
    with _validation, disable_value_validation():
        yield


def is_other_object(path: str) -> bool:
    """Whether a DICOM file says that it is something else than a whole-slide image."""
    try:
        with quietly(), _BoundedFile(path) as file:
            found = read_partial(file, stop_when=lambda *_: True).file_meta.MediaStorageSOPClassUID
    except Exception:  # as in read_header
        return False
    return bool(found != VLWholeSlideMicroscopyImageStorage)


def read_properties(path: str) -> dict[str, str]:
    """Return the scanner, pixel spacing (mm) and objective that a file states; never the patient.

    Raises
    ------
    Exception
        Whatever pydicom raises on a malformed header.
    """
    tags = [Tag(keyword) for keyword in (*_METADATA, *_SEQUENCES)]
    with quietly():
        header = _read(path, tags, last="SharedFunctionalGroupsSequence")
        found = {name: str(header[key].value) for key, name in _METADATA.items() if key in header}
        found["dicom.TransferSyntaxUID"] = str(header.file_meta.TransferSyntaxUID)
        groups = _first(header, "SharedFunctionalGroupsSequence")
        spacing = _first(groups, "PixelMeasuresSequence").get("PixelSpacing") or ()
        if len(spacing) == 2:
            # DICOM's order: between rows, then between columns (PS3.3, 10.7.1.3).
            found["dicom.PixelSpacingY"], found["dicom.PixelSpacingX"] = (str(v) for v in spacing)
        power = _first(header, "OpticalPathSequence").get("ObjectiveLensPower")
        if power is not None:
            found["dicom.ObjectiveLensPower"] = str(power)
        return found


def read_icc_profile(path: str) -> bytes | None:
    """Return the ICC profile of a file's first optical path, or of the image; None if none.

    Without the byte that DICOM adds to an odd length.

    Raises
    ------
    Exception
        Whatever pydicom raises on a malformed header.

    References
    ----------
    DICOM PS3.3, C.11.15 (ICC Profile Module) and C.8.12.5 (Optical Path Module).
    """
    tags = [Tag("OpticalPathSequence"), Tag("ICCProfile")]
    with quietly():
        header = _read(path, tags, last="OpticalPathSequence")
        found = _first(header, "OpticalPathSequence").get("ICCProfile") or header.get("ICCProfile")
    return found[: int.from_bytes(found[:4], "big")] if found else None


def _first(dataset: Dataset, keyword: str) -> Dataset:
    """Return the first item of a sequence, empty if there is none."""
    items = dataset.get(keyword) or [Dataset()]
    found: Dataset = items[0]
    return found


class _BoundedFile(io.BufferedReader):
    """A file that makes no room for more than is left of it, whatever length an element states."""

    def __init__(self, path: str) -> None:
        raw = io.FileIO(path)
        super().__init__(raw)
        self._size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def _read(path: str, tags: list[BaseTag], *, last: str) -> Dataset:
    """Return the elements `tags` of a file, read up to the element called `last`."""
    end = Tag(last)
    with _BoundedFile(path) as file:
        return read_partial(
            file, stop_when=lambda tag, _vr, _length: tag > end, specific_tags=[*tags]
        )
