"""Whole runs: slides in; stores, scores, pictures and one page out."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mil_models
from tiling.errors import StoreError
from tiling.store import Prediction, SlideStore, iter_stores, open_store
from wsi_pipeline import __version__
from wsi_pipeline.batch import run_batch
from wsi_pipeline.config import DEFAULT_ENCODER, BatchOptions, EncoderOptions, TileOptions
from wsi_pipeline.errors import OutputError, UsageError, reason_of
from wsi_pipeline.manifest import SlideEntry, collect_slides
from wsi_pipeline.memory import peak_memory_bytes
from wsi_pipeline.models import find_encoder, load_encoder, load_model, resolved
from wsi_pipeline.progress import create_reporter
from wsi_pipeline.results import (
    ScoredSlide,
    find_prediction,
    package_versions,
    write_json,
    write_predictions,
)
from wsi_pipeline.run_table import RunTable, StageRow
from wsi_pipeline.slide_work import SlideJob
from wsi_pipeline.within import outlines_of, tiles_inside

EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_NOTHING_DONE = 0, 1, 2, 3
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC)


@dataclass(frozen=True, slots=True)
class EmbeddingSpeed:
    """How fast a run embedded.

    `encoder_busy` is the share of the run's time in which the encoder was at work (of each worker's
    and each core's); `peak_memory_mb` is that of the largest process.
    """

    tiles: int
    tiles_per_s: float
    encoder_busy: float
    peak_memory_mb: int

    @classmethod
    def of(cls, rows: Sequence[StageRow], seconds: float, workers: int) -> EmbeddingSpeed | None:
        """Return the speed of a run that took `seconds`; None if it embedded nothing."""
        tiles = sum(row.embedded for row in rows)
        if not tiles:
            return None
        busy = sum(row.encoder_seconds for row in rows) / (seconds * workers)
        peak = round(peak_memory_bytes() / 1e6)
        return cls(tiles, round(tiles / seconds, 2), round(min(busy, 1.0), 3), peak)

    def __str__(self) -> str:
        return (
            f"{self.tiles} tiles embedded, {self.tiles_per_s:.1f} a second; encoder at work "
            f"{self.encoder_busy:.0%} of the time; peak memory {self.peak_memory_mb} MB"
        )


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    `rows` has one row per slide and stage, `exit_code` is the command line's (0 all done, 1 a
    slide or more failed, 3 nothing could be done). `embedding` is None if no tile was embedded.
    """

    out: Path
    slides: int
    failed: tuple[str, ...]
    rows: tuple[StageRow, ...]
    embedding: EmbeddingSpeed | None = None

    @property
    def bad_tiles(self) -> int:
        """Tiles that could not be read, over all slides."""
        worst: dict[str, int] = {}
        for row in self.rows:
            worst[row.slide_id] = max(row.bad_tiles, worst.get(row.slide_id, 0))
        return sum(worst.values())

    @property
    def exit_code(self) -> int:
        """0 all done, 1 a slide or more failed, 3 nothing could be done."""
        if not self.failed:
            return EXIT_DONE
        return EXIT_NOTHING_DONE if len(self.failed) == self.slides else EXIT_SOME_FAILED


def run(
    slides: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    tiles: TileOptions = TileOptions(),
    encoder: EncoderOptions = EncoderOptions(),
    batch: BatchOptions = BatchOptions(progress="none"),
    live: bool = False,
) -> RunResult:
    """Tile, embed, score and draw every slide, and write one page about all of them.

    Parameters
    ----------
    slides
        Files, folders, globs, URLs or manifest CSVs.
    out
        Output folder: `stores/`, `predictions.csv`, `heatmaps/`, `geojson/`, `report.html`. What
        an earlier run did there is kept and not done again.
    model
        Model folder made by ``wsi train``; without one there is no score and no heatmap.
    live
        Keep the score of what is embedded so far in the stores while at work, for a viewer that
        looks on: :meth:`tiling.store.SlideStore.growing_prediction`.

    Raises
    ------
    UsageError
        An argument is wrong, or does not fit the model; nothing was started.
    OutputError
        The output folder cannot be written.
    """
    inputs = [str(slides)] if isinstance(slides, str | Path) else [str(s) for s in slides]
    stages = ["tile", "save_tiles"] if tiles.save_tiles else ["tile"]
    stages += ["embed", "predict", "heatmap"] if model else ["embed", "heatmap"]
    job = replace(plan(out, stages, tiles=tiles, encoder=encoder, model=model), live=live)
    result = run_slides("run", inputs, job, batch=batch)
    write_outputs(result, job, batch=batch)
    return result


