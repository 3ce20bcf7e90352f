"""Embedding a slide on a CPU: ours, the limit, and the peers, in tiles per CPU-second.

Four tables, over the first tiles of a synthetic slide of 0.25 um, taken at 0.5 um:

speed     decoding alone (C TurboJPEG, nothing kept), the engine alone (batches that are in
          memory), `wsi embed`'s own path into a Zarr store, and the share it reaches of the limit,
          1 / (1 / decode + 1 / engine), which no program that does one after the other can pass;
          then two lanes against one, wall.
loader    what a GPU could be fed: tiles read in blocks, and the loop that feeds a GPU with an
          encoder of no cost, against decoding alone; then two threads against one, wall.
memory    peak of `wsi embed` as a process, at two sizes of slide.
peers     programs of other makers and ours over the same tiles with the same random weights, each
          run as a process of its own, in turn; --peer NAME=PYTHON, the interpreter of an
          environment where it is installed (lazyslide, tiatoolbox, slide2vec).

A figure is the median over the rounds, a ratio the median over the rounds of the ratio within a
round. One thread, unless two are compared: CPU time is what other processes disturb least.

    python benchmarks/embedding.py
    python benchmarks/embedding.py --tables peers --peer lazyslide=/venvs/lazyslide/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from decode_limit import Coords, decode_once
from embedding_ours import SlideTiles, encoder_of, free_encoder
from make_slide import make_slide
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from mil_models import Encoder
from mil_models.embedding import BLOCK
from mil_models.engines.base import padded_batches
from mil_models.errors import EngineError
from tiling.tiles import read_tiles

ENCODERS = ("resnet50", "tf_efficientnet_lite0", "vit_small_patch16_224", "vit_base_patch16_224")
TABLES = ("speed", "loader", "memory", "peers")
LOADER_PX = 256
SAMPLES_A_SECOND = 20
HERE = Path(__file__).parent


def main() -> None:
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS), help="timm models")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--engine", default="auto", help="auto, openvino or torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=32_000, help="of the slide, px")
    parser.add_argument("--seconds", type=float, default=5, help="that the engine takes a round")
    parser.add_argument("--tiles", type=int, default=2 * BLOCK, help="that peers embed a round")
    parser.add_argument("--peer", nargs="+", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--threads", type=int, default=1, help="that the peers' table runs with")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = slide_of(arguments.size, arguments.folder)
    console = Console(width=150)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        for name in arguments.tables:
            for table in MAKE[name](path, Path(work), arguments):
                console.print(table)


def slide_of(size: int, folder: Path) -> Path:
    """Return a synthetic slide; its suffix is Aperio's, by which some peers choose a reader."""
    path = make_slide(folder / f"s{size}.svs", size)
    path.read_bytes()  # into the page cache
    return path


# --- speed ------------------------------------------------------------------------------------


def speed(path: Path, work: Path, arguments: argparse.Namespace) -> list[Table]:
    """Return the table of decoding, engine and both, per encoder and precision."""
    table = new_table(
        f"one thread, tiles per CPU-s ({arguments.rounds} rounds)",
        "encoder", "precision", "px", "tiles", "decode", "engine", "limit", "end to end",
        "of limit", "lowest", "highest", "wall/s", "2 lanes, wall/s", "2 / 1",
    )  # fmt: skip
    for name in arguments.encoders:
        for precision in arguments.precisions:
            try:
                one, two = (
                    encoder_of(name, precision, threads=lanes, engine=arguments.engine)
                    for lanes in (1, 2)
                )
            except EngineError as err:
                print(f"left out: {name} in {precision}: {err}")
                continue
            row = speed_row(path, work, one, two, arguments)
            print(*row, flush=True)
            table.add_row(*row)
    return [table]


