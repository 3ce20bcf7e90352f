"""`wsi segment train`: slides and what is annotated on them to a segmentation model."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mil_models.segmentation.options import NetworkOptions, SegmentationOptions
from tiling.region_sampling import LabelledSlideTiles, TilePool, labelled_tiles
from tiling.slide import open_slide
from tiling.source import read_source
from tiling.tissue import tissue_mask
from wsi_pipeline.errors import UsageError, as_usage_error
from wsi_pipeline.manifest import SlideEntry, collect_slides
from wsi_pipeline.models import require_models
from wsi_pipeline.segmentation.options import TruthOptions
from wsi_pipeline.segmentation.scale import check_scale
from wsi_pipeline.segmentation.truth import find_truth, read_truth

PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class _Prepared:
    entry: SlideEntry
    source: str
    tiles: LabelledSlideTiles


def train_on_slides(
    slides: Sequence[str],
    annotations: Sequence[Path],
    out: Path,
    *,
    network: NetworkOptions,
    options: SegmentationOptions,
    truth: TruthOptions = TruthOptions(),
    table: Path | None = None,
    validation: float = 0.2,
    weights: Path | None = None,
    random_weights: bool = False,
    slide_mpp: float | None = None,
    reader: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a network on tiles of annotated slides, write the model to `out`, return its card.

    Parameters
    ----------
    slides
        Files, folders, globs, URLs or manifest CSVs.
    annotations
        Outlines or masks named after the slides, or folders of them.
    table
        CSV with slide_id, and if wanted patient_id and split (train, val, test): which slides are
        trained on and which ones judge every epoch; those of test are left out.
    validation
        Without a column split: share of the patients (slides, where none are named) to judge by,
        drawn by `seed`; 0 trains on all of them for all epochs.
    slide_mpp, reader
        Pixel size at level 0 in place of what the slides state; which library opens them.

    Raises
    ------
    UsageError, AnnotationError, SamplingError, CoarseSlideError
        A file is missing or wrong, or a slide has nothing to train on; nothing was trained.
    """
    require_models()
    from mil_models.checkpoint import check_new
    from mil_models.segmentation.checkpoint import load_segmentation
    from mil_models.segmentation.training import TrainingTiles, train_segmentation

    check_new(out)
    found = find_truth(annotations)
    entries = collect_slides(slides, out.parent / "no_stores")
    part_of = _parts(entries, table, validation, seed)
    entries = [entry for entry in entries if part_of[entry.slide_id] != "test"]
    with _progress(quiet) as progress:
        bar = progress.add_task("slides", total=len(entries), loss="")
        prepared = []
        for entry in entries:
            prepared.append(_prepare(entry, found, truth, network, slide_mpp, reader))
            progress.advance(bar)
        chosen = {
            part: [p for p in prepared if part_of[p.entry.slide_id] == part]
            for part in ("train", "val")
        }
        if not chosen["train"]:
            raise UsageError("no slide is left to train on; see --table and --validation")
        record = {
            "sources": sorted(p.source for p in prepared),
            "slides": {k: sorted(p.entry.slide_id for p in v) for k, v in chosen.items()},
            "inside": list(truth.inside),
            "outside": list(truth.outside),
        }
        judging = TilePool([p.tiles for p in chosen["val"]]) if chosen["val"] else None
        epochs = progress.add_task("training", total=options.epochs, loss="")

        def tell(epoch: int, total: int, figures: Mapping[str, Any]) -> None:
            dice, loss = figures["validation_dice"], figures["train_loss"]
            text = f"loss {loss:.4f}" + ("" if dice is None else f", validation Dice {dice:.4f}")
            progress.update(epochs, completed=epoch, total=total, loss=text)

        source = TrainingTiles(TilePool([p.tiles for p in chosen["train"]]), judging, record)
        with as_usage_error():
            train_segmentation(
                source, out, network=network, options=options, weights=weights,
                random_weights=random_weights, seed=seed, on_epoch=tell,
            )  # fmt: skip
    return load_segmentation(out).card


def _prepare(
    entry: SlideEntry,
    found: Mapping[str, Path],
    truth: TruthOptions,
    network: NetworkOptions,
    slide_mpp: float | None,
    reader: str,
) -> _Prepared:
    mpp = slide_mpp if entry.mpp is None else entry.mpp
    with open_slide(entry.path, reader=reader, mpp=mpp) as slide:
        check_scale(slide, network.mpp)
        tiles = labelled_tiles(
            slide, read_truth(entry, slide.size, found, truth), tissue_mask(slide),
            tile_px=network.tile_px, mpp=network.mpp,
        )  # fmt: skip
        return _Prepared(entry, read_source(slide.path).quick_hash[:16], tiles)


def _parts(
    entries: Sequence[SlideEntry], table: Path | None, validation: float, seed: int
) -> dict[str, str]:
    """Return the part (train, val, test) of every slide."""
    if not 0 <= validation < 1:
        raise UsageError(f"--validation {validation}: must be 0 or more, and less than 1")
    ids = [entry.slide_id for entry in entries]
    rows = {} if table is None else read_table(table)
    missing = [i for i in ids if table is not None and i not in rows]
    if missing:
        raise UsageError(f"{table}: no row for {', '.join(missing[:5])}")
    if rows and "split" in rows[ids[0]]:
        wrong = sorted({rows[i]["split"] for i in ids} - {*PARTS})
        if wrong:
            raise UsageError(f"{table}: split {wrong[0]!r} is none of {', '.join(PARTS)}")
        return {i: rows[i]["split"] for i in ids}
    patient = {i: (rows[i].get("patient_id") if rows else "") or i for i in ids}
    patients = sorted(set(patient.values()))
    count = round(validation * len(patients))
    if validation and len(patients) > 1:
        count = min(max(count, 1), len(patients) - 1)
    chosen = np.random.default_rng(seed).permutation(len(patients))[:count]
    judging = {patients[i] for i in chosen.tolist()}
    return {i: "val" if patient[i] in judging else "train" for i in ids}


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV by their slide_id.

    Raises
    ------
    UsageError
        It cannot be read, has no column slide_id, or a slide stands in two rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = set(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"{path}: cannot be read as CSV: {err}") from err
    if "slide_id" not in columns:
        raise UsageError(f"{path}: needs a column slide_id (and may have patient_id, split)")
    found = {row["slide_id"]: row for row in rows}
    if len(found) < len(rows):
        raise UsageError(f"{path}: a slide_id stands in two rows")
    return found


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(stderr=True, quiet=quiet),
    )
