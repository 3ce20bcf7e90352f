"""A slide as a Zarr array: ours, ours through Zarr's event loop, and tifffile's view, interleaved.

Every subject reads the same tissue regions of level 0 in every round: through Dask's threads (one
and two workers, chunks of one stored tile and of 4 x 4), and by slicing. A figure is the median
over the rounds, a ratio the median of the rounds' ratios to tifffile; "2 threads" is the median of
how much faster two workers read a region than one did just before. The slide reader, in a pool of
threads and without Dask or Zarr, shows what the machine had to give.

    python benchmarks/slide_as_zarr.py --size 20000 --rounds 9
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import tifffile
import zarr
from make_slide import make_slide
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tiling import open_slide, slide_as_zarr

REGION_PX = 4096
BASE = "tifffile"
WINDOWS = 24

Place = tuple[int, int]
"""Row and column, level-0 px, of a region."""
Read = Callable[[Place], NDArray[np.uint8]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=20_000, help="width and height in px")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = make_slide(arguments.folder / f"s{arguments.size}.tif", arguments.size)
    path.read_bytes()  # into the page cache
    places = tissue_places(path, arguments.rounds)
    arrays = open_all(path)
    check_equal(arrays, places[0])

    console = Console(width=110)
    console.print(opening_times(path, arguments.rounds))
    for title, chunk_px in (("one stored tile", None), ("4 x 4 stored tiles", 1024)):
        subjects = {
            name: (by_dask(array, 1, chunk_px), by_dask(array, 2, chunk_px))
            for name, array in arrays.items()
        }
        pools = by_pool(path, 1, chunk_px or 256), by_pool(path, 2, chunk_px or 256)
        subjects = {"slide reader in threads": pools} | subjects
        console.print(compare(f"Dask's threads, chunks of {title}", subjects, places))
    for edge in (512, 2048):
        subjects = {name: (by_slicing(array, edge), None) for name, array in arrays.items()}
        console.print(compare(f"slices of {edge} px, not aligned", subjects, places))


def open_all(path: Path) -> dict[str, zarr.Array[Any]]:
    """Return level 0 of the slide by each subject: (c, y, x), and tifffile's (y, x, c)."""
    level = slide_as_zarr(path)["0"]
    view = zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")
    return {"ours": level, "ours, by Zarr's event loop": zarr.Array(level.async_array), BASE: view}


def opening_times(path: Path, rounds: int) -> Table:
    """Return a table of the seconds that it takes to get at level 0."""
    table = Table(title="opening")
    for column in ("", "ms"):
        table.add_column(column, justify="right")
    openers: dict[str, Callable[[], object]] = {
        "ours": lambda: slide_as_zarr(path)["0"],
        BASE: lambda: zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r"),
    }
    times: dict[str, list[float]] = {name: [] for name in openers}
    for _ in range(rounds):
        for name, opened in openers.items():
            started = time.perf_counter()
            opened()
            times[name].append(time.perf_counter() - started)
    for name, found in times.items():
        table.add_row(name, f"{1e3 * statistics.median(found):.1f}")
    return table


def compare(
    title: str, subjects: dict[str, tuple[Read, Read | None]], places: list[Place]
) -> Table:
    """Return a table of the subjects' times; the second of each pair has two workers."""
    walls: dict[str, list[float]] = {name: [] for name in subjects}
    cpus: dict[str, list[float]] = {name: [] for name in subjects}
    gains: dict[str, list[float]] = {name: [] for name in subjects}
    for place in places:
        for name, (one, two) in subjects.items():
            wall, cpu = timed(one, place)
            walls[name].append(wall)
            cpus[name].append(cpu)
            if two is not None:
                gains[name].append(wall / timed(two, place)[0])
    table = Table(title=f"{title}: {REGION_PX} px regions, {len(places)} rounds")
    for column in ("", "ms", "CPU ms", "speed", "per CPU", "2 threads"):
        table.add_column(column, justify="right" if column else "left")
    for name in subjects:
        speed = statistics.median(b / a for a, b in zip(walls[name], walls[BASE], strict=True))
        per_cpu = statistics.median(b / a for a, b in zip(cpus[name], cpus[BASE], strict=True))
        gain = f"{statistics.median(gains[name]):.2f}" if gains[name] else ""
        table.add_row(name, f"{1e3 * statistics.median(walls[name]):.0f}",
                      f"{1e3 * statistics.median(cpus[name]):.0f}",
                      f"{speed:.2f}", f"{per_cpu:.2f}", gain)  # fmt: skip
    return table