def speed_row(
    path: Path, work: Path, one: Encoder, two: Encoder, arguments: argparse.Namespace
) -> list[str]:
    tile_px = one.contract.default_tile_px
    tiles = SlideTiles.of(path, tile_px, work)
    if len(tiles.grid) < 2 * BLOCK:
        raise SystemExit(f"{path.name}: {len(tiles.grid)} tiles; pass a larger --size")
    for encoder in (one, two):  # compiled, and every lane's memory touched
        tiles.first(2 * BLOCK).embed(encoder)
    batches = batches_in_memory(tiles.first(BLOCK), one.contract.batch)
    took = timed(lambda: [one.engine.run(b) for b in batches]).cpu_s
    pairs = min(int(arguments.seconds / took / 2), len(tiles.grid) // BLOCK // 2)
    tiles = tiles.first(max(pairs, 1) * 2 * BLOCK)  # as many blocks for each of two lanes
    count, blocks = len(tiles.grid), blocks_of(tiles.grid.coords)
    repeats = count // BLOCK
    decode = decode_once(path, tiles.grid)
    if decode is None:
        raise SystemExit("the limit needs TurboJPEG's C library (Debian: libturbojpeg0)")
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        decoding = timed(lambda: [decode(b) for b in blocks])
        running = timed(lambda: [one.engine.run(b) for _ in range(repeats) for b in batches])
        both, in_two = timed(lambda: tiles.embed(one)), timed(lambda: tiles.embed(two))
        found = {
            "decode": count / decoding.cpu_s,
            "engine": count / running.cpu_s,
            "limit": count / (decoding.cpu_s + running.cpu_s),
            "both": count / both.cpu_s,
            "wall": count / both.wall_s,
            "two": count / in_two.wall_s,
            "gain": both.wall_s / in_two.wall_s,
        }
        rounds.append({**found, "share": found["both"] / found["limit"]})
    median = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    shares = [r["share"] for r in rounds]
    contract = one.contract
    return [
        contract.name, f"{contract.precision} ({contract.engine})", str(tile_px), str(count),
        f"{median['decode']:.0f}", f"{median['engine']:.1f}", f"{median['limit']:.1f}",
        f"{median['both']:.1f}", f"{median['share']:.2f}", f"{min(shares):.2f}",
        f"{max(shares):.2f}", f"{median['wall']:.1f}", f"{median['two']:.1f}",
        f"{median['gain']:.2f}",
    ]  # fmt: skip


def batches_in_memory(tiles: SlideTiles, batch: int) -> list[NDArray[np.uint8]]:
    """Return the tiles' pixels in whole batches."""
    pixels = read_tiles(tiles.slide, tiles.grid.coords, tiles.new_store().geometry)[0]
    return [b.copy() for b in padded_batches(pixels, batch)]


# --- loader -----------------------------------------------------------------------------------


def loader(path: Path, work: Path, arguments: argparse.Namespace) -> list[Table]:
    """Return the table of what a GPU could be fed."""
    tiles = SlideTiles.of(path, LOADER_PX, work)
    geometry = tiles.new_store().geometry
    blocks = blocks_of(tiles.grid.coords)
    decode = decode_once(path, tiles.grid)
    if decode is None:
        raise SystemExit("the limit needs TurboJPEG's C library (Debian: libturbojpeg0)")
    free = free_encoder(encoder_of("resnet18", "float32", threads=1, engine="torch"))

    def in_threads(read: Callable[[Coords], Any], threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(read, blocks):
                pass  # the next takes the memory of this

    def loop(threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        tiles.embed(free)

    runs: dict[str, Callable[[int], object]] = {
        "decoding alone (C TurboJPEG)": lambda threads: in_threads(decode, threads),
        "tiles read in blocks": lambda threads: in_threads(
            lambda c: read_tiles(tiles.slide, c, geometry), threads
        ),
        "the loop that feeds a GPU": loop,
    }
    count = len(tiles.grid)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        run(2)
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            one, two = (timed(lambda run=run, n=n: run(n)) for n in (1, 2))
            found[name].append((count / one.cpu_s, count / one.wall_s, count / two.wall_s))
    table = new_table(
        f"what a GPU could be fed: tiles of {LOADER_PX} px ({arguments.rounds} rounds of {count})",
        "", "tiles/CPU-s", "of limit", "lowest", "highest", "wall/s", "2 threads, wall/s", "2 / 1",
    )  # fmt: skip
    limits = [cpu for cpu, _, _ in next(iter(found.values()))]
    for name, rounds in found.items():
        shares = [r[0] / limit for r, limit in zip(rounds, limits, strict=True)]
        cpu, wall, two = (statistics.median(r[i] for r in rounds) for i in range(3))
        gain = statistics.median(r[2] / r[1] for r in rounds)
        table.add_row(name, f"{cpu:.0f}", f"{statistics.median(shares):.2f}",
                      f"{min(shares):.2f}", f"{max(shares):.2f}", f"{wall:.0f}", f"{two:.0f}",
                      f"{gain:.2f}")  # fmt: skip
    return [table]


# --- memory -----------------------------------------------------------------------------------


def memory(path: Path, work: Path, arguments: argparse.Namespace) -> list[Table]:
    """Return the table of peak memory at two sizes of slide, for the first encoder."""
    sizes = (arguments.size // 2, arguments.size)
    slides = [slide_of(sizes[0], arguments.folder), path]
    table = new_table(
        f"`wsi embed --encoder {arguments.encoders[0]}`: peak memory of the process, MB",
        "precision", *(f"{size:,} px" for size in sizes), *(f"wall s, {s:,} px" for s in sizes),
    )  # fmt: skip
    for precision in arguments.precisions:
        peaks, seconds = [], []
        for slide in slides:
            with tempfile.TemporaryDirectory(dir=work) as out:
                started = time.perf_counter()
                _, peak = watched(
                    [sys.executable, "-m", "wsi_pipeline", "embed", str(slide), "-o", out,
                     "--encoder", arguments.encoders[0], "--random-weights", "--device", "cpu",
                     "--engine", arguments.engine, "--precision", precision, "--progress", "none"],
                    threads=None,
                )  # fmt: skip
                peaks.append(f"{peak:.0f}")
                seconds.append(f"{time.perf_counter() - started:.0f}")
        table.add_row(precision, *peaks, *seconds)
    return [table]


def watched(command: Sequence[str], *, threads: int | None) -> tuple[str, float]:
    """Run a command; return its standard output and the peak memory of its processes, MB."""
    environment = dict(os.environ)
    environment.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(command, stdout=out, stderr=errors, env=environment)
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident_bytes(process))
            time.sleep(1 / SAMPLES_A_SECOND)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: {errors.read()[-2000:]}")
        return out.read(), peak / 1e6


def resident_bytes(process: psutil.Popen) -> int:
    """Return what a process and its children hold; shared pages count for each."""
    total = 0
    for one in (process, *children(process)):
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue  # it has just ended
    return total


def children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


# --- peers ------------------------------------------------------------------------------------


def peers(path: Path, work: Path, arguments: argparse.Namespace) -> list[Table]:
    """Return a table per encoder: ours and the peers, run in turn."""
    pythons = {"ours": sys.executable, "ours-bfloat16": sys.executable}
    pythons |= dict(peer.split("=", 1) for peer in arguments.peer)
    tables = []
    for encoder in arguments.encoders:
        tile_px = encoder_of(encoder, "float32", threads=1).contract.default_tile_px
        tiles = work / "tiles.json"
        tiles.write_text(
            json.dumps(as_json(SlideTiles.of(path, tile_px, work).first(arguments.tiles)))
        )
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for _ in range(arguments.rounds):
            for name, python in list(pythons.items()):
                command = [python, "-W", "ignore", str(HERE / "embedding_peers.py"), name]
                command += [str(path), encoder, str(tiles)]
                try:
                    out, peak = watched(command, threads=arguments.threads)
                except RuntimeError as err:
                    print(f"left out: {name}: {err}")
                    del pythons[name], found[name]
                    continue
                found[name].append({**json.loads(out.splitlines()[-1]), "peak": peak})
            print(encoder, {name: runs[-1]["embed"] for name, runs in found.items()}, flush=True)
        tables.append(peers_table(encoder, found, arguments))
    return tables


def peers_table(
    encoder: str, found: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace
) -> Table:
    table = new_table(
        f"{encoder}, {arguments.threads} thread(s) ({arguments.rounds} rounds of "
        f"{arguments.tiles} tiles)",
        "", "reader", "network's px", "tiles/CPU-s", "ours / it", "ours bf16 / it", "wall/s",
        "loader, tiles/CPU-s", "ours / it", "loader, wall/s", "peak MB",
    )  # fmt: skip
    for name, rounds in found.items():
        ratios = []
        for ours, part in (("ours", "embed"), ("ours-bfloat16", "embed"), ("ours", "loader")):
            pairs = zip(found.get(ours, []), rounds, strict=False)
            ratio = [b[part]["cpu_s"] / a[part]["cpu_s"] for a, b in pairs]
            ratios.append(f"{statistics.median(ratio):.2f}" if ratio else "")
        rates = {
            (part, kind): statistics.median(r["tiles"] / r[part][kind] for r in rounds)
            for part in ("embed", "loader")
            for kind in ("cpu_s", "wall_s")
        }
        last, peak = rounds[-1], statistics.median(r["peak"] for r in rounds)
        version = "" if name.startswith("ours") else f" {last['version']}"
        table.add_row(
            name + version, last["reader"], str(last["input_px"]),
            f"{rates['embed', 'cpu_s']:.1f}", ratios[0], ratios[1],
            f"{rates['embed', 'wall_s']:.1f}", f"{rates['loader', 'cpu_s']:.0f}", ratios[2],
            f"{rates['loader', 'wall_s']:.0f}", f"{peak:.0f}",
        )  # fmt: skip
    return table


def as_json(tiles: SlideTiles) -> dict[str, Any]:
    """Return what `embedding_peers.py` reads."""
    return {
        "coords": tiles.grid.coords.tolist(),
        "extent": list(tiles.grid.extent),
        "tile_px": tiles.grid.spec.tile_px,
        "mpp": tiles.grid.spec.mpp,
        "slide_size": list(tiles.slide.size),
    }


# --- what they share --------------------------------------------------------------------------


def blocks_of(coords: Coords) -> list[Coords]:
    """Return the coordinates in blocks as they are embedded."""
    return [coords[i : i + BLOCK] for i in range(0, len(coords), BLOCK)]


@dataclass(frozen=True)
class Timed:
    """CPU seconds of this process and wall seconds."""

    cpu_s: float
    wall_s: float


def timed(run: Callable[[], object]) -> Timed:
    """Return what `run` took."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Timed(time.process_time() - cpu, time.perf_counter() - wall)


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


MAKE: dict[str, Callable[[Path, Path, argparse.Namespace], list[Table]]] = {
    "speed": speed,
    "loader": loader,
    "memory": memory,
    "peers": peers,
}


if __name__ == "__main__":
    main()
