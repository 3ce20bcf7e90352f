"""Work across slides: in this process, or by a local Dask cluster of spawned workers."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed, get_worker
from distributed.scheduler import KilledWorker

import mil_models
from wsi_pipeline.progress import Reporter, quiet_libraries
from wsi_pipeline.run_table import RunTable, StageRow
from wsi_pipeline.slide_work import SlideJob
from wsi_pipeline.stages import run_slide

PROGRESS_TOPIC = "wsi-progress"
SLIDES_AT_ONCE = 2
"""In work in a process: while one is opened, masked or drawn, the other's tiles are embedded."""


def run_batch(
    jobs: Sequence[SlideJob], *, workers: int, table: RunTable, reporter: Reporter
) -> list[StageRow]:
    """Run every job, note each slide's rows in `table` as they come, and return them all."""
    reporter.start(len(jobs))
    rows: list[StageRow] = []
    finished = _run_here(jobs, reporter) if workers == 1 else _run_spawned(jobs, workers, reporter)
    try:
        for job, slide_rows in finished:
            rows += slide_rows
            table.add(slide_rows)
            reporter.slide(job.slide_id, slide_rows)
    finally:
        table.save()
    places = {job.slide_id: place for place, job in enumerate(jobs)}
    return sorted(rows, key=lambda row: places[row.slide_id])


def _run_here(
    jobs: Sequence[SlideJob], reporter: Reporter
) -> Iterator[tuple[SlideJob, list[StageRow]]]:
    """Yield the jobs as they are done, `SLIDES_AT_ONCE` in work.

    However it ends, what is in work stops after its next block of tiles.
    """
    stopped = threading.Event()

    def work(job: SlideJob) -> list[StageRow]:
        def tell(stage: str, done: int, total: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt
            reporter.tiles(job.slide_id, stage, done, total)

        return run_slide(job, tell)

    with ThreadPoolExecutor(SLIDES_AT_ONCE, thread_name_prefix="slide") as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _run_spawned(
    jobs: Sequence[SlideJob], workers: int, reporter: Reporter
) -> Iterator[tuple[SlideJob, list[StageRow]]]:
    with _local_client(min(workers, len(jobs))) as client:
        client.subscribe_topic(PROGRESS_TOPIC, functools.partial(_tell, reporter))
        futures = {client.submit(_work, job, key=f"slide-{job.slide_id}"): job for job in jobs}
        for future in as_completed(futures):
            job = futures.pop(future)
            try:
                slide_rows = future.result()
            except KilledWorker:
                reason = "the worker died on this slide, again and again (out of memory?)"
                slide_rows = [StageRow(job.slide_id, job.stages[0], "failed", reason)]
            yield job, slide_rows
            future.release()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back from this thread and from what it starts.

    A terminal sends it to every process. The workers, started in here, never see it: this process
    alone does, after they have started, and ends them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started later, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _local_client(workers: int) -> Iterator[Client]:
    threads = max((os.cpu_count() or 1) // workers, 1)
    environment = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    settings: dict[str, Any] = {
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.logging.distributed": "error",
    }
    # Not of interest: a worker that takes its time to end, results that end with their worker.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with dask.config.set(settings):
        with _interrupts_held():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # any free port, this machine only
                memory_limit=0,  # a limit per worker would kill torch on small laptops
                silence_logs=logging.ERROR,
            )
        with cluster, Client(cluster) as client:
            yield client


def _work(job: SlideJob) -> list[StageRow]:
    worker = get_worker()
    quiet_libraries()

    def tell(stage: str, done: int, total: int) -> None:
        worker.log_event(PROGRESS_TOPIC, [job.slide_id, stage, done, total])

    if "embed" in job.stages:
        device = mil_models.device_of(job.encoder.device, int(worker.name))
        job = replace(job, encoder=replace(job.encoder, device=device))
    if job.segment is not None:
        options = job.segment.options
        device = mil_models.device_of(options.device, int(worker.name))
        job = replace(job, segment=replace(job.segment, options=replace(options, device=device)))
    return run_slide(job, tell)


def _tell(reporter: Reporter, event: tuple[float, Any]) -> None:
    slide_id, stage, done, total = event[1]
    reporter.tiles(slide_id, stage, done, total)
