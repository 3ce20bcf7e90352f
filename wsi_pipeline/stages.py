"""What is done to one slide: tile, embed, predict, draw. Runs in this process or in a worker's."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

import mil_models
from tiling.errors import StoreOpenError
from tiling.nodes import node_name
from tiling.save_tiles import save_tiles
from tiling.store import (
    SlideStore,
    check_source,
    check_store,
    open_store,
)
from tiling.tissue import tissue_mask
from tiling.urls import redacted
from wsi_pipeline.errors import OutputError, UsageError, reason_of
from wsi_pipeline.live_scores import LiveScores
from wsi_pipeline.models import load_encoder, load_model
from wsi_pipeline.run_table import StageRow
from wsi_pipeline.slide_work import OnTiles, SlideJob, SlideWork, StageOutcome, make_store
from wsi_pipeline.within import tiles_inside

if TYPE_CHECKING:
    from mil_models import Encoder

ENLARGED = 0.9
"""Tiles with pixels smaller than so many of the slide's hold detail that was never scanned."""
_drawing = threading.Lock()
"""matplotlib is for one thread, and two slides are in work at once."""


def run_slide(job: SlideJob, on_tiles: OnTiles | None = None) -> list[StageRow]:
    """Run the job's stages one after the other and say what became of each.

    The one place where any exception is caught: a bad slide is a failed row, its traceback is in
    ``OUT/errors``, and the batch goes on.
    """
    rows: list[StageRow] = []
    stage, started = job.stages[0], time.perf_counter()
    work = SlideWork(job, on_tiles)
    try:
        with _sole_writer(job):
            for stage in job.stages:
                started = time.perf_counter()
                rows.append(_row(job, stage, started, STAGES[stage](work)))
        _error_file(job).unlink(missing_ok=True)
    except Exception as err:
        reason = redacted(f"{type(err).__name__}: {reason_of(err)}")
        seconds = round(time.perf_counter() - started, 3)
        rows.append(StageRow(job.slide_id, stage, "failed", reason, seconds))
        _keep_traceback(job)
    finally:
        work.close()
    return rows


def _tile(work: SlideWork) -> StageOutcome:
    """Open the store if it holds what is asked for, or find tissue, lay the grid and make it."""
    job = work.job
    try:
        store = open_store(job.store_path)
    except StoreOpenError:
        make_store(work, tissue_mask(work.slide))
    else:
        check_store(store, work.slide, job.spec)
    return StageOutcome(len(work.store), reason=_remark(work.store))


def _remark(store: SlideStore) -> str:
    """Return why a store has no tiles, or that its tiles are finer than the slide's own pixels."""
    reason, effective = store.grid.reason, store.grid.effective_mpp[0]
    if not reason and effective < ENLARGED * store.slide_mpp[0]:
        return f"tiles of {effective:.3g} µm are enlarged from the slide's {store.slide_mpp[0]:.3g}"
    return reason


def _save_tiles(work: SlideWork) -> StageOutcome:
    bad = save_tiles(work.store, work.slide, on_progress=work.progress("save_tiles"))
    return StageOutcome(len(work.store), bad)


def _embed(work: SlideWork) -> StageOutcome:
    options = work.job.encoder
    encoder, tell = load_encoder(options), work.progress("embed")
    with ExitStack() as stack:
        if work.job.live and work.job.model is not None:
            tell = stack.enter_context(LiveScores(_scoring_so_far(work, encoder), tell))
        summary = mil_models.embed(
            work.store,
            work.slide,
            encoder,
            allow_mismatch=options.allow_mismatch,
            on_progress=tell,
        )
    return StageOutcome(
        summary.tiles, summary.bad_tiles, work.store.grid.reason, summary.computed, summary.busy
    )


def _scoring_so_far(work: SlideWork, encoder: Encoder) -> Callable[[], int]:
    """Return what scores the tiles that are embedded so far, once a first block is there."""
    name = node_name(encoder.contract.name, mil_models.made_with(encoder.contract, work.store.spec))

    @functools.cache
    def growing() -> mil_models.GrowingScore:
        return mil_models.GrowingScore(work.store, load_model(work.job.require_model()), name)

    return lambda: growing().update()


def _predict(work: SlideWork) -> StageOutcome:
    if not len(work.store):
        return StageOutcome(0, reason=work.store.grid.reason)
    model = load_model(work.job.require_model())
    inside = None if work.job.within is None else tiles_inside(work.store, work.job.within)
    work.prediction = mil_models.predict(work.store, model, inside=inside)
    return StageOutcome(len(work.store) if inside is None else int(inside.sum()))


def _heatmap(work: SlideWork) -> StageOutcome:
    from viewers.draw import draw_store

    prediction = work.prediction
    names = work.store.whole_slide_predictions()
    if work.job.stages == ("heatmap",) and names:  # what was scored before; a run draws its own
        if len(names) > 1:
            raise UsageError(
                f"the store holds {len(names)} scores ({', '.join(names)}): pass --model"
            )
        prediction = work.store.prediction()
    if "tile" not in work.job.stages:  # which compares them
        check_source(work.store, work.slide)
    with _drawing:
        draw_store(work.store, work.slide, prediction, work.job.out)
    return StageOutcome(len(work.store))


def _segment(work: SlideWork) -> StageOutcome:
    from wsi_pipeline.segmentation.stage import segment_slide

    return segment_slide(work)


STAGES: dict[str, Callable[[SlideWork], StageOutcome]] = {
    "tile": _tile,
    "save_tiles": _save_tiles,
    "embed": _embed,
    "predict": _predict,
    "heatmap": _heatmap,
    "segment": _segment,
}
"""The stages, in the order in which they can run."""


@contextmanager
def _sole_writer(job: SlideJob) -> Iterator[None]:
    """Hold the store for this process; the system lets go of it even if the process is killed."""
    locks = job.out / "stores" / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / f"{job.slide_id}.lock", timeout=0):
            yield
    except Timeout as err:
        raise OutputError(
            f"{job.slide_id}: another process is working on this slide; wait for it, or stop it"
        ) from err


def _row(job: SlideJob, stage: str, started: float, outcome: StageOutcome) -> StageRow:
    return StageRow(
        slide_id=job.slide_id,
        stage=stage,
        status="skipped" if outcome.reason and stage != "tile" else "done",
        reason=outcome.reason,
        seconds=round(time.perf_counter() - started, 3),
        tiles=outcome.tiles,
        bad_tiles=outcome.bad_tiles,
        embedded=outcome.embedded,
        encoder_seconds=round(outcome.encoder_seconds, 3),
    )


def _error_file(job: SlideJob) -> Path:
    return job.out / "errors" / f"{job.slide_id}.txt"


def _keep_traceback(job: SlideJob) -> None:
    path = _error_file(job)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(redacted(traceback.format_exc()), encoding="utf-8")
    except OSError:
        pass  # a full disk is what failed the slide: the row says so
