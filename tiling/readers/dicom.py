"""DICOM whole-slide series through wsidicom: also those that OpenSlide refuses."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from wsidicom import Settings, WsiInstance, use_settings
from wsidicom.errors import WsiDicomNotFoundError
from wsidicom.file import WsiDicomFileSource, WsiDicomStreamOpener
from wsidicom.geometry import Point

from tiling.errors import SlideOpenError, SlideReadError
from tiling.geometry import PixelBox, is_reduced
from tiling.readers.base import (
    MAX_ASSOCIATED_PX,
    MAX_TILE_BYTES,
    Reader,
    UnsupportedSlideError,
)
from tiling.readers.dicom_frames import frame_decoder
from tiling.readers.dicom_series import (
    DicomFile,
    DicomSeries,
    only_series,
    quietly,
    read_icc_profile,
    read_properties,
    series_of,
)
from tiling.readers.mosaic import StoredTile, TileLayout, read_mosaic, shrink
from tiling.readers.stored_tiles import TileDecoder

ORIGIN_TOLERANCE_MM = 0.02
"""How far apart the top left corners of a slide's levels may lie."""
MAX_FRAMES = 1 << 24
MAX_HEADER_BYTES = 1 << 16
"""What a compressed frame may take beside twice its pixels."""
MIN_FRAME_BYTES = 8
"""The item header that every compressed frame has (PS3.5, annex A.4)."""
_SETTINGS = Settings(
    strict_tile_size_check=False, decoded_frame_cache_size=0, encoded_frame_cache_size=0
)