def plan(
    out: str | Path,
    stages: Sequence[str],
    *,
    tiles: TileOptions,
    encoder: EncoderOptions = EncoderOptions(),
    model: str | Path | None = None,
) -> SlideJob:
    """Return the job that each slide of a run is a copy of, checked before anything starts.

    The encoder is loaded once here (the workers load their own), so that a wrong name, missing
    weights or tiles that do not fit it end the run before the first slide.
    """
    model_path = None if model is None else Path(model).resolve()
    if model_path is not None:
        tiles, encoder = _fit_to_model(model_path, tiles, encoder)
    encoder = replace(encoder, encoder=encoder.encoder or DEFAULT_ENCODER)
    spec = tiles.spec()
    if "embed" in stages:
        wanted = find_encoder(encoder)  # its tiles are checked before its weights are looked for
        spec = tiles.spec(wanted.default_tile_px)
        wanted.check_tiles(spec.tile_px, spec.mpp, allow_mismatch=encoder.allow_mismatch)
        loaded = load_encoder(encoder)
        encoder, contract = resolved(encoder, loaded), loaded.contract
        if model_path is not None:
            made_with = mil_models.made_with(contract, spec)
            load_model(model_path).check_contract(made_with, "these parameters")
    placeholder = SlideEntry("", "")
    return SlideJob(
        placeholder, output_folder(out), tuple(stages), tiles, spec, encoder, model_path
    )


def _fit_to_model(
    model_path: Path, tiles: TileOptions, encoder: EncoderOptions
) -> tuple[TileOptions, EncoderOptions]:
    """Return the options with what the model was trained on where the caller said nothing."""
    model = load_model(model_path)
    spec = model.tile_spec
    changes = {
        key: value
        for key, value in spec.items()
        if key in TileOptions.__dataclass_fields__
        and getattr(tiles, key) == getattr(TileOptions(), key)
    }
    if encoder.encoder is None:
        encoder = replace(encoder, encoder=str(model.card["encoder"]["name"]))
    card = model.card["encoder"]
    trained = {
        "batch_size": card["batch"],
        "engine": card["engine"],
        "precision": card["precision"],
    }
    left = {key: value for key, value in trained.items() if getattr(encoder, key) == "auto"}
    return replace(tiles, **changes), replace(encoder, **left)


def run_slides(
    command: str, inputs: Sequence[str], job: SlideJob, *, batch: BatchOptions
) -> RunResult:
    """Run `job`'s stages on every slide that `inputs` name."""
    entries = collect_slides(inputs, job.out / "stores")
    jobs = [replace(job, entry=entry) for entry in entries]
    return run_jobs(command, jobs, job.out, batch=batch, parameters=parameters_of(job, batch))


def run_stores(
    command: str,
    stores: str | Path,
    job: SlideJob,
    *,
    batch: BatchOptions,
    within: Path | None = None,
) -> RunResult:
    """Run `job`'s stages on every store of an earlier run, or on those with outlines `within`."""
    jobs = [
        replace(job, entry=SlideEntry(store.slide_id, store.slide_path, store.slide_mpp[0]))
        for store in iter_stores(stores)
    ]
    parameters = parameters_of(job, batch)
    if within is not None:
        outlines = outlines_of(within, [job.slide_id for job in jobs])
        jobs = [replace(j, within=outlines[j.slide_id]) for j in jobs if j.slide_id in outlines]
        parameters["within"] = str(within)
    return run_jobs(command, jobs, job.out, batch=batch, parameters=parameters)


