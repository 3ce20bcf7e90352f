"""Time and memory against the slide's size: open, tissue and grid; `wsi tile`; `wsi embed`.

Each command runs as a process of its own; its peak memory (maximum resident set) is shown over
that of an interpreter that has only imported torch, timm and zarr.

    python benchmarks/scaling.py --sizes 15000 30000 60000 --folder /tmp/slides
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from make_slide import make_slide
from rich.console import Console
from rich.table import Table

BASELINE = "import torch, timm, zarr, dask.array, skimage"
OPEN_MASK_GRID = """
import sys, time, tiling
from tiling.slide import open_slide
from tiling.tissue import tissue_mask
from tiling.grid import tile_grid
started = time.perf_counter()
slide = open_slide(sys.argv[1])
opened = time.perf_counter()
mask = tissue_mask(slide)
grid = tile_grid(slide, tiling.TileSpec(), mask)
print(opened - started, time.perf_counter() - opened, len(grid))
"""


def run(command: list[str]) -> tuple[float, float, str]:
    """Return wall seconds, peak memory in MB and standard output of a command."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        out.seek(0)
        scale = 1e6 if sys.platform == "darwin" else 1e3
        return time.perf_counter() - started, usage.ru_maxrss / scale, out.read()


def main() -> None:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[15_000, 30_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "wsi-bench")
    parser.add_argument("--save-tiles", action="store_true", help="also stream pixels to the store")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wsi = [sys.executable, "-m", "wsi_pipeline"]
    baseline = run([sys.executable, "-c", BASELINE])[1]

    table = Table(title=f"peak memory in MB over the {baseline:.0f} of imports alone")
    columns = ["px", "tiles", "open s", "mask + grid s", "tile s", "tile MB", "embed s", "embed MB",
               "embed tiles/s"]  # fmt: skip
    columns += ["save s", "save MB"] if arguments.save_tiles else []
    for column in columns:
        table.add_column(column, justify="right")
    for size in arguments.sizes:
        slide = str(make_slide(arguments.folder / f"s{size}.tif", size))
        out = arguments.folder / f"out{size}"
        shutil.rmtree(out, ignore_errors=True)
        opened, laid, tiles = run([sys.executable, "-c", OPEN_MASK_GRID, slide])[2].split()
        tile_s, tile_mb, _ = run([*wsi, "tile", slide, "-o", str(out), "--progress", "none"])
        embed_s, embed_mb, _ = run([*wsi, "embed", slide, "-o", str(out), "--progress", "none"])
        cells = [f"{size:,}", tiles, f"{float(opened):.3f}", f"{float(laid):.2f}",
                 f"{tile_s:.1f}", f"{tile_mb - baseline:.0f}", f"{embed_s:.1f}",
                 f"{embed_mb - baseline:.0f}", f"{int(tiles) / embed_s:.1f}"]  # fmt: skip
        if arguments.save_tiles:
            options = ["-o", str(out), "--save-tiles", "--progress", "none"]
            save_s, save_mb, _ = run([*wsi, "tile", slide, *options])
            cells += [f"{save_s:.1f}", f"{save_mb - baseline:.0f}"]
        table.add_row(*cells)
        shutil.rmtree(out)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