def timed(read: Read, place: Place) -> tuple[float, float]:
    """Return wall and CPU seconds, the latter of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    read(place)
    return time.perf_counter() - wall, time.process_time() - cpu


def by_dask(array: zarr.Array[Any], workers: int, chunk_px: int | None) -> Read:
    """Return a reader of whole regions through Dask's threads."""
    is_planar = array.shape[0] == 3
    chunks = None if chunk_px is None else (
        (3, chunk_px, chunk_px) if is_planar else (chunk_px, chunk_px, 3)
    )  # fmt: skip
    lazy = da.from_zarr(array, chunks=chunks)

    def read(place: Place) -> NDArray[np.uint8]:
        part = lazy[region(place, REGION_PX, is_planar=is_planar)]
        found: NDArray[np.uint8] = part.compute(scheduler="threads", num_workers=workers)
        return found

    return read


def by_pool(path: Path, workers: int, chunk_px: int) -> Read:
    """Return a reader of a region's chunks in a pool of threads; their pixels are dropped."""
    slide = open_slide(path)

    def read(place: Place) -> NDArray[np.uint8]:
        corners = [
            (place[1] + right, place[0] + down)
            for down in range(0, REGION_PX, chunk_px)
            for right in range(0, REGION_PX, chunk_px)
        ]
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(
                lambda corner: slide.read_region(corner, level=0, size=(chunk_px, chunk_px)),
                corners,
            )
        return list(found)[-1]

    return read


def by_slicing(array: zarr.Array[Any], edge: int) -> Read:
    """Return a reader of windows within a region, one after the other."""
    is_planar = array.shape[0] == 3

    def read(place: Place) -> NDArray[np.uint8]:
        count = max(WINDOWS * 512 * 512 // edge**2, 2)
        shifts = np.random.default_rng(sum(place)).integers(0, REGION_PX - edge, (count, 2))
        for down, right in shifts.tolist():
            here = place[0] + down, place[1] + right
            found: NDArray[np.uint8] = array[region(here, edge, is_planar=is_planar)]
        return found

    return read


def region(place: Place, edge: int, *, is_planar: bool) -> tuple[slice, slice, slice]:
    """Return the slices of a square region."""
    rows, columns = (slice(start, start + edge) for start in place)
    return (slice(None), rows, columns) if is_planar else (rows, columns, slice(None))


def tissue_places(path: Path, count: int) -> list[Place]:
    """Return the regions with most bytes, that is with most tissue, aligned with stored tiles."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        columns, edge = -(-page.imagewidth // page.tilewidth), REGION_PX // page.tilewidth
        sizes = np.array(page.databytecounts).reshape(-1, columns)
        step = page.tilewidth
    totals = {
        (row * step, column * step): int(sizes[row : row + edge, column : column + edge].sum())
        for row in range(0, sizes.shape[0] - edge, 2)
        for column in range(0, columns - edge, 2)
    }
    return sorted(totals, key=lambda place: -totals[place])[:count]


def check_equal(arrays: dict[str, zarr.Array[Any]], place: Place) -> None:
    """Raise `SystemExit` unless all subjects give the same pixels."""
    ours = arrays["ours"][region(place, 512, is_planar=True)]
    for name, array in arrays.items():
        found = np.asarray(array[region(place, 512, is_planar=array.shape[0] == 3)])
        if not np.array_equal(found if found.shape[0] == 3 else found.transpose(2, 0, 1), ours):
            raise SystemExit(f"{name}: other pixels")


if __name__ == "__main__":
    main()
