"""Reading tiles: ours, the peers, and the physical limit, interleaved, in tiles per CPU-second.

Every reader gets the same blocks of 64 neighbouring tissue tiles at random places, none of them
twice in a run. A figure is the median over the rounds of tiles / CPU-second, a ratio the median
over the rounds of the ratio to OpenSlide in the same round. The limit is C TurboJPEG (Debian:
libturbojpeg0), which decodes at 1/2 in the transform straight into the mosaic of a block, aligned
tiles only. Peers that are not installed are left out:

    pip install fastslide cucim-cu12 'pyvips[binary]'
    python benchmarks/reading.py --size 60000 --rounds 5
    python benchmarks/reading.py --size 12000 --codec jpeg2000 --cases native aligned
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import dask
import numpy as np
import openslide
import tifffile
from decode_limit import Coords, ReadBlock, aligned_reader
from make_slide import make_slide
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tiling import Slide, TileSpec, open_slide, tile_array, tile_grid
from tiling.grid import TileGrid
from tiling.resample import resample
from tiling.tiles import TileGeometry, read_tiles

BLOCK = 64
BURSTS = 6
LIMIT = "limit (C TurboJPEG)"


@dataclass(frozen=True)
class Case:
    """One line of the table: a grid on a slide of `slide_mpp`."""

    title: str
    slide_mpp: float = 0.25
    mpp: float = 0.5
    tile_px: int = 256
    shift: int = 0
    exact: bool = False


CASES = {
    "unaligned-0.243": Case("256 px at 0.5 from 0.243 um", slide_mpp=0.243),
    "aligned": Case("256 px at 0.5 from 0.25 um, aligned"),
    "exact": Case("the same, exact", exact=True),
    "shifted": Case("the same, shifted by 128 px", shift=128),
    "native": Case("256 px native", mpp=0.25),
    "1um": Case("256 px at 1 um", mpp=1.0),
    "2um": Case("256 px at 2 um", mpp=2.0),
    "512": Case("512 px at 0.5 um", tile_px=512),
}


CODECS: dict[str, dict[str, Any]] = {
    "jpeg": {},
    "jpeg2000": {"compression": 33005, "compressionargs": {"level": 35, "codecformat": "j2k"}},
    "deflate": {"compression": "adobe_deflate"},
    "lzw": {"compression": "lzw"},
    "zstd": {"compression": "zstd"},
    "webp": {"compression": "webp", "compressionargs": {"level": 90}},
}


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=60_000, help="width and height in px")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of 64 tiles a round")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--readers", nargs="+", help="only these, besides OpenSlide")
    parser.add_argument("--codec", choices=CODECS, default="jpeg", help="how tiles are stored")
    parser.add_argument("--threads", action="store_true", help="also two threads against one")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = make_slide(arguments.folder / f"s{arguments.size}.tif", arguments.size)
    if arguments.codec != "jpeg":
        path = store_as(path, arguments.codec)
    path.read_bytes()  # into the page cache
    for name in arguments.cases:
        compare(path, CASES[name], arguments)


def store_as(path: Path, codec: str) -> Path:
    """Write the slide's levels again with another compression, named as Aperio's."""
    found = path.with_name(f"{path.stem}-{codec}.tif")
    if found.exists():
        return found
    with tifffile.TiffFile(path) as old, tifffile.TiffWriter(found, bigtiff=True) as new:
        for number, page in enumerate(old.pages):
            new.write(
                page.asarray(),
                tile=(256, 256),
                photometric="rgb",
                subfiletype=1 if number else 0,
                description="Aperio|AppMag = 40|MPP = 0.25" if not number else None,
                metadata=None,
                **CODECS[codec],
            )
    return found


def compare(path: Path, case: Case, arguments: argparse.Namespace) -> None:
    """Print the table of one case."""
    slide = open_slide(path, mpp=case.slide_mpp)
    spec = TileSpec(case.tile_px, case.mpp, min_tissue=0.9, exact=case.exact)
    grid = tile_grid(slide, spec)
    coords = grid.coords + case.shift
    coords = coords[(coords + np.asarray(grid.extent) <= np.asarray(slide.size)).all(axis=1)]
    blocks = [coords[i : i + BLOCK] for i in range(0, len(coords) - BLOCK, BLOCK)]
    np.random.default_rng(0).shuffle(blocks)
    readers = {
        name: read
        for name, make in READERS.items()
        if (not arguments.readers or name in {"openslide", *arguments.readers})
        and (read := attempt(make, path, grid, case, blocks[-1])) is not None
    }
    figures: dict[str, list[float]] = {name: [] for name in readers}
    rounds = min(arguments.rounds, len(blocks) // arguments.blocks)
    if not rounds:
        raise SystemExit(f"{case.title}: {len(grid)} tissue tiles are too few; pass --blocks 1")
    for number in range(rounds):
        here = blocks[number * arguments.blocks : (number + 1) * arguments.blocks]
        for name, read in readers.items():
            started = time.process_time()
            for coords in here:
                read(coords)
            figures[name].append(BLOCK * len(here) / (time.process_time() - started))
    table = Table(title=f"{case.title} ({rounds} rounds of {arguments.blocks * BLOCK} tiles)")
    for column in ("reader", "tiles/CPU-s", "ratio", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    base = figures.get("openslide") or figures["ours"]
    for name, found in sorted(figures.items(), key=lambda item: -statistics.median(item[1])):
        ratios = [a / b for a, b in zip(found, base, strict=True)]
        table.add_row(name, f"{statistics.median(found):.0f}", f"{statistics.median(ratios):.2f}",
                      f"{min(ratios):.2f}", f"{max(ratios):.2f}")  # fmt: skip
    left = blocks[rounds * arguments.blocks :]
    if arguments.threads and len(left) >= BURSTS:
        for name in (LIMIT, "ours", "ours, dask"):
            if name in readers:
                gain = threads_gain(path, grid, case, left, name)
                table.add_row(f"{name}: 2 threads / 1, wall", "", f"{gain:.2f}", "", "")
    Console(width=110).print(table)


def attempt(
    make: Callable[[Path, TileGrid, Case], ReadBlock | None],
    path: Path,
    grid: TileGrid,
    case: Case,
    coords: Coords,
) -> ReadBlock | None:
    """Return the block reader if it is installed and reads `coords` of this slide."""
    try:
        read = make(path, grid, case)
        if read is not None:
            read(coords)
    except Exception as err:  # each peer has errors of its own
        print(f"left out: {make.__name__}: {err}"[:100])
        return None
    return read


def threads_gain(path: Path, grid: TileGrid, case: Case, blocks: list[Coords], name: str) -> float:
    """Return by how much two threads are faster than one: the median of short, paired bursts."""
    gains = []
    slide = open_slide(path, mpp=case.slide_mpp)
    size = min(8, len(blocks) // BURSTS)
    for burst in range(BURSTS):
        here = blocks[burst * size : burst * size + size]
        times = []
        for threads in (1, 2):
            read = READERS[name](path, grid, case)
            started = time.perf_counter()
            if name == "ours, dask":
                dask_tiles(slide, grid, np.concatenate(here), threads)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(read, here))
            times.append(time.perf_counter() - started)
        gains.append(times[0] / times[1])
    return statistics.median(gains)


def ours(path: Path, grid: TileGrid, case: Case) -> ReadBlock:
    slide = open_slide(path, mpp=case.slide_mpp)
    geometry = TileGeometry.of(grid)
    return lambda coords: read_tiles(slide, coords, geometry)[0]


def ours_by_dask(path: Path, grid: TileGrid, case: Case) -> ReadBlock:
    slide = open_slide(path, mpp=case.slide_mpp)
    return lambda coords: dask_tiles(slide, grid, coords, 1)


def dask_tiles(slide: Slide, grid: TileGrid, coords: Coords, threads: int) -> NDArray[np.uint8]:
    lazy = tile_array(slide, dataclasses.replace(grid, coords=coords))
    scheduler: dict[str, Any] = (
        {"scheduler": "synchronous"}
        if threads == 1
        else {"scheduler": "threads", "num_workers": threads}
    )
    with dask.config.set(**scheduler):
        pixels: NDArray[np.uint8] = lazy.compute()
    return pixels


def by_region(
    read_region: Callable[[int, int, int, int], NDArray[np.uint8]],
    level_scale: int,
    grid: TileGrid,
) -> ReadBlock:
    """Return a block reader over `read_region(x0, y0, width, height)`, sizes in level px."""
    tile_px = grid.spec.tile_px
    extent = grid.extent[0] // level_scale

    def read(coords: Coords) -> NDArray[np.uint8]:
        out = np.empty((len(coords), tile_px, tile_px, 3), np.uint8)
        for tile, (x0, y0) in zip(out, coords.tolist(), strict=True):
            region = np.asarray(read_region(x0, y0, extent, extent))[..., :3]
            resample(region, (0, 0, extent, extent), tile)
        return out

    return read


def level_of(path: Path, grid: TileGrid) -> tuple[int, int]:
    """Return the level that a peer would read, and its whole downsample."""
    with tifffile.TiffFile(path) as tiff:
        scales = [round(tiff.pages[0].imagewidth / page.imagewidth) for page in tiff.pages]
    wanted = grid.extent[0] / grid.spec.tile_px + 0.01
    scale = max(scale for scale in scales if scale <= wanted)
    return scales.index(scale), scale


def by_openslide(path: Path, grid: TileGrid, case: Case) -> ReadBlock:
    slide = openslide.OpenSlide(path)
    level, scale = level_of(path, grid)
    return by_region(
        lambda x, y, w, h: np.asarray(slide.read_region((x, y), level, (w, h))), scale, grid
    )


def by_tiffslide(path: Path, grid: TileGrid, case: Case) -> ReadBlock:
    import tiffslide

    slide = tiffslide.TiffSlide(path)
    level, scale = level_of(path, grid)
    return by_region(
        lambda x, y, w, h: slide.read_region((x, y), level, (w, h), as_array=True), scale, grid
    )


def by_tifffile_zarr(path: Path, grid: TileGrid, case: Case) -> ReadBlock:
    import zarr

    level, scale = level_of(path, grid)
    array = zarr.open(tifffile.imread(path, aszarr=True), mode="r")[str(level)]
    return by_region(
        lambda x, y, w, h: array[y // scale : y // scale + h, x // scale : x // scale + w],
        scale,
        grid,
    )


def by_fastslide(path: Path, grid: TileGrid, case: Case) -> ReadBlock | None:
    if importlib.util.find_spec("fastslide") is None:
        return None
    import fastslide

    slide = fastslide.FastSlide.from_file_path(str(path))
    level, scale = level_of(path, grid)
    return by_region(
        lambda x, y, w, h: slide.read_region(
            location=(x // scale, y // scale), level=level, size=(w, h)
        ).numpy(),
        scale,
        grid,
    )


def by_cucim(path: Path, grid: TileGrid, case: Case) -> ReadBlock | None:
    if importlib.util.find_spec("cucim") is None:
        return None
    from cucim import CuImage

    slide = CuImage(str(path))
    level, scale = level_of(path, grid)
    return by_region(
        lambda x, y, w, h: np.asarray(slide.read_region((x, y), (w, h), level)), scale, grid
    )


def by_pyvips(path: Path, grid: TileGrid, case: Case) -> ReadBlock | None:
    if importlib.util.find_spec("pyvips") is None:
        return None
    import pyvips

    level, scale = level_of(path, grid)
    region = pyvips.Region.new(pyvips.Image.new_from_file(str(path), page=level))
    return by_region(
        lambda x, y, w, h: np.frombuffer(
            region.fetch(x // scale, y // scale, w, h), np.uint8
        ).reshape(h, w, -1),
        scale,
        grid,
    )


def by_limit(path: Path, grid: TileGrid, case: Case) -> ReadBlock | None:
    """C TurboJPEG straight into the block's mosaic; None where tiles are not aligned."""
    shifted = dataclasses.replace(grid, coords=grid.coords + case.shift)
    return aligned_reader(path, shifted, exact=case.exact)


READERS: dict[str, Callable[[Path, TileGrid, Case], ReadBlock | None]] = {
    "openslide": by_openslide,
    "ours": ours,
    "ours, dask": ours_by_dask,
    LIMIT: by_limit,
    "cucim": by_cucim,
    "pyvips": by_pyvips,
    "fastslide": by_fastslide,
    "tiffslide": by_tiffslide,
    "tifffile-zarr": by_tifffile_zarr,
}


if __name__ == "__main__":
    main()
