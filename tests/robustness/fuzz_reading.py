"""Damage slides in many ways and read each in a child process with bounds on time and memory.

    python -m tests.robustness.fuzz_reading --cases 2000 --seed 1
    python -m tests.robustness.fuzz_reading --seed 1 --only 1234 --keep case.tif

Case N of a seed is always the same file, read by the same readers.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
import psutil

from tests.robustness.fuzz_mutations import mutate
from tests.robustness.fuzz_slides import write_all
from tiling import (
    Slide,
    TileSpec,
    TissueMask,
    WSIError,
    level_array,
    open_slide,
    slide_as_zarr,
    tile_array,
    tile_grid,
    tissue_mask,
)  # fmt: skip
from tiling.tiles import TileGeometry, read_tiles

CPU_SECONDS, WALL_SECONDS = 15, 300
"""What one reader may take for one case; the second bound is for what waits without working."""
ADDRESS_BYTES, RESIDENT_BYTES = 2 << 30, 1 << 30
"""What reading may ask for, and what it may use, beyond the imports."""
GOOD = ("read", "read in part", "refused")
"""Outcomes as they should be; every other is a defect."""
AS_ZARR = "as zarr"
"""Stands among the readers for :func:`tiling.slide_as_zarr`."""
T = TypeVar("T")

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case with one reader."""

    number: int
    slide: str
    damage: str
    reader: str
    kind: str
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return (f"case {self.number}: {self.slide}, {self.damage}; reader {self.reader}: "
                f"{self.kind} after {self.seconds:.1f} s\n{self.detail}")  # fmt: skip


def read_everything(path: Path, reader: str) -> tuple[str, str]:
    """Open, mask, grid and read a slide in every way there is; return an outcome's kind, detail.

    Raises whatever is not a :class:`WSIError`: that is what the fuzzer looks for.
    """
    errors: list[str] = []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except WSIError as err:
            errors.append(f"{type(err).__name__}: {err}")
            return None

    if reader == AS_ZARR:
        group = attempt(lambda: slide_as_zarr(path, mpp=0.5))
        for name in group or ():
            attempt(lambda name=name: group[name][:, -300:, -300:])
            attempt(lambda name=name: group[name].oindex[1, [0], :300])
        return _outcome(group is not None, errors)
    with contextlib.ExitStack() as stack:
        slide = attempt(lambda: stack.enter_context(open_slide(path, reader=reader)))
        if slide is not None and slide.resolution.problem:
            slide = stack.enter_context(open_slide(path, reader=reader, mpp=0.5))
        if slide is not None:
            use(slide, attempt)
    return _outcome(slide is not None, errors)


def _outcome(is_open: bool, errors: list[str]) -> tuple[str, str]:
    # libdicom asks for what a length of 32 bits states, 4 GiB at most, and copes with a refusal.
    asked = [e for e in errors if "libdicom" not in e]
    if any("MemoryError" in e or "llocate" in e or "bad_alloc" in e for e in asked):
        return "memory", "\n".join(errors)
    kind = ("read in part" if errors else "read") if is_open else "refused"
    return kind, "\n".join(errors)


def use(slide: Slide, attempt: Callable[[Callable[[], Any]], Any]) -> None:
    mask = attempt(lambda: tissue_mask(slide))
    if mask is None:
        mask = TissueMask(np.ones((2, 2), np.bool_), slide.size, slide.require_mpp())
    for spec in (
        TileSpec(tile_px=64, mpp=1.03, min_tissue=0, edge="pad"),
        TileSpec(tile_px=96, mpp=4.1, exact=True),
    ):
        grid = attempt(lambda spec=spec: tile_grid(slide, spec, mask))
        if grid is not None and len(grid):
            geometry = TileGeometry.of(grid)
            for coords in (grid.coords[:48], grid.coords[-8:]):
                read_tiles(slide, coords, geometry)
            lazy = tile_array(slide, grid, tiles_per_block=8)
            attempt(lambda lazy=lazy: lazy.blocks[-1].compute(scheduler="synchronous"))
    for level in range(len(slide.level_sizes)):
        lazy = attempt(lambda level=level: level_array(slide, level))
        if lazy is not None:
            for corner in (np.s_[:300, :300], np.s_[-300:, -300:]):
                part = lazy[corner]
                attempt(lambda part=part: part.compute(scheduler="synchronous"))
    for name in slide.associated_names:
        attempt(lambda name=name: slide.read_associated(name))
    attempt(lambda: slide.thumbnail(200))


Read = Callable[[Path, str], tuple[str, str]]
"""What a child does with a slide and a reader's name; returns an outcome's kind and detail."""


def serve(pipe: Connection, log: Path, read: Read, cpu_seconds: int) -> None:
    """Read what is asked for until the pipe closes: the child's side."""
    file = log.open("w")
    os.dup2(file.fileno(), 2)  # what native libraries say before they abort
    faulthandler.enable(file)
    _bound_address_space()
    pipe.send("ready")
    with contextlib.suppress(EOFError):
        while True:
            path, reader = pipe.recv()
            file.truncate(0)
            _bound_time(file, cpu_seconds)
            try:
                found = read(path, reader)
            except Exception:
                found = "untyped error", traceback.format_exc()
            pipe.send(found)


def _bound_address_space() -> None:
    if resource is not None and Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + ADDRESS_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _bound_time(log: TextIO, cpu_seconds: int) -> None:
    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=log)
    if resource is not None:
        faulthandler.register(signal.SIGXCPU, file=log, chain=True)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + cpu_seconds, hard))