def run_jobs(
    command: str,
    jobs: Sequence[SlideJob],
    out: Path,
    *,
    batch: BatchOptions,
    parameters: dict[str, Any],
) -> RunResult:
    """Run the jobs, keep the run table, and write ``run.json``."""
    started = time.time()
    try:
        table = RunTable(out / "run_table.csv")
        with create_reporter(batch.progress) as reporter:
            rows = run_batch(jobs, workers=batch.workers, table=table, reporter=reporter)
    except OSError as err:
        if err.errno not in NOT_WRITABLE:
            raise
        raise _output_error(out, err) from err
    failed = tuple(dict.fromkeys(row.slide_id for row in rows if row.status == "failed"))
    seconds = time.time() - started
    speed = EmbeddingSpeed.of(rows, seconds, min(batch.workers, len(jobs)))
    result = RunResult(out, len(jobs), failed, tuple(rows), speed)
    record = {
        "command": command,
        "version": __version__,
        "versions": package_versions(),
        "parameters": parameters,
        "slides": len(jobs),
        "failed": list(failed),
        "exit_code": result.exit_code,
        "started_unix": round(started, 3),
        "seconds": round(seconds, 3),
        "embedding": None if speed is None else asdict(speed),
    }
    write_json(out / "run.json", record)
    return result


def predict_stores(
    stores: str | Path,
    model: str | Path,
    out: str | Path | None = None,
    *,
    within: Path | None = None,
    batch: BatchOptions = BatchOptions(progress="none"),
) -> RunResult:
    """Score every store of an earlier run and write ``predictions.csv`` to `out` (or beside them).

    Slides are not opened; a store whose embeddings do not fit the model is a failed row.

    Parameters
    ----------
    within
        Outlines of a slide, or a folder of them: only these slides are scored, each by its tiles
        inside, into ``predictions_within.csv``.
    """
    root = root_of(stores)
    job = replace(_stored_job(root, ["predict"]), model=_checked_model(model))
    result = run_stores("predict", root, job, batch=batch, within=within)
    folder = root if out is None else output_folder(out, stores=False)
    _write_scores(folder, result, _open_stores(result), job.model, within=within)
    return result


def draw_stores(
    stores: str | Path,
    model: str | Path | None = None,
    *,
    batch: BatchOptions = BatchOptions(progress="none"),
) -> RunResult:
    """Draw every store of an earlier run: heatmaps with a model, tissue without."""
    root = root_of(stores)
    job = _stored_job(root, ["predict", "heatmap"] if model else ["heatmap"])
    job = replace(job, model=None if model is None else _checked_model(model))
    return run_stores("heatmap", root, job, batch=batch)


def write_outputs(
    result: RunResult,
    job: SlideJob,
    *,
    batch: BatchOptions,
    notes: Sequence[str] = (),
) -> None:
    """Write ``predictions.csv`` (with a model) and ``report.html`` for the slides of a run."""
    from wsi_pipeline.page import write_page

    stores = _open_stores(result)
    write_page(
        result.out,
        result.rows,
        stores=stores,
        predictions=_write_scores(result.out, result, stores, job.model),
        parameters=parameters_of(job, batch),
        model=None if job.model is None else load_model(job.model),
        out_of_fold=None if job.model is None else out_of_fold_scores(job.model),
        notes=notes,
    )


