"""Labels of tiles, and masks at level 5, from annotations."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import MultiPolygon

from mil_models.lesions import DOWNSAMPLE
from tiling.annotation_files import read_annotations
from tiling.annotations import (
    AnnotationError,
    UnknownGroupError,
    area_fractions,
    area_mask,
    check_on_slide,
    tumour_area,
)
from tiling.atomic import replacing
from tiling.geometry import tile_starts
from tiling.store import SlideStore, iter_stores
from tiling.write import write_mask
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.files import LABELS, MASKS
from wsi_pipeline.errors import UsageError

MaskFormat = Literal["png", "tiff", "ome-zarr"]
SUFFIXES = (".xml", ".json", ".geojson")
AROUND = 0.1
"""Without a slide's size: how much around the outlines' bounds, as a share of them, is tiled."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Tiles of a slide: `coords` ``(N, 2)`` and `extent`, and the `size` to draw; level-0 px.

    `mpp` is the size (x, y) of a level-0 pixel in µm, where a store says so.
    """

    coords: NDArray[np.int64]
    extent: tuple[int, int]
    size: tuple[int, int]
    mpp: tuple[float, float] | None = None


def label_tiles(
    annotations: Sequence[Path],
    out: Path,
    *,
    stores: Path | None = None,
    tile_px: int = 512,
    masks: bool = False,
    mask_format: MaskFormat = "png",
) -> list[Path]:
    """Write `labels/<slide>.csv` (x0, y0, tumour_fraction) for every annotation file.

    Parameters
    ----------
    annotations
        Files named after their slides.
    stores
        Output folder of `wsi tile` or `wsi embed`: the tiles are those of the slide's store, in its
        order. Without it they are a grid over the outlines' bounds and 10 % around.
    tile_px
        Tile edge and step of that grid, level-0 px.
    masks
        Also write `masks/<slide>` as large as the slide where a store says so, else up to the end
        of the grid.
    mask_format
        ``"png"``: 1-bit, at level 5. ``"tiff"``, ``"ome-zarr"``: tiled, lossless pyramids of 0 and
        255 from level 0 on, written tile by tile.

    Raises
    ------
    AnnotationError, UsageError, ChallengeTableError
        A file is wrong, is of another slide than its store, encloses no tumour and has no store,
        stands twice, or has no store.
    """
    if tile_px < 1:
        raise UsageError(f"--tile-px {tile_px}: must be at least 1")
    names = [path.stem for path in annotations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two annotation files of {', '.join(twice)}")
    held = {} if stores is None else {store.slide_id: store.grid for store in iter_stores(stores)}
    missing = [name for name in names if name not in held]
    if stores is not None and missing:
        raise ChallengeTableError(f"{stores}: holds no store of {', '.join(missing[:5])}")
    written = []
    for path in annotations:
        area = read_area(path)
        if path.stem in held:
            grid = held[path.stem]
            _check(path, area, grid.slide_size)
            tiles = Tiles(grid.coords, grid.extent, grid.slide_size, grid.slide_mpp)
        elif area.is_empty:
            raise AnnotationError(f"{path.name}: encloses no tumour; pass --stores for its tiles")
        else:
            tiles = tiles_around(area, tile_px)
        fractions = area_fractions(area, tiles.coords, tiles.extent)
        written.append(_write_labels(out / LABELS / f"{path.stem}.csv", tiles, fractions))
        if masks:
            _write_mask(out / MASKS / path.stem, area, tiles, mask_format)
    return written


@contextmanager
def unpacked_annotations(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Give the annotation files among `paths`, in folders and in zip files among them.

    Those of zip files, such as the challenges' lesion_annotations.zip, are unpacked for as long as
    the context lasts.

    Raises
    ------
    UsageError
        There is none, or a zip file is broken.
    """
    with TemporaryDirectory() as place:
        plain: list[Path] = []
        for number, path in enumerate(paths):
            if path.suffix.lower() != ".zip":
                plain.append(path)
                continue
            folder = Path(place) / str(number)
            folder.mkdir()
            try:
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        if Path(name).suffix.lower() in SUFFIXES:
                            (folder / Path(name).name).write_bytes(archive.read(name))
            except (OSError, zipfile.BadZipFile, RuntimeError) as err:
                raise UsageError(f"{path}: cannot be unpacked: {err}") from err
            plain.append(folder)
        yield find_annotations(plain)