class Child:
    """A spawned process that reads cases one after the other."""

    def __init__(self, folder: Path, read: Read, cpu_seconds: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._log = folder / f"child_{time.monotonic_ns()}.log"
        self._pipe, theirs = context.Pipe()
        arguments = theirs, self._log, read, cpu_seconds
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()
        self._monitor = psutil.Process(self._process.pid)
        self._limit = self._monitor.memory_info().rss + RESIDENT_BYTES

    def read(self, path: Path, reader: str) -> tuple[str, str]:
        """Return the outcome's kind and detail; the child is gone unless `is_alive`."""
        with contextlib.suppress(EOFError, ConnectionError, psutil.NoSuchProcess):
            self._pipe.send((path, reader))
            while not self._pipe.poll(0.05):
                if self._monitor.memory_info().rss > self._limit:
                    self._process.kill()
                    self._process.join()
                    return "memory", f"more than {RESIDENT_BYTES >> 20} MiB over the import"
            found: tuple[str, str] = self._pipe.recv()
            return found
        self._process.join()
        said = self._log.read_text(errors="replace")[-6000:]
        code = self._process.exitcode
        is_late = "Timeout (" in said or code == -getattr(signal, "SIGXCPU", 0)
        return "timeout" if is_late else "crash", f"exit code {code}\n{said}"

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)
        self._process.kill()


@dataclass(frozen=True, slots=True)
class Case:
    """One damaged slide."""

    number: int
    slide: str
    damage: str
    content: bytes
    readers: tuple[str, ...]


def readers_of(slide: str) -> tuple[str, ...]:
    """Return the readers that read such a slide, and how else it is read."""
    if slide.endswith(".dcm"):
        return "auto", "openslide", "dicom"
    if slide.endswith(".ozx"):
        return ("auto",)
    return "auto", "tiff", "openslide", "tiffslide", AS_ZARR


def make_case(slides: list[Path], seed: int, number: int, reader: str | None = None) -> Case:
    """Return case `number` of `seed`: every slide in turn, the first round undamaged.

    It is read by every reader of its kind, or by `reader` alone.
    """
    rng = np.random.default_rng([seed, number])
    slide = slides[number % len(slides)]
    content, damage = slide.read_bytes(), "undamaged"
    if number >= len(slides):
        content, damage = mutate(content, rng)
    readers = readers_of(slide.name)
    return Case(number, slide.name, damage, content, readers if reader is None else (reader,))


def run_cases(
    cases: Iterable[Case],
    folder: Path,
    read: Read = read_everything,
    cpu_seconds: int = CPU_SECONDS,
) -> Iterator[Outcome]:
    """Read every case with every reader, in a child that is replaced when it dies."""
    child: Child | None = None
    try:
        for case in cases:
            # In a folder of its own: DICOM files belong together with others beside them.
            path = folder / "cases" / f"case_{case.number}{Path(case.slide).suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(case.content)
            for reader in case.readers:
                child = child or Child(folder, read, cpu_seconds)
                started = time.perf_counter()
                kind, detail = child.read(path, reader)
                if "exit code -9" in detail:  # something else than the file killed it
                    child = Child(folder, read, cpu_seconds)
                    kind, detail = child.read(path, reader)
                seconds = time.perf_counter() - started
                if not child.is_alive:
                    child.close()
                    child = None
                yield Outcome(case.number, case.slide, case.damage, reader, kind, detail, seconds)
            path.unlink()
    finally:
        if child is not None:
            child.close()


def summary(outcomes: list[Outcome]) -> str:
    """Return how often each reader came to each outcome, as a table."""
    kinds = collections.Counter((outcome.reader, outcome.kind) for outcome in outcomes)
    names = [*GOOD, *sorted({kind for _, kind in kinds} - set(GOOD))]
    head = f"{'reader':10}" + "".join(f"{name:>15}" for name in names)
    rows = (
        f"{reader:10}" + "".join(f"{kinds[reader, name]:15}" for name in names)
        for reader in dict.fromkeys(outcome.reader for outcome in outcomes)
    )
    return "\n".join([head, *rows])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="this case alone")
    parser.add_argument("--reader", help=f"this reader alone, or {AS_ZARR}")
    parser.add_argument("--keep", type=Path, help="write the last damaged slide here")
    options = parser.parse_args()
    started = time.perf_counter()
    numbers = range(options.cases) if options.only is None else [options.only]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = write_all(folder)
        cases = (make_case(slides, options.seed, number, options.reader) for number in numbers)
        for outcome in run_cases(cases, folder):
            outcomes.append(outcome)
            if outcome.kind not in GOOD or options.only is not None:
                print(outcome, flush=True)
            elif len(outcomes) % 1000 == 0:
                print(f"case {outcome.number}, {time.perf_counter() - started:.0f} s", flush=True)
        if options.keep:
            last = make_case(slides, options.seed, numbers[-1])
            options.keep.write_bytes(last.content)
    print(summary(outcomes))
    defects = sum(outcome.kind not in GOOD for outcome in outcomes)
    seconds, slowest = time.perf_counter() - started, max(o.seconds for o in outcomes)
    print(f"{len(numbers)} cases, {len(outcomes)} readings in {seconds:.0f} s, the slowest "
          f"{slowest:.1f} s; {defects} defects (seed {options.seed})")  # fmt: skip
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
