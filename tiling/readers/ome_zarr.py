"""OME-Zarr images (OME-NGFF 0.4 and 0.5) through Zarr: a folder, a zip file, or any fsspec URL."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import Element

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import GroupNotFoundError
from zarr.storage import FsspecStore, LocalStore, ZipStore

from tiling.errors import SlideOpenError, SlideReadError
from tiling.geometry import PixelBox
from tiling.readers.base import MAX_ASSOCIATED_PX, Reader, UnsupportedSlideError
from tiling.readers.descriptions import ome_properties, parse_xml
from tiling.readers.mosaic import Pixels, StoredTile, read_mosaic
from tiling.readers.ngff import LAYOUT_KEY, ngff_attributes
from tiling.readers.zarr_image import (
    COMPRESSORS,
    IMAGE_CODECS,
    BoundedStore,
    ZarrImage,
    ZarrLevel,
    codec_names,
    middle,
    read_image,
    stored_bytes,
)

STORE_ATTRIBUTES = "wsi_pipeline"
"""Where our own slide stores keep their attributes."""
MAX_SERIES = 64
REMOTE_THREADS = 16
HASHED_BYTES = 1 << 16
COMPANION = "OME/METADATA.ome.xml"


class OmeZarrReader(Reader):
    """An OME-Zarr image; of a group of several (bioformats2raw's) the largest."""

    name: ClassVar[str] = "ome-zarr"

    def __init__(self, path: str, store: BoundedStore, prefix: str) -> None:
        self._path = path
        self._store = store
        root = zarr.open_group(store, path=prefix, mode="r", use_consolidated=False)
        attributes = root.attrs.asdict()
        _refuse_own_store(path, attributes)
        companion = None
        if LAYOUT_KEY in ngff_attributes(attributes)[0]:
            companion = _read_companion(store, prefix)
            self._image, self._associated = _series(root, companion)
        else:
            self._image, self._associated = read_image(root), {}
        for image in (self._image, *self._associated.values()):
            for level in image.levels:
                store.limits[f"{level.array.path}/"] = 2 * stored_bytes(level.array) + HASHED_BYTES
        self._properties = _properties(self._image)
        self._properties |= ome_properties(companion, self.level_sizes[0])
        self._pool = ThreadPoolExecutor(REMOTE_THREADS) if "://" in path else None
        self.notes = _notes(self._image)

    @classmethod
    def open(cls, path: str, storage_options: Mapping[str, Any]) -> OmeZarrReader:
        store: BoundedStore | None = None
        try:
            store, prefix = _open_store(path, storage_options)
            return cls(path, store, prefix)
        except Exception as err:  # malformed metadata raises whatever Zarr stumbles over
            if store is not None:
                store.close()
            if isinstance(err, UnsupportedSlideError | SlideOpenError):
                raise
            if isinstance(err, GroupNotFoundError | FileNotFoundError):
                raise UnsupportedSlideError("ome-zarr: no Zarr group") from err
            remedy = "; pip install 'wsi-pipeline[remote]'" * isinstance(err, ImportError)
            raise SlideOpenError(f"{path}: ome-zarr: {type(err).__name__}: {err}{remedy}") from err

    @classmethod
    def version(cls) -> str:
        return f"ome-zarr (zarr {zarr.__version__})"

    @property
    def decoder(self) -> str:
        names = [
            name
            for name in codec_names(self._image.levels[0].array)
            if name in COMPRESSORS or name.startswith(IMAGE_CODECS)
        ]
        return f"zarr {zarr.__version__} ({', '.join(names) or 'uncompressed'})"

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.layout.size for level in self._image.levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        base = self._image.levels[0]
        pairs = (_downsample(base, level) for level in self._image.levels)
        return tuple((x + y) / 2 for x, y in pairs)

    @property
    def properties(self) -> Mapping[str, str]:
        return self._properties

    @property
    def vendor(self) -> str:
        return "ome-zarr"

    @property
    def associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._associated))

    def tile_size(self, level: int) -> tuple[int, int]:
        return self._image.levels[level].layout.tile

    def reductions(self, level: int) -> tuple[int, ...]:
        return self._image.levels[level].layout.reductions

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
        stored = self._image.levels[level]
        return self._mosaic(stored, f"level {level}", boxes, reduction, out)

    def _mosaic(
        self,
        stored: ZarrLevel,
        what: str,
        boxes: Sequence[PixelBox],
        reduction: int = 1,
        out: NDArray[np.uint8] | None = None,
    ) -> Iterator[NDArray[np.uint8] | SlideReadError]:
        def load(tile: StoredTile) -> Pixels | SlideReadError:
            try:
                return stored.read(tile, reduction)
            except Exception as err:  # codecs and filesystems raise whatever they stumble over
                error = SlideReadError(f"{self._path}: {what}, tile {tile[0]}, {tile[1]}: {err}")
                error.__cause__ = err
                return error

        apply = map if self._pool is None else self._pool.map
        layout = stored.layout.reduced(reduction)
        return read_mosaic(layout, boxes, lambda tiles, _: list(apply(load, tiles)), out=out)

    def read_associated(self, name: str) -> NDArray[np.uint8]:
        fitting = [
            level
            for level in self._associated[name].levels
            if math.prod(level.layout.size) <= MAX_ASSOCIATED_PX
        ]
        if not fitting:
            raise SlideReadError(f"{self._path}: associated image {name!r} is no overview")
        box = PixelBox(0, 0, *fitting[0].layout.size)
        [found] = self._mosaic(fitting[0], f"image {name!r}", [box])
        if isinstance(found, SlideReadError):
            raise found
        return found

    def identity(self) -> tuple[int, str]:
        """Return the bytes of level 0 and a hash of metadata and a few chunks, for `read_source`.

        Where the image lies and what viewers add to it does not matter.
        """
        digest = hashlib.sha256()
        for level in self._image.levels:
            for document in ("zarr.json", ".zarray"):
                digest.update(self._bytes_of(level.array, document))
        digest.update(json.dumps(self._properties, sort_keys=True).encode())
        for level in (self._image.levels[0], self._image.levels[-1]):
            array = level.array
            chunks = array.shards or array.chunks
            grid = [-(-n // chunk) for n, chunk in zip(array.shape, chunks, strict=True)]
            for part in (0.0, 0.5, 1.0):
                place = tuple(int(part * (count - 1)) for count in grid)
                digest.update(self._bytes_of(array, array.metadata.encode_chunk_key(place)))
        base = self._image.levels[0].array
        return math.prod(base.shape), digest.hexdigest()

    def _bytes_of(self, array: zarr.Array[Any], name: str) -> bytes:
        """Return the first bytes of an object of an array; empty if there is none."""
        found = sync(
            self._store.get(
                f"{array.path}/{name}" if array.path else name,
                default_buffer_prototype(),
                RangeByteRequest(0, HASHED_BYTES),
            )
        )
        return b"" if found is None else found.to_bytes()[:HASHED_BYTES]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._store.close()


def _open_store(path: str, storage_options: Mapping[str, Any]) -> tuple[BoundedStore, str]:
    """Open what holds the Zarr group at `path`; return also where in it the group is."""
    if "://" in path:
        return BoundedStore(FsspecStore.from_url(path, dict(storage_options), read_only=True)), ""
    if Path(path).is_dir():
        return BoundedStore(LocalStore(path, read_only=True)), ""
    if not zipfile.is_zipfile(path):
        raise UnsupportedSlideError("ome-zarr: neither a folder nor a zip file")
    with zipfile.ZipFile(path) as archive:
        groups = [n for n in archive.namelist() if n.endswith(("zarr.json", ".zgroup"))]
    if not groups:
        raise UnsupportedSlideError("ome-zarr: a zip file without a Zarr group")
    top = min(groups, key=len)
    return BoundedStore(ZipStore(path, mode="r", read_only=True)), top.rpartition("/")[0]


def _refuse_own_store(path: str, attributes: Mapping[str, Any]) -> None:
    if STORE_ATTRIBUTES in attributes:
        raise SlideOpenError(
            f"{path}: a slide store, not a slide; name the slide it was made from "
            "(`wsi view` shows stores)"
        )


def _downsample(base: ZarrLevel, level: ZarrLevel) -> tuple[float, float]:
    """Return by how much a level is smaller, (x, y): as stated, where its size fits that.

    Sizes are rounded, so that 651 of 1303 px can be a half.
    """
    found = []
    for axis in (0, 1):
        stated = level.scale[axis] / base.scale[axis]
        length, base_length = level.layout.size[axis], base.layout.size[axis]
        fits = abs(base_length / stated - length) < 1
        found.append(stated if fits else base_length / length)
    return found[0], found[1]


def _properties(image: ZarrImage) -> dict[str, str]:
    metadata, base = image.metadata, image.levels[0]
    found = {"ngff.version": metadata.version}
    if metadata.levels[0].is_scaled:
        for axis, scale, place in zip("XY", base.scale, base.places[:2], strict=True):
            found[f"ngff.Scale{axis}"] = f"{scale:.10g}"
            unit = metadata.axes[place].unit
            if unit:
                found[f"ngff.Scale{axis}Unit"] = unit
    return found


def _notes(image: ZarrImage) -> tuple[str, ...]:
    place = image.metadata.place("z")
    planes = 1 if place is None else image.levels[0].array.shape[place]
    return () if planes == 1 else (f"{planes} focal planes: plane {middle(planes) + 1} is read",)


def _read_companion(store: BoundedStore, prefix: str) -> Element | None:
    """Return the OME-XML that bioformats2raw puts beside its images, if it can be parsed."""
    key = f"{prefix}/{COMPANION}" if prefix else COMPANION
    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else parse_xml(found.to_bytes().decode(errors="replace"))


def _series(root: zarr.Group, companion: Element | None) -> tuple[ZarrImage, dict[str, ZarrImage]]:
    """Return the largest image of a group of several, and the others by name."""
    images: list[ZarrImage] = []
    for number in range(MAX_SERIES):
        group = root.get(str(number))
        if not isinstance(group, zarr.Group):
            break
        images.append(read_image(group))
    if not images:
        raise UnsupportedSlideError("ome-zarr: a group of no images")
    slide = max(images, key=lambda image: math.prod(image.levels[0].layout.size))
    stated = [] if companion is None else companion.findall("{*}Image")
    others = {}
    for number, image in enumerate(images):
        text = stated[number].get("Name", "").lower() if number < len(stated) else ""
        kinds = {"label": "label", "macro": "macro", "overview": "macro", "thumb": "thumbnail"}
        kind = next((kind for word, kind in kinds.items() if word in text), f"image {number}")
        if image is not slide:
            others[kind if kind not in others else f"image {number}"] = image
    return slide, others
