"""`wsi segment`: train, predict and evaluate segmentation of whole slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mil_models.segmentation.options import NetworkOptions, SegmentationOptions
from wsi_pipeline.cli_flags import AsJson, Flag, SlideMpp, Slides
from wsi_pipeline.config import BatchOptions, ReaderName, TileOptions, check_slide_mpp
from wsi_pipeline.segmentation.options import EvaluateOptions, PredictOptions, TruthOptions

Annotations = Annotated[
    list[Path],
    Parameter(
        negative="",
        consume_multiple=True,
        help="Outlines (ASAP's .xml, .geojson, .json) or masks (.png, .tif, .zarr) named after "
        "their slides, or folders of them.",
    ),
]
NetworkFlags = Annotated[NetworkOptions, Parameter(name="*", group="The network", negative="")]
TrainFlags = Annotated[SegmentationOptions, Parameter(name="*", group="How it is trained")]
TruthFlags = Annotated[TruthOptions, Parameter(name="*", group="What is annotated", negative="")]
EvaluateFlags = Annotated[EvaluateOptions, Parameter(name="*", group="How they are judged")]
PredictFlags = Annotated[PredictOptions, Parameter(name="*", group="How slides are segmented")]

segment = App(
    name="segment",
    help="Segment whole slides with a U-Net that is trained on what is annotated.",
    help_epilogue="Examples:\n\n  wsi segment train --help",
    version_flags=[],
)


@segment.command(
    help_epilogue="Examples:\n\n"
    "  wsi segment train slides --annotations xml -o unet --normal 'normal_*'\n\n"
    "  wsi segment train fields --annotations masks -o glands --mpp 0.62 --table patients.csv\n\n"
    "  wsi segment train slides --annotations geojson -o unet --inside Gland --outside Stroma"
)
def train(
    slides: Slides,
    /,
    *,
    annotations: Annotations,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    table: Path | None = None,
    validation: float = 0.2,
    weights: Path | None = None,
    random_weights: Annotated[bool, Flag] = False,
    seed: int = 0,
    slide_mpp: SlideMpp = None,
    reader: ReaderName = "auto",
    truth: TruthFlags = TruthOptions(),
    network: NetworkFlags = NetworkOptions(),
    options: TrainFlags = SegmentationOptions(),
    json_: AsJson = False,
) -> int:
    """Train a segmentation network on tiles drawn from annotated slides.

    Goes on where it was stopped.

    Parameters
    ----------
    out
        Model folder to make.
    table
        CSV with slide_id, and if wanted patient_id and split (train, val, test).
    validation
        Without a column split: share of the patients, or slides, by which every epoch is judged.
    weights
        Local weights of the encoder in place of the published ones.
    random_weights
        Start from random weights.
    seed
        Seed of every random choice.
    reader
        Which library opens the slides.
    """
    from wsi_pipeline.segmentation.training import train_on_slides

    check_slide_mpp(slide_mpp)
    card = train_on_slides(
        slides, annotations, out, network=network, options=options, truth=truth, table=table,
        validation=validation, weights=weights, random_weights=random_weights,
        slide_mpp=slide_mpp, reader=reader, seed=seed, quiet=json_,
    )  # fmt: skip
    if json_:
        print(json.dumps(card["metrics"]))
        return 0
    dice = card["metrics"]["validation_dice"]
    judged = "" if dice is None else f", Dice {dice:.4f} on validation tiles"
    text = f"Model: {out} (epoch {card['metrics']['epoch']}{judged})"
    Console().print(text, highlight=False, soft_wrap=True)
    return 0


@segment.command(
    help_epilogue="Examples:\n\n"
    "  wsi segment predict slides -o out --model unet\n\n"
    "  wsi segment predict slide.svs -o out --model unet --threshold 0.7 --min-area-um2 10000\n\n"
    "  wsi segment predict slides -o out --model glands --no-merge --group Gland --workers 2"
)
def predict(
    slides: Slides,
    /,
    *,
    model: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    slide_mpp: SlideMpp = None,
    reader: ReaderName = "auto",
    options: PredictFlags = PredictOptions(),
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Segment slides: probability maps, outlines for QuPath, measures and pictures.

    Overlapping windows on tissue, blended, strip by strip into each slide's store; goes on where
    it was stopped. Writes segmentation.csv and lesions.csv, and a folder segmentations.

    Parameters
    ----------
    model
        Model folder made by `wsi segment train`.
    out
        Output folder; what is there already is kept.
    reader
        Which library opens the slides.
    """
    from wsi_pipeline.segmentation.prediction import predict_slides

    tiles = TileOptions(slide_mpp=slide_mpp, reader=reader)
    result = predict_slides(slides, model, out, options=options, tiles=tiles, batch=batch)
    if batch.progress == "auto":
        text = f"{result.slides - len(result.failed)} of {result.slides} slides segmented in {out}"
        if result.bad_tiles:
            text += f"; {result.bad_tiles} windows could not be read"
        if result.failed:
            text += f"; {len(result.failed)} failed, reasons in {result.out / 'run_table.csv'}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return result.exit_code


@segment.command(
    help_epilogue="Examples:\n\n"
    "  wsi segment evaluate --stores out --annotations xml -o evaluation --normal 'normal_*'\n\n"
    "  wsi segment evaluate --stores out --annotations masks -o evaluation --tolerance-um 10 "
    "--no-merge --table patients.csv --pictures"
)
def evaluate(
    *,
    stores: Annotated[Path, Parameter(help="Output folder of `wsi segment predict`.")],
    annotations: Annotations,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    table: Path | None = None,
    pictures: Annotated[bool, Flag] = False,
    truth: TruthFlags = TruthOptions(),
    options: EvaluateFlags = EvaluateOptions(),
    json_: AsJson = False,
) -> int:
    """Judge segmentations: Dice, IoU and boundary F1 of every slide and lesion, with intervals.

    Writes segmentation.json, segmentation_scores.csv and lesion_scores.csv. A figure is empty
    where nothing is annotated and nothing was found.

    Parameters
    ----------
    out
        Folder for the results.
    table
        CSV with slide_id and patient_id: intervals draw patients, else slides.
    pictures
        Also draw every slide: what is annotated in green, what was found in blue.
    """
    from wsi_pipeline.segmentation.evaluation import FIGURES, evaluate_slides

    with Progress(console=Console(stderr=True, quiet=json_)) as progress:
        bar = progress.add_task("slides", total=None)
        found = evaluate_slides(
            stores, annotations, out, options=options, truth=truth, table=table,
            pictures=pictures,
            on_slide=lambda done, total: progress.update(bar, completed=done, total=total),
        )  # fmt: skip
    if json_:
        print(json.dumps(found))
        return 0
    lines = Table("over slides", "value", "95 % interval", box=None)
    for name in (*(f"mean_{figure}" for figure in FIGURES), "pooled_dice"):
        value, low, high = (found[f"{name}{end}"] for end in ("", "_low", "_high"))
        lines.add_row(
            name.replace("_", " "),
            "not defined" if value is None else f"{value:.4f}",
            "" if low is None else f"{low:.4f} to {high:.4f}",
        )
    console = Console()
    console.print(lines)
    text = (
        f"{found['count']} slides; {found['lesions_hit']} of {found['lesions']} lesions found in "
        f"part at least, {found['false_lesions']} found where none is"
    )
    console.print(text, highlight=False, soft_wrap=True)
    return 0