def store_fractions(
    annotations: Sequence[Path], stores: Iterable[SlideStore]
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Return by slide_id the tumour share of every tile of its store, and files without a store.

    A file belongs to the slide of its name, capitals or not: by the slide's id, or its file's.
    """
    index: dict[str, SlideStore] = {}
    for store in stores:
        for name in (PurePath(store.slide_path).stem, store.slide_id):
            index[name.lower()] = store
    found: dict[str, NDArray[np.float64]] = {}
    alone = []
    for path in annotations:
        known = index.get(path.stem.lower())
        if known is None:
            alone.append(path.stem)
            continue
        if known.slide_id in found:
            raise UsageError(f"two annotation files of {known.slide_id}")
        area = read_area(path)
        _check(path, area, known.slide_size)
        found[known.slide_id] = area_fractions(area, known.grid.coords, known.grid.extent)
    return found, alone


def read_area(path: Path) -> MultiPolygon:
    """Return the area of tumour in a file of outlines.

    Raises
    ------
    AnnotationError
        The file is wrong, or a group of its outlines is neither tumour nor excluded.
    """
    try:
        return tumour_area(read_annotations(path))
    except UnknownGroupError as err:
        raise AnnotationError(
            f"{path.name}: {err}; rename the group, of what is no tumour to Exclusion"
        ) from err


def _check(path: Path, area: MultiPolygon, size: tuple[int, int]) -> None:
    try:
        check_on_slide(area, size)
    except AnnotationError as err:
        raise AnnotationError(f"{path.name}: {err}") from err


def find_annotations(paths: Sequence[Path]) -> list[Path]:
    """Return the annotation files among `paths` and in the folders among them.

    Raises
    ------
    UsageError
        There is none.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [p for p in inside if p.suffix.lower() in SUFFIXES or not path.is_dir()]
    if not found:
        raise UsageError(f"{paths[0]}: no annotation in it ({', '.join(SUFFIXES)})")
    return found


def tiles_around(area: MultiPolygon, tile_px: int) -> Tiles:
    """Return a grid from the level-0 origin's multiples over the area's bounds and 10 % around."""
    x0, y0, x1, y1 = area.bounds
    w, h = (x1 - x0) * AROUND, (y1 - y0) * AROUND
    starts = []
    for low, high in ((x0 - w, x1 + w), (y0 - h, y1 + h)):
        first = int(max(low, 0)) // tile_px * tile_px
        length = max(int(np.ceil(high)) - first, 1)
        starts.append(first + tile_starts(length, tile_px, tile_px, overhang=True))
    columns, rows = starts
    coords = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    size = int(columns[-1]) + tile_px, int(rows[-1]) + tile_px
    return Tiles(coords, (tile_px, tile_px), size)


def _write_mask(path: Path, area: MultiPolygon, tiles: Tiles, mask_format: MaskFormat) -> None:
    """Write a mask of the whole slide, its suffix added to `path`."""
    if mask_format == "ome-zarr":
        from tiling.mask_zarr import write_mask_zarr  # zarr is slow to import

        write_mask_zarr(path.with_name(f"{path.name}.ome.zarr"), area, tiles.size, mpp=tiles.mpp)
    elif mask_format == "tiff":
        mpp = None if tiles.mpp is None else tiles.mpp[0]
        write_mask(path.with_name(f"{path.name}.tif"), area, tiles.size, mpp=mpp)
    else:
        size = tiles.size[0] // DOWNSAMPLE, tiles.size[1] // DOWNSAMPLE
        with replacing(path.with_name(f"{path.name}.png")) as partial:
            Image.fromarray(area_mask(area, size, DOWNSAMPLE)).save(partial, format="PNG")


def _write_labels(path: Path, tiles: Tiles, fractions: NDArray[np.float64]) -> Path:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("x0", "y0", "tumour_fraction"))
        rows = zip(tiles.coords.tolist(), fractions.tolist(), strict=True)
        writer.writerows((x, y, f"{fraction:.9g}") for (x, y), fraction in rows)
    return path
