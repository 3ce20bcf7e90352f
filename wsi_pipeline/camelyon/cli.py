"""`wsi camelyon`: the challenges' official figures; its other commands are in `chain_cli`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wsi_pipeline.cli_flags import AsJson, Flag
from wsi_pipeline.errors import UsageError

Seed = Annotated[int, Parameter(help="Seed of the draws for intervals.")]

camelyon = App(
    name="camelyon",
    help="CAMELYON16 and CAMELYON17: from the folders as downloaded to the official figures.",
    help_epilogue="The whole way:\n\n"
    "  wsi camelyon check CAMELYON16 --manifest manifest.csv\n\n"
    "  wsi embed manifest.csv -o out\n\n"
    "  wsi camelyon train --stores out --labels manifest.csv --annotations ANNOTATIONS -o model\n\n"
    "  wsi camelyon predict --stores out --model model -o predicted\n\n"
    "  wsi camelyon evaluate predicted --manifest manifest.csv --split test --masks MASKS\n\n"
    "  wsi camelyon report predicted --stores out --masks MASKS",
    version_flags=[],
)


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon labels tumor_001.xml tumor_002.xml -o labelled --masks\n\n"
    "  wsi camelyon labels annotations -o labelled --stores out\n\n"
    "  wsi camelyon labels annotations -o labelled --stores out --masks --mask-format tiff"
)
def labels(
    annotations: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    stores: Path | None = None,
    tile_px: int = 512,
    masks: Annotated[bool, Flag] = False,
    mask_format: Literal["png", "tiff", "ome-zarr"] = "png",
) -> int:
    """Label tiles by the share of them that is annotated as tumour.

    Writes labels/SLIDE.csv: x0, y0 (level-0 pixels) and tumour_fraction, exact.

    Parameters
    ----------
    annotations
        Files named after their slides, or folders or zip files of them: ASAP's .xml, QuPath's
        .geojson, .json.
    out
        Output folder.
    stores
        Output folder of `wsi tile` or `wsi embed`, whose tiles are labelled; without it, a grid
        over the outlines and 10 % around.
    tile_px
        Edge of the tiles of that grid, level-0 pixels.
    masks
        Also write masks/SLIDE.png at level 5: the slide's with --stores, else the grid's part.
    mask_format
        png at level 5; or tiff, ome-zarr: tiled pyramids from level 0 on.
    """
    from wsi_pipeline.camelyon.files import LABELS
    from wsi_pipeline.camelyon.labels import label_tiles, unpacked_annotations

    with unpacked_annotations(annotations) as files:
        written = label_tiles(
            files, out, stores=stores, tile_px=tile_px, masks=masks, mask_format=mask_format
        )
    say(f"{len(written)} slides labelled in {out / LABELS}")
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon froc --detections detections --masks masks\n\n"
    "  wsi camelyon froc --detections detections --masks masks --reference reference.csv --json\n\n"
    "  wsi camelyon froc --detections detections --masks masks --picture froc.png --corrected"
)
def froc(
    *,
    detections: Path,
    masks: Path,
    reference: Path | None = None,
    corrected: Annotated[bool, Flag] = False,
    tumour_value: int | None = None,
    exclude: Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)] = None,
    allow_missing: Annotated[bool, Flag] = False,
    picture: Path | None = None,
    seed: Seed = 0,
    json_: AsJson = False,
) -> int:
    """Score detected lesions as CAMELYON16 does: FROC curve, score, interval over slides.

    Exactly what the challenge's program computes, its quirks included.

    Parameters
    ----------
    detections
        Folder of SLIDE.csv, without header: probability,x,y in level-0 pixels. A slide without a
        detection has an empty file.
    masks
        Folder of tumour masks, SLIDE.png or .tif (or SLIDE_mask, SLIDE_evaluation_mask): a PNG of
        level 5, 1-bit or 0 and 255, or a TIFF with a level 32 times smaller.
    reference
        CSV of slide and class (Tumor, Normal), as reference.csv of the challenge. Without it a
        slide without a mask is normal only if its name starts with "normal".
    corrected
        Without the program's quirks: every score is a threshold, in double precision; at equal
        rates the highest sensitivity counts; slides without a file count as without detections.
    tumour_value
        The value of tumour in the masks, e.g. 2 where they hold 0, 1 and 2.
    exclude
        Slides to leave out; test_114 is not annotated in full.
    allow_missing
        Go on where a slide has no detections file; the official figure is then over fewer slides.
    picture
        Write the curve as PNG.
    """
    from wsi_pipeline.camelyon.lesion_scores import score_lesions

    scores = score_lesions(
        detections, masks, reference=reference, tumour_value=tumour_value, corrected=corrected,
        exclude=exclude or (), allow_missing=allow_missing, seed=seed,
    )  # fmt: skip
    found = scores.to_dict()
    if picture is not None:
        import numpy as np

        from viewers.froc import draw_froc

        points = np.array([(float(k), v) for k, v in found["sensitivity_at_fp"].items()])
        title = f"FROC {with_interval(found, 'froc_score')}, {len(scores.slides)} slides"
        draw_froc(picture, scores.curve.rates, scores.curve.sensitivities, points, title=title)
    if json_:
        print(json.dumps(found))
        return 0
    table = Table("false positives per slide", "sensitivity", box=None)
    for rate, sensitivity in found["sensitivity_at_fp"].items():
        table.add_row(rate, f"{sensitivity:.4f}")
    console = Console()
    console.print(table)
    hits = scores.slides.values()
    there = sum(h.lesions for h in hits)
    say(
        f"FROC score ({found['variant']}): {with_interval(found, 'froc_score')}",
        f"{len(hits)} slides, {sum(h.hits for h in hits)} of {there} lesions "
        f"found, {sum(len(h.itc) for h in hits)} groups of isolated tumour cells not counted",
        *([f"no file of detections: {', '.join(found['missing'])}"] if found["missing"] else []),
    )
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon auc scores.csv reference.csv\n\n"
    "  wsi camelyon auc scores.csv reference.csv --json\n\n"
    "  wsi camelyon auc reference.csv --stores out"
)
def auc(
    table: Path,
    reference: Path | None = None,
    /,
    *,
    stores: Path | None = None,
    prediction: str | None = None,
    allow_missing: Annotated[bool, Flag] = False,
    seed: Seed = 0,
    json_: AsJson = False,
) -> int:
    """Score slides as CAMELYON16 does: AUROC, with intervals over slides.

    Parameters
    ----------
    table
        CSV of two columns, slide and score; or with columns slide (slide_id) and score. With
        --stores there is none: the reference alone.
    reference
        CSV of slide and class (Tumor, Normal), as reference.csv of the challenge.
    stores
        Output folder of `wsi predict` or `wsi run`, whose stored scores are taken.
    prediction
        Name of the scores, where the stores hold several models'.
    allow_missing
        Leave out the slides of the reference without a score.
    """
    from wsi_pipeline.camelyon.slide_scores import score_slides, stored_scores

    if (reference is None) != (stores is not None):
        raise UsageError("give scores.csv and reference.csv, or reference.csv and --stores")
    if stores is not None:
        held, seen = stored_scores(stores, prediction)
        found = score_slides(held, table, allow_missing=allow_missing, seed=seed)
        found["seen_in_training"] = seen
    else:
        found = score_slides(table, reference, allow_missing=allow_missing, seed=seed)  # type: ignore[arg-type]
    if json_:
        print(json.dumps(found))
        return 0
    say(
        f"AUROC: {with_interval(found, 'auroc')}",
        f"{found['slides']} slides, {found['tumour']} with tumour",
        *([f"left out, a duplicate: {', '.join(found['left_out'])}"] if found["left_out"] else []),
        *([f"without a score: {', '.join(found['missing'])}"] if found["missing"] else []),
        *(
            [f"the model was trained on {len(found['seen_in_training'])} of them"]
            if found.get("seen_in_training")
            else []
        ),
    )
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon stage nodes.csv\n\n"
    "  wsi camelyon stage nodes.csv -o submission.csv"
)
def stage(
    nodes: Path,
    /,
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    json_: AsJson = False,
) -> int:
    """Give CAMELYON17's pN stage of each patient from the classes of the nodes, as a submission.

    Prints a CSV of patient and stage: patient_000.zip,pN1 and then the patient's nodes.

    Parameters
    ----------
    nodes
        CSV with patient (patient_000_node_0.tif) and stage (negative, itc, micro, macro), or
        diameter_mm of the largest metastasis (and cells, their number) in place of stage. Five
        nodes a patient; rows of patients (.zip) are not looked at.
    out
        Write the CSV there and print nothing.
    """
    from tiling.atomic import replacing
    from wsi_pipeline.camelyon.stages import stage_patients

    patients = stage_patients(nodes)
    rows = [("patient", "stage"), *(row for p in patients for row in p.rows)]
    if out is not None:
        with replacing(out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    if json_:
        print(json.dumps({p.patient: p.stage for p in patients}))
    elif out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
    return 0


@camelyon.command(
    help_epilogue="Examples:\n\n"
    "  wsi camelyon kappa stages.csv submission.csv\n\n"
    "  wsi camelyon kappa stages.csv submission.csv --json"
)
def kappa(truth: Path, predicted: Path, /, *, seed: Seed = 0, json_: AsJson = False) -> int:
    """Score stages as CAMELYON17 does: quadratically weighted kappa, and that of each centre.

    Parameters
    ----------
    truth
        CSV with patient and stage, as stages.csv of the challenge; column center if wanted.
    predicted
        CSV with patient and stage. Only rows of patients (.zip) are scored.
    """
    from wsi_pipeline.camelyon.stages import score_stages

    found = score_stages(truth, predicted, seed=seed)
    if json_:
        print(json.dumps(found))
        return 0
    say(
        f"kappa: {with_interval(found, 'kappa')}",
        f"{found['patients']} patients, {found['accuracy']:.1%} with the right stage",
        *(
            f"center {name}: {with_interval(one, 'kappa')}, {one['patients']} patients"
            for name, one in found["centers"].items()
        ),
    )
    return 0


def with_interval(found: dict[str, Any], name: str) -> str:
    """Return a figure with its interval, as people read it."""
    value, low, high = (found[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "not defined: one stage only"
    return f"{value:.4f}" + ("" if low is None else f" (95 % {low:.4f} to {high:.4f})")


def say(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        Console().print(escape(line), highlight=False, soft_wrap=True)