# What it logs as errors, with tracebacks, is raised here as one line.
logging.getLogger("wsidicom").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class DicomImage:
    """One image of the series: a level, or an associated one."""

    layout: TileLayout
    image: Any
    files: tuple[Any, ...]
    z: float
    decoder: TileDecoder

    def decode(self, tile: StoredTile, reduction: int) -> NDArray[np.uint8] | None:
        """Return the pixels of a frame, or None if it was never scanned."""
        data = self._read(tile)
        if data is None:
            return None
        by_decoder = reduction if reduction in self.decoder.reductions else 1
        pixels = self.decoder.decode(data, index=0, reduction=by_decoder)
        pixels = shrink(pixels, reduction // by_decoder)
        box = self.layout.reduced(reduction).box_of(tile)
        if pixels.shape[1] < box.size[0] or pixels.shape[0] < box.size[1]:
            raise ValueError(f"{pixels.shape[1]} x {pixels.shape[0]} px, not {box.size}")
        return pixels

    def _read(self, tile: StoredTile) -> bytes | None:
        image = self.image
        number: int = image.tiles.get_frame_index(Point(*tile), self.z, image.default_path)
        if number < 0:
            return None
        file = next(f for f in self.files if 0 <= number - f.frame_offset < f.frame_count)
        _, length = file.frame_index[number - file.frame_offset]
        raw = self.layout.tile[0] * self.layout.tile[1] * image.samples_per_pixel
        if not 0 < length <= 2 * raw + MAX_HEADER_BYTES:
            raise ValueError(f"a frame of {length} bytes")
        data: bytes = file.read_frame(number)
        return data


class DicomReader(Reader):
    """A DICOM series: any of its files, or a folder that holds it alone."""

    name: ClassVar[str] = "dicom"

    def __init__(self, path: str, series: DicomSeries) -> None:
        self._path = path
        _check_stated(series)
        with quietly(), use_settings(_SETTINGS):
            self._source = _open_source(series)
            try:
                self._levels = self._open_levels()
                self._associated = {
                    name: instances[0]
                    for name, instances in (
                        ("label", list(self._source.label_instances)),
                        ("macro", list(self._source.overview_instances)),
                        ("thumbnail", list(self._source.thumbnail_instances)),
                    )
                    if instances
                }
                self._properties = read_properties(series.base.path)
                self._icc_profile = read_icc_profile(series.base.path)
            except BaseException:
                self._source.close()
                raise
        self.notes = _notes(self._levels[0])

    def _open_levels(self) -> tuple[DicomImage, ...]:
        levels = _levels(list(self._source.level_instances), self._source.readers)
        for level in levels:
            for file in level.files:
                len(file.frame_index)  # a file that is cut off is refused here, not at each read
        return levels

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> DicomReader:
        if "://" in path:
            raise UnsupportedSlideError("dicom: series are read from local disk")
        try:
            series = only_series(path) if Path(path).is_dir() else series_of(path)
            if series is None:
                raise UnsupportedSlideError("dicom: not a DICOM whole-slide image")
            return cls(path, series)
        except (UnsupportedSlideError, SlideOpenError):
            raise
        except Exception as err:  # a hostile file raises whatever pydicom stumbles over
            raise SlideOpenError(f"{path}: dicom: {type(err).__name__}: {err}") from err

    @classmethod
    def version(cls) -> str:
        return f"dicom (wsidicom {importlib.metadata.version('wsidicom')})"

    @property
    def decoder(self) -> str:
        return self._levels[0].decoder.name

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.layout.size for level in self._levels)

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def vendor(self) -> str:
        return "dicom"

    @property
    def icc_profile(self) -> bytes | None:
        return self._icc_profile

    @property
    def associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._associated))

    def tile_size(self, level: int) -> tuple[int, int]:
        return self._levels[level].layout.tile

    def reductions(self, level: int) -> tuple[int, ...]:
        return self._levels[level].layout.reductions

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        downsample = self.level_downsamples[level]
        left, top = (math.floor(v / downsample + 0.5) for v in location)
        [found] = self.read_boxes(level, [PixelBox(left, top, left + size[0], top + size[1])])
        if isinstance(found, SlideReadError):
            raise found
        return found

    def read_boxes(
        self,
        level: int,
        boxes: Sequence[PixelBox],
        *,
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> Iterator[NDArray[np.uint8] | SlideReadError]:
        image = self._levels[level]
        return read_mosaic(
            image.layout.reduced(reduction),
            boxes,
            lambda tiles, _: [self._load(image, f"level {level}", t, reduction) for t in tiles],
            out=out,
        )

    def _load(
        self, image: DicomImage, what: str, tile: StoredTile, reduction: int
    ) -> NDArray[np.uint8] | SlideReadError | None:
        try:
            return image.decode(tile, reduction)
        except Exception as err:  # codecs raise whatever they stumble over
            error = SlideReadError(f"{self._path}: {what}, frame {tile[0]}, {tile[1]}: {err}")
            error.__cause__ = err
            return error

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        try:
            image = _image(self._associated[name], self._source.readers)
            width, height = image.layout.size
            if width * height > MAX_ASSOCIATED_PX:
                raise ValueError(f"{width} x {height} px is no overview")
        except Exception as err:
            raise SlideReadError(f"{self._path}: associated image {name!r}: {err}") from err
        [found] = read_mosaic(
            image.layout,
            [PixelBox(0, 0, width, height)],
            lambda tiles, _: [self._load(image, f"image {name!r}", t, 1) for t in tiles],
        )
        if isinstance(found, SlideReadError):
            raise found
        return found

    def close(self) -> None:
        self._source.close()


def _check_stated(series: DicomSeries) -> None:
    """Refuse what the headers cannot mean, before anything of that size is allocated."""
    for file in series.files:
        width, height = file.frame
        if not 0 < width * height * file.sample_count <= MAX_TILE_BYTES:
            raise SlideOpenError(f"{file.path}: states frames of {width} x {height} px")
        if not (file.size[0] > 0 and file.size[1] > 0):
            raise SlideOpenError(f"{file.path}: states {file.size[0]} x {file.size[1]} px")
        places = -(-file.size[0] // width) * -(-file.size[1] // height)
        if places > MAX_FRAMES or file.frames * MIN_FRAME_BYTES > file.size_bytes:
            raise SlideOpenError(
                f"{file.path}: states {file.size[0]} x {file.size[1]} px in {file.frames} frames "
                f"of {width} x {height}, in {file.size_bytes} bytes"
            )


def _open_source(series: DicomSeries) -> WsiDicomFileSource:
    """Open the files of a series; wsidicom must take every level of it."""
    levels = [file for file in series.files if file.kind == "VOLUME"]
    if not levels:
        raise UnsupportedSlideError("dicom: the series holds no level of a slide (VOLUME)")
    paths = [file.path for file in series.files]
    streams = list(WsiDicomStreamOpener().open(paths, VLWholeSlideMicroscopyImageStorage))
    try:
        source = WsiDicomFileSource(streams)
        # A level that it passed over would make a coarser one stand in for it.
        taken = {os.path.realpath(str(file)) for file in source.files}
    except WsiDicomNotFoundError:
        taken = set()
    lost = [file for file in levels if os.path.realpath(file.path) not in taken]
    if lost:
        for stream in streams:
            stream.close()
        raise UnsupportedSlideError(_refusal(lost[0]))
    return source


def _levels(instances: list[WsiInstance], files: Sequence[Any]) -> tuple[DicomImage, ...]:
    """Return the base level and the smaller pictures of the same field, finest first."""
    ordered = sorted(instances, key=lambda i: (-i.size.width, -i.size.height))
    base = ordered[0]
    paths = {path for i in ordered if i.size == base.size for path in i.optical_paths}
    if len(paths) > 1:
        raise UnsupportedSlideError(
            f"dicom: {len(paths)} optical paths (fluorescence); brightfield slides have one"
        )
    levels = [_image(base, files)]
    for instance in ordered[1:]:
        image = _image(instance, files)
        first, last = levels[0].layout.size, levels[-1].layout.size
        is_next = is_reduced(image.layout.size, base=first, last=last)
        if is_next and _is_in_place(instance, base):
            levels.append(image)
    return tuple(levels)


def _refusal(file: DicomFile) -> str:
    """Return why wsidicom did not take a file."""
    properties = read_properties(file.path)
    return (
        f"dicom: {Path(file.path).name}: {properties.get('dicom.PhotometricInterpretation')} in "
        f"transfer syntax {properties.get('dicom.TransferSyntaxUID')} is not read"
    )


def _image(instance: WsiInstance, files: Sequence[Any]) -> DicomImage:
    image: Any = instance.image_data
    if image.bits != 8:
        raise UnsupportedSlideError(f"dicom: {image.bits} bits per sample; 8 are read")
    tile = image.tile_size.width, image.tile_size.height
    planes = sorted(image.focal_planes)
    decoder = frame_decoder(
        str(image.transfer_syntax),
        image.photometric_interpretation,
        tile,
        image.samples_per_pixel,
        image.decoder,
    )
    return DicomImage(
        layout=TileLayout((image.image_size.width, image.image_size.height), tile),
        image=image,
        files=tuple(file for file in files if file.filepath in image.files),
        z=planes[(len(planes) - 1) // 2],
        decoder=decoder,
    )


def _is_in_place(instance: WsiInstance, base: WsiInstance) -> bool:
    """Whether an image begins where the base level does, as far as both say."""
    one, other = instance.image_coordinate_system, base.image_coordinate_system
    if one is None or other is None:
        return True
    apart = max(abs(one.origin.x - other.origin.x), abs(one.origin.y - other.origin.y))
    return bool(apart <= ORIGIN_TOLERANCE_MM)


def _notes(base: DicomImage) -> tuple[str, ...]:
    planes = sorted(base.image.focal_planes)
    if len(planes) == 1:
        return ()
    return (f"{len(planes)} focal planes: plane {planes.index(base.z) + 1} is read",)
