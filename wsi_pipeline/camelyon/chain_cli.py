"""`wsi camelyon`: from the challenges' folders to detections, scores and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsi_pipeline.camelyon.cli import Seed, camelyon, say, with_interval
from wsi_pipeline.camelyon.options import DetectOptions, TileFlags
from wsi_pipeline.cli_flags import AsJson, Flag
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
    "-o strong\n\n"
    "  wsi camelyon train --maps predicted --labels manifest.csv -o forest"
)
def train(
    *,
    out: Out,
    stores: Annotated[Path | None, Parameter(help="Output folder of `wsi embed`.")] = None,
    labels: Path | None = None,
    maps: Path | None = None,
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
    then adds its worst false positives and goes on, as the winners of 2016 did. Their second step,
    a random forest on features of the maps, which scores slides, is trained with --maps.

    Parameters
    ----------
    maps
        Folder of `wsi camelyon predict`, or a table of heat-map features (slide, label, features):
        trains the forest, for `wsi camelyon predict --forest`.
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

    if maps is not None:
        if annotations or stores is not None:
            raise UsageError("--maps goes with neither --stores nor --annotations")
        from wsi_pipeline.camelyon.forest import train_forest

        figures = train_forest(maps, labels, out, folds=folds, seed=seed)
        if json_:
            print(json.dumps(figures))
        else:
            count = f"{figures['slides']} slides, {figures['tumour']} with tumour"
            say(
                f"cross-validated AUROC: {with_interval(figures, 'auroc')}, {count}",
                f"Model: {out}",
            )
        return 0
    if stores is None or labels is None:
        raise UsageError("training needs --stores and --labels")
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
    forest: Path | None = None,
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
    forest
        Folder of `wsi camelyon train --maps`: slides are scored by it; its training slides by the
        folds that had not seen them.
    """
    from wsi_pipeline.camelyon.predictions import predict_archive

    found = predict_archive(
        stores, model, out, source=source, options=options, out_of_fold=not all_heads, forest=forest
    )
    say(
        f"{found.slides} slides scored, {found.detections} detections in {out}",
        *(f"  {name}: {reason}" for name, reason in found.failed.items()),
    )
    return (1 if found.slides else 3) if found.failed else 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon evaluate predicted --reference reference.csv --masks masks\n\n"
    "  wsi camelyon evaluate predicted --manifest manifest.csv --split test --masks masks\n\n"
    "  wsi camelyon evaluate predicted --manifest manifest.csv --stages stages.csv --json"
)
def evaluate(
    predicted: Path,
    /,
    *,
    reference: Path | None = None,
    manifest: Path | None = None,
    split: str | None = None,
    masks: Path | None = None,
    stages: Path | None = None,
    tumour_value: int | None = None,
    exclude: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    allow_missing: Annotated[bool, Flag] = False,
    seed: Seed = 0,
    json_: AsJson = False,
) -> int:
    """Judge a folder of predictions: AUROC, FROC, kappa, each with interval and by centre.

    Writes figures.json into the folder, from which `wsi camelyon report` makes a page.

    Parameters
    ----------
    predicted
        Folder of `wsi camelyon predict`.
    reference
        CSV of slide and class (Tumor, Normal): its slides are judged.
    manifest
        Manifest of `wsi camelyon check`: the truth without a reference, and the centres.
    split
        Only slides of this split of the manifest.
    masks
        Folder of tumour masks, see `wsi camelyon froc`; without it lesions are not scored.
    stages
        CAMELYON17's stages.csv; without it patients are not scored.
    tumour_value
        The value of tumour in the masks.
    exclude
        Slides whose lesions are not scored, e.g. test_114.
    allow_missing
        Go on where slides of the truth were not predicted.
    """
    from wsi_pipeline.camelyon.evaluation import evaluate_predictions, unjudged

    found = evaluate_predictions(
        predicted, reference=reference, manifest=manifest, split=split, masks=masks, stages=stages,
        tumour_value=tumour_value, exclude=exclude or (), allow_missing=allow_missing, seed=seed,
    )  # fmt: skip
    if json_:
        print(json.dumps(found))
        return 0
    slides = found["slides"]
    say(f"AUROC: {with_interval(slides, 'auroc')}, {slides['slides']} slides")
    for name, one in found.get("lesions", {}).items():
        say(f"FROC score ({name}): {with_interval(one, 'froc_score')}")
    if "patients" in found:
        say(f"kappa: {with_interval(found['patients'], 'kappa')}")
    for name, one in found["centers"].items():
        froc_ = one.get("froc_score")
        parts = [
            f"{one['slides']} slides",
            "no AUROC" if one["auroc"] is None else f"AUROC {one['auroc']:.4f}",
            *([] if froc_ is None else [f"FROC score {froc_:.4f}"]),
        ]
        say(f"centre {name}: {', '.join(parts)}")
    say(*([unjudged(found)] if found["not_judged"] else []))
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon report predicted\n\n"
    "  wsi camelyon report predicted --stores out --masks masks --misses 10"
)
def report(
    predicted: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    stores: Path | None = None,
    masks: Path | None = None,
    misses: int = 6,
    tumour_value: int | None = None,
) -> int:
    """Write one page: our figures beside the published ones, every slide, the worst misses.

    Parameters
    ----------
    predicted
        Folder of `wsi camelyon predict` that `wsi camelyon evaluate` has judged.
    out
        Where; report.html in that folder if not given.
    stores
        Output folder with the slides' stores: for pictures of what was missed.
    masks
        Folder of tumour masks, for these pictures.
    misses
        How many missed lesions to show, and how many false alarms.
    tumour_value
        The value of tumour in the masks.
    """
    from wsi_pipeline.camelyon.report import write_camelyon_report

    path = write_camelyon_report(
        predicted, out=out, stores=stores, masks=masks, misses=misses, tumour_value=tumour_value
    )
    say(f"Page: {path}")
    return 0