def out_of_fold_scores(model: Path) -> dict[str, float]:
    """Return the positive class's out-of-fold score of each training slide that has one.

    Calibrated, as the scores beside which it stands.
    """
    from mil_models.checkpoint import read_predictions

    loaded = load_model(model)
    columns, place = loaded.columns.values(), list(loaded.columns).index(loaded.positive)
    rows = [row for row in read_predictions(model) if all(row[c] for c in columns)]
    scores = np.array([[float(row[c]) for c in columns] for row in rows])
    if not len(rows):
        return {}
    calibrated = loaded.calibrated(scores)[:, place].tolist()
    return dict(zip((row["slide_id"] for row in rows), calibrated, strict=True))


def _write_scores(
    folder: Path,
    result: RunResult,
    stores: Mapping[str, SlideStore],
    model: Path | None,
    *,
    within: Path | None = None,
) -> dict[str, Prediction | None]:
    """Write ``predictions.csv`` if there is a model; return what this run had it say of slides."""
    if model is None:
        return {}
    loaded = load_model(model)
    done = {row.slide_id for row in result.rows if (row.stage, row.status) == ("predict", "done")}
    outlines = {} if within is None else outlines_of(within, stores)
    predictions = {
        i: find_prediction(store, loaded.model_id, part=_part_hash(store, outlines.get(i)))
        for i, store in stores.items()
        if i in done
    }
    failures = {row.slide_id: row.reason for row in result.rows if row.status == "failed"}
    slides = [
        ScoredSlide(slide_id, stores.get(slide_id), predictions.get(slide_id),
                    failures.get(slide_id, ""))
        for slide_id in dict.fromkeys(row.slide_id for row in result.rows)
    ]  # fmt: skip
    name = "predictions.csv" if within is None else "predictions_within.csv"
    write_predictions(folder / name, loaded.columns, slides)
    return predictions


def _part_hash(store: SlideStore, outlines: Path | None) -> str | None:
    from mil_models.prediction import mask_hash

    return None if outlines is None else mask_hash(tiles_inside(store, outlines))


def _open_stores(result: RunResult) -> dict[str, SlideStore]:
    """Return the stores of a run's slides; those that were never made are left out."""
    found = {}
    for slide_id in dict.fromkeys(row.slide_id for row in result.rows):
        with contextlib.suppress(StoreError):
            found[slide_id] = open_store(result.out / "stores" / f"{slide_id}.zarr")
    return found


def _stored_job(root: Path, stages: Sequence[str]) -> SlideJob:
    """Return a job on stores that are there; their own attributes say what their tiles are."""
    options = TileOptions()
    return SlideJob(SlideEntry("", ""), output_folder(root), tuple(stages), options, options.spec())


def _checked_model(model: str | Path) -> Path:
    path = Path(model).resolve()
    load_model(path)
    return path


def output_folder(out: str | Path, *, stores: bool = True) -> Path:
    """Return the output folder (with its `stores`), made if needed and known to be writable.

    Raises
    ------
    OutputError
        It cannot be made or written.
    """
    path = Path(out)
    try:
        (path / "stores" if stores else path).mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as err:
        raise _output_error(path, err) from err
    return path.resolve()


def _output_error(path: Path, err: OSError) -> OutputError:
    if err.errno == errno.ENOSPC:
        return OutputError(f"{path}: {reason_of(err)}")
    return OutputError(f"{path}: cannot be written ({err.strerror or err}); choose another -o")


def root_of(stores: str | Path) -> Path:
    """Return the output folder that holds `stores`, given it or its ``stores`` folder."""
    path = Path(stores)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; pass the output folder of `wsi embed`")
    return path.parent if path.name == "stores" and not (path / "stores").is_dir() else path


def parameters_of(job: SlideJob, batch: BatchOptions) -> dict[str, Any]:
    """Return what a run was told, as JSON values."""
    return {
        "tiles": {
            **job.spec.to_dict(),
            "slide_mpp": job.tiles.slide_mpp,
            "reader": job.tiles.reader,
        },
        "encoder": asdict(job.encoder),
        "model": None if job.model is None else str(job.model),
        "workers": batch.workers,
        "stages": list(job.stages),
        **({} if job.segment is None else {"segment": job.segment.to_dict()}),
    }
