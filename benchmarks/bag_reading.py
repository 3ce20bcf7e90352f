"""How long a training of three epochs waits for its bags, read from their stores.

Slides of 1k, 10k and 100k embeddings of 1024 in stores such as `wsi embed` writes, in the page
cache; a head is trained on them with nothing kept between epochs ("read": what a data set larger
than memory sees) and with all of it kept ("kept"). Waiting is the time in which the loop asks for a
bag that is not there yet; bags are read ahead in a thread, so it is not the time that reading
takes, which stands beside it.

    python benchmarks/bag_reading.py
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from embedding_ours import SlideTiles
from make_slide import make_slide
from rich.console import Console
from rich.table import Table

from mil_models.bags import READ_AHEAD, Bag, BagCache, Draw
from mil_models.heads import create_head
from mil_models.labels import LabelledSlide, read_answers
from mil_models.loop import Lesson, create_fabric, train_head
from mil_models.options import TrainOptions
from mil_models.splits import Split
from mil_models.tasks import Task
from tiling.store import SlideStore, create_store

DIM, BLOCK = 1024, 256
SLIDES = {1_000: 32, 10_000: 8, 100_000: 8}


class WatchedCache(BagCache):
    """Adds up the seconds in which somebody waited for a bag."""

    waited = 0.0

    def stream(
        self, wanted: Iterable[tuple[LabelledSlide, Draw | None]], *, ahead: int = READ_AHEAD
    ) -> Generator[Bag, None, None]:
        bags = super().stream(wanted, ahead=ahead)
        while True:
            asked = time.perf_counter()
            bag = next(bags, None)
            self.waited += time.perf_counter() - asked
            if bag is None:
                return
            yield bag


def write_stores(tiles: SlideTiles, instances: int, folder: Path) -> list[SlideStore]:
    """Write stores of random embeddings, as `wsi embed` leaves them."""
    columns = -(-tiles.slide.size[0] // 64)
    place = np.arange(instances)
    coords = np.stack([place % columns, place // columns], axis=1).astype(np.int64) * 64
    grid = tiles.at(coords).grid
    random = np.random.default_rng(0)
    stores = []
    for number in range(SLIDES[instances]):
        name = f"s{number}"
        store = create_store(folder / f"{name}.zarr", tiles.slide, grid, tiles.mask, slide_id=name)
        rows = store.create_rows(
            "embeddings/random", row_shape=(DIM,), dtype=np.float32, block=BLOCK, fill=np.nan,
            attrs={"encoder": {"width": DIM}, "tiles": {}},
        )  # fmt: skip
        for block in rows.missing_blocks():
            count = rows.rows_of(block).stop - rows.rows_of(block).start
            values = random.standard_normal((count, DIM), np.float32)
            rows.write(block, values, np.ones(count, np.uint8))
        rows.finish(bad_tiles=0)
        stores.append(store)
    return stores


def labelled(stores: Sequence[SlideStore], folder: Path) -> tuple[list[LabelledSlide], Task]:
    """Return the slides with labels in turn, and the task."""
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patient_id", "label"])
        writer.writerows([s.slide_id, s.slide_id, "ab"[n % 2]] for n, s in enumerate(stores))
    return read_answers(table, list(stores), "binary")


def epoch_seconds(
    head: str, slides: Sequence[LabelledSlide], task: Task, cache: BagCache, options: TrainOptions
) -> float:
    """Return the seconds of an epoch of training, the mean of all."""
    targets = task.targets([slide.readings for slide in slides])
    everything = Split("all", tuple(range(len(slides))), (), ())
    lesson = Lesson(head, everything, slides, task.fitted(targets), targets, 0)
    network = create_head(head, dim=DIM, classes=task.logits)
    started = time.perf_counter()
    train_head(network, lesson, cache, options, create_fabric(options))
    return (time.perf_counter() - started) / options.epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--heads", nargs="+", default=["abmil", "transmil"])
    parser.add_argument("--instances", nargs="+", type=int, default=list(SLIDES))
    parser.add_argument("--max-instances", type=int, default=TrainOptions().max_instances)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the other core reads
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = make_slide(arguments.folder / "s16000.svs", 16_000)
    options = TrainOptions(epochs=3, device="cpu", max_instances=arguments.max_instances)
    table = Table(title=f"an epoch, at most {options.max_instances} instances a step")
    columns = (
        "head",
        "bag",
        "bags",
        "read: ms a step",
        "waiting",
        "kept: ms a step",
        "reading, ms",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "head" else "right")
    for instances in arguments.instances:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
            folder = Path(work)
            tiles = SlideTiles.of(path, 256, folder)
            slides, task = labelled(write_stores(tiles, instances, folder), folder)
            kept = BagCache(limit_bytes=1 << 40)
            for slide in slides:
                kept.bag(slide)
            for head in arguments.heads:
                rounds = []
                for _ in range(arguments.rounds):
                    fresh = WatchedCache(limit_bytes=0)
                    started = time.perf_counter()
                    for slide in slides:
                        fresh.bag(slide)
                    reading = time.perf_counter() - started
                    read = epoch_seconds(head, slides, task, fresh, options)
                    again = epoch_seconds(head, slides, task, kept, options)
                    waiting = fresh.waited / options.epochs / read
                    rounds.append((read, waiting, again, reading))
                read, waiting, again, reading = (
                    statistics.median(r) for r in zip(*rounds, strict=True)
                )
                a_step = 1000 / len(slides)
                figures = (f"{ms * a_step:.1f}" for ms in (again, reading))
                row = (head, f"{instances:,}", str(len(slides)), f"{read * a_step:.1f}")
                table.add_row(*row, f"{waiting:.1%}", *figures)
                print(row, f"{waiting:.1%}", flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
