"""Slides at work side by side in one process."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from wsi_pipeline import batch
from wsi_pipeline.config import TileOptions
from wsi_pipeline.manifest import SlideEntry
from wsi_pipeline.pipeline import EmbeddingSpeed
from wsi_pipeline.progress import SilentReporter
from wsi_pipeline.run_table import RunTable, StageRow
from wsi_pipeline.slide_work import OnTiles, SlideJob


def jobs_of(names: str, folder: Path) -> list[SlideJob]:
    options = TileOptions()
    return [
        SlideJob(SlideEntry(n, f"{n}.tif"), folder, ("tile",), options, options.spec())
        for n in names
    ]


def test_a_slide_is_prepared_while_another_is_embedded_and_rows_keep_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first slide ends only after the second has: each must be at work while the other is."""
    second_done = threading.Event()

    def work(job: SlideJob, on_tiles: OnTiles) -> list[StageRow]:
        if job.slide_id == "a":
            assert second_done.wait(20)
        if job.slide_id == "b":
            second_done.set()
        return [StageRow(job.slide_id, "tile", "done")]

    monkeypatch.setattr(batch, "run_slide", work)
    table = RunTable(tmp_path / "run_table.csv")
    rows = batch.run_batch(
        jobs_of("abc", tmp_path), workers=1, table=table, reporter=SilentReporter()
    )
    assert [row.slide_id for row in rows] == ["a", "b", "c"]


def test_an_interrupted_batch_stops_what_is_in_work_at_its_next_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, begun = [], threading.Barrier(2)

    class Interrupted(SilentReporter):
        def slide(self, slide_id: str, rows: object) -> None:
            raise KeyboardInterrupt

    def work(job: SlideJob, on_tiles: OnTiles) -> list[StageRow]:
        assert job.slide_id in "ab", "begun after the interrupt"
        begun.wait(20)
        if job.slide_id == "a":
            return [StageRow("a", "tile", "done")]
        try:
            while True:
                on_tiles("embed", 1, 2)
        except KeyboardInterrupt:
            stopped.append(job.slide_id)
            raise

    monkeypatch.setattr(batch, "run_slide", work)
    monkeypatch.setattr(batch, "SLIDES_AT_ONCE", 2)
    with pytest.raises(KeyboardInterrupt):
        batch.run_batch(
            jobs_of("ab", tmp_path), workers=1, table=RunTable(tmp_path / "t.csv"),
            reporter=Interrupted(),
        )  # fmt: skip
    assert stopped == ["b"]


def test_the_speed_of_a_run_counts_what_was_embedded_now() -> None:
    rows = [
        StageRow("a", "embed", "done", tiles=50, embedded=30, encoder_seconds=2.0),
        StageRow("b", "embed", "done", tiles=20, embedded=20, encoder_seconds=4.0),
    ]
    speed = EmbeddingSpeed.of(rows, 10.0, workers=2)
    assert speed is not None
    assert (speed.tiles, speed.tiles_per_s, speed.encoder_busy) == (50, 5.0, 0.3)
    assert speed.peak_memory_mb > 50
    assert EmbeddingSpeed.of([StageRow("a", "embed", "done", tiles=50)], 1.0, 1) is None
