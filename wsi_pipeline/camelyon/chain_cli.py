"""`wsi camelyon`: from the challenges' folders to detections, scores and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsi_pipeline.camelyon.cli import AsJson, Flag, camelyon, say
from wsi_pipeline.camelyon.options import DetectOptions, TileFlags
from wsi_pipeline.errors import UsageError

__all__ = ["camelyon"]

Stores = Annotated[Path, Parameter(help="Output folder of `wsi embed`.")]
Out = Annotated[Path, Parameter(name=["--out", "-o"])]


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon check CAMELYON16 --manifest manifest.csv\n\n"
    "  wsi camelyon check CAMELYON17 --stages stages.csv --json\n\n"
    "  wsi camelyon check archive --labels cleaned.csv --manifest manifest.csv"
)
def check(
    root: Path,
    /,
    *,
    manifest: Path | None = None,
    reference: Path | None = None,
    stages: Path | None = None,
    labels: Path | None = None,
    json_: AsJson = False,
) -> int:
    """Look at a downloaded challenge: which slides are there, whole, labelled and outlined.

    Exit code 1 if a slide is missing or something is wrong.

    Parameters
    ----------
    root
        The folder, in whatever layout: slides are known by their names.
    manifest
        Write the usable slides there: path, slide_id, patient_id, label, split, site and more. `wsi
        embed` takes it as its slides, `wsi train` as its labels. Slides without a label go into
        MANIFEST_unlabelled.csv.
    reference
        CAMELYON16's labels of test slides, if not a reference.csv below the folder.
    stages
        CAMELYON17's classes and stages, if not a stages.csv below the folder.
    labels
        CSV of slide_id and class (negative, itc, micro, macro) in place of both, such as a cleaned
        data set's; slides that it does not name are left out.
    """
    from wsi_pipeline.camelyon.archive import check_archive, write_manifest

    reports = check_archive(root, reference=reference, stages=stages, labels=labels)
    counts = None if manifest is None else write_manifest(manifest, reports)
    if json_:
        print(json.dumps({report.challenge: report.to_dict() for report in reports}))
    else:
        for report in reports:
            there = report.published - len(report.missing)
            say(
                f"{report.challenge}: {there} of {report.published} slides, "
                f"{report.bytes / 1e9:.1f} GB, {report.masks} masks, "
                f"{report.annotations} files of outlines"
            )
            for finding in report.findings:
                name = f" {finding.slide}" if finding.slide else ""
                say(f"  {finding.kind}{name}: {finding.message}")
        if counts is not None:
            more = f", {counts[1]} without a label apart" if counts[1] else ""
            say(f"{counts[0]} slides in {manifest}{more}")
    return 0 if all(report.is_whole for report in reports) else 1


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon train --stores out --labels manifest.csv -o weak\n\n"
    "  wsi camelyon train --stores out --labels manifest.csv -o weak --head clam_sb --epochs 50\n\n"
    "  wsi camelyon train --stores out --labels manifest.csv --annotations lesion_annotations.zip "
    "-o strong"
)
def train(
    *,
    stores: Stores,
    labels: Path,
    out: Out,
    annotations: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    head: str = "additive",
    epochs: int | None = None,
    folds: int = 5,
    seed: int = 0,
    embeddings: str | None = None,
    allow_missing: Annotated[bool, Flag] = False,
    tiles: Annotated[
        TileFlags, Parameter(name="*", group="With --annotations: a classifier of tiles")
    ] = TileFlags(),
    json_: AsJson = False,
) -> int:
    """Train for lesions: weakly on slides' labels, or strongly on tiles' labels from outlines.

    Either model is a folder as `wsi train` makes it. The strong one draws tiles of every slide,
    then adds its worst false positives and goes on, as the winners of 2016 did.

    Parameters
    ----------
    labels
        CSV as `wsi camelyon check --manifest` writes it. Its column split is kept to; of slides
        whose column exhaustive is false no tile counts as normal.
    out
        Model folder to make.
    annotations
        Outlines, files named after their slides, or folders or zip files of them. Without them
        training is weak.
    head
        Of weak training: one that says something of tiles, see `wsi train`, whose other options
        are not repeated here.
    epochs
        Passes over the slides (weak, 100 if not given), or over the drawn tiles in each round
        (strong, 20).
    folds
        Cross-validation folds over patients; 0 trains one model on everything.
    seed
        Seed of every random choice.
    embeddings
        Name of the embeddings, where the stores hold several.
    allow_missing
        Go on without the labelled slides that have no store.
    """
    from wsi_pipeline.camelyon.training import train_strong, train_weak

    common: dict[str, Any] = {"folds": folds, "seed": seed, "embeddings": embeddings,
              "allow_missing": allow_missing, "quiet": json_}  # fmt: skip
    if annotations:
        if head not in ("additive", "tile"):
            raise UsageError(f"--head {head}: with --annotations the head is tile")
        metrics = train_strong(stores, labels, annotations, out, tiles, epochs=epochs, **common)
    else:
        if tiles != TileFlags():
            raise UsageError("options of tiles go with --annotations")
        metrics = train_weak(stores, labels, out, head=head, epochs=epochs, **common)
    if json_:
        print(json.dumps(metrics))
    else:
        say(f"Model: {out}")
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon predict --stores out --model model -o predicted\n\n"
    "  wsi camelyon predict --stores out --model model -o maxima --method nms\n\n"
    "  wsi camelyon predict --stores out --model abmil -o by_attention --source attention"
)
def predict(
    *,
    stores: Stores,
    model: Path,
    out: Out,
    source: Literal["auto", "instances", "attention"] = "auto",
    all_heads: Annotated[bool, Flag] = False,
    options: Annotated[DetectOptions, Parameter(name="*", group="From map to detections")] = (
        DetectOptions()
    ),
) -> int:
    """Score slides and find lesions: maps, detections as CAMELYON16 wants them, scores, stages.

    Writes detections/SLIDE.csv (probability,x,y), maps/SLIDE.npz and scores.csv; of slides named
    as CAMELYON17's nodes also nodes.csv and submission.csv. A slide that a fold of the model
    tested is scored by that fold.

    Parameters
    ----------
    model
        Model folder of `wsi train` or `wsi camelyon train`, of two classes.
    source
        What a tile's score is: of instances (additive, clam, dsmil, tile, topk), or attention times
        the slide's score; auto takes instances where the head has some.
    all_heads
        All folds score every slide, those that were trained on it too.
    """
    from wsi_pipeline.camelyon.predictions import predict_archive

    found = predict_archive(
        stores, model, out, source=source, options=options, out_of_fold=not all_heads
    )
    say(
        f"{found.slides} slides scored, {found.detections} detections in {out}",
        *(f"  {name}: {reason}" for name, reason in found.failed.items()),
    )
    return (1 if found.slides else 3) if found.failed else 0
