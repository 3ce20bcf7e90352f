"""`wsi demo`: a small archive, made, tiled, embedded, trained on, scored and drawn; no network."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tiling.samples import sample_id, sample_label, write_sample_slide
from wsi_pipeline.config import BatchOptions, EncoderOptions, TileOptions
from wsi_pipeline.errors import UsageError
from wsi_pipeline.models import require_models
from wsi_pipeline.pipeline import output_folder, plan, run_slides, write_outputs
from wsi_pipeline.training import train_model

FEWEST_SLIDES = 4
EPOCHS = 40
NOTE = (
    "The demo's slides are patchworks of a few CC0 fields, the same fields in every slide. Its "
    "figures show that the machinery works; they say nothing about medical performance."
)


def run_demo(out: Path, *, slides: int, batch: BatchOptions, console: Console) -> int:
    """Run everything on `slides` sample slides, half with a tumour, into `out`.

    What is there already is kept; return the exit code.

    Raises
    ------
    UsageError
        Fewer than four slides.
    """
    if slides < FEWEST_SLIDES:
        raise UsageError(f"--slides {slides}: cross-validation needs at least {FEWEST_SLIDES}")
    require_models()
    output_folder(out)
    archive, model = out / "slides", out / "model"
    steps: Iterable[int] = track(range(slides), "making slides", console=console)
    paths = [str(write_sample_slide(archive, index)) for index in steps]
    labels = _write_labels(out / "labels.csv", slides)

    console.print("Tiles and embeddings")
    tiles, encoder = TileOptions(overlap=128, min_tissue=0.5), EncoderOptions()
    job = plan(out, ["tile", "embed"], tiles=tiles, encoder=encoder)
    embedded = run_slides("embed", paths, job, batch=batch)
    if embedded.failed:
        return embedded.exit_code
    if not (model / "card.json").exists():
        console.print("Training, patients kept apart")
        train_model(out, labels, model, folds=min(5, slides // 2), epochs=EPOCHS)
    console.print("Scores and heatmaps")
    stages = ["tile", "embed", "predict", "heatmap"]
    job = plan(out, stages, tiles=tiles, encoder=encoder, model=model)
    result = run_slides("demo", paths, job, batch=batch)
    write_outputs(result, job, batch=batch, notes=[NOTE])
    console.print(f"\n{NOTE}\n", style="yellow", highlight=False)
    for what, where in (
        ("page     ", out / "report.html"),
        ("scores   ", out / "predictions.csv"),
        ("heatmaps ", out / "heatmaps"),
        ("model    ", model),
        ("napari   ", f"wsi view {paths[1]} --stores {out}"),
    ):
        console.print(f"{what} {where}", highlight=False, soft_wrap=True)
    return result.exit_code


def _write_labels(path: Path, slides: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide_id", "patient_id", "label"])
        for index in range(slides):
            writer.writerow([sample_id(index), f"patient_{index:02d}", sample_label(index)])
    return path
