"""The command line: one console script, `wsi`."""

from __future__ import annotations

import json
import logging
import sys
import tomllib
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter
from cyclopts.config import Toml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mil_models.options import SplitOptions, TaskName, TaskOptions, TrainOptions
from tiling.errors import WSIError
from tiling.urls import redacted
from wsi_pipeline import __version__
from wsi_pipeline.camelyon.chain_cli import camelyon
from wsi_pipeline.config import (
    BatchOptions,
    EncoderOptions,
    ReaderName,
    TileOptions,
    check_slide_mpp,
)
from wsi_pipeline.errors import UsageError, reason_of
from wsi_pipeline.progress import quiet_libraries
from wsi_pipeline.segmentation.cli import segment

if TYPE_CHECKING:
    from tiling.comparison import Comparison

EXIT_USAGE, EXIT_NOTHING_DONE, EXIT_INTERRUPTED = 2, 3, 130

SLIDES_HELP = "Files, folders, globs, URLs, or a manifest CSV (path; if wanted slide_id, mpp)."
OUT_HELP = "Output folder; what is there already is kept."
Slides = Annotated[list[str], Parameter(negative="", help=SLIDES_HELP)]
Out = Annotated[Path, Parameter(name=["--out", "-o"], help=OUT_HELP)]
SlideMpp = Annotated[
    float | None, Parameter(help="Pixel size at level 0 in µm, in place of what the slide states.")
]
Stores = Annotated[Path, Parameter(help="Output folder of `wsi embed` or `wsi run`.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Flag = Parameter(negative="")
TaskFlags = Annotated[
    TaskOptions,
    Parameter(name="*", group="What is asked of a slide", negative="", consume_multiple=True),
]
SplitFlags = Annotated[
    SplitOptions, Parameter(name="*", group="Who is trained on and tested", negative="")
]
TrainFlags = Annotated[TrainOptions, Parameter(name="*", group="How it is trained", negative="")]

app = App(
    name="wsi",
    version=__version__,
    help="Whole-slide images to tiles, embeddings, attention-based MIL scores and heatmaps.\n\n"
    "Research use only; not a medical device.",
    help_epilogue="Start here:\n\n  wsi demo\n\n  wsi run slides/ -o out\n\n  wsi COMMAND --help",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False
app.command(camelyon)
app.command(segment)
app.meta.group_parameters = cyclopts.Group("For every command", sort_key=0)


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


@app.command(
    help_epilogue=_examples(
        "wsi info slide.svs",
        "wsi info slide.svs --json",
        "wsi info slide.svs --compare",
        "wsi info s3://bucket/slide.svs",
    )
)
def info(
    slide: str,
    /,
    *,
    reader: ReaderName = "auto",
    slide_mpp: SlideMpp = None,
    compare: Annotated[bool, Flag] = False,
    json_: AsJson = False,
) -> int:
    """Show a slide's size, levels and pixel size, and what is doubtful about them.

    Parameters
    ----------
    slide
        A slide file, a folder that is one (OME-Zarr, a DICOM series), or a URL.
    reader
        Which library opens it.
    compare
        Also read it with every reader that opens it, and say where their pixels differ.
    """
    from tiling.comparison import compare_readers
    from wsi_pipeline.info import slide_info

    check_slide_mpp(slide_mpp)
    found = slide_info(slide, reader=reader, mpp=slide_mpp)
    compared = compare_readers(slide) if compare else None
    if compared is not None:
        found["comparison"] = compared.to_dict()
    if json_:
        print(json.dumps(found))
        return 0
    table = Table(show_header=False, box=None)
    for key, value in found.items():
        if key == "comparison":
            continue
        if key == "levels":
            value = [f"{v['width']} x {v['height']} (1/{v['downsample']:.6g})" for v in value]
        elif key == "refused_by":
            value = [f"{name}: {reason}" for name, reason in value.items()]
        if isinstance(value, list):
            value = "\n".join(value) or "none"
        table.add_row(f"[bold]{key}[/]", "unknown" if value is None else escape(str(value)))
    Console().print(table)
    if compared is not None:
        _show_comparison(compared)
    return 0


def _show_comparison(compared: Comparison) -> None:
    table = Table(
        title=f"Grey levels, of 255, by which pixels differ from those of {compared.reference}",
        caption=f"{compared.places} places on tissue. Tiles: {compared.ratio} level-0 px per px; "
        "exact is averaged from full resolution, default may be shrunk while it is decoded.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("reader", "levels at their own scale", "exact tiles", "default tiles"):
        table.add_column(heading, overflow="fold")
    for report in compared.readers:
        if report.problem:
            table.add_row(report.reader, f"not opened: {escape(redacted(report.problem))}")
        elif report.reader == compared.reference:
            table.add_row(report.reader, "the reference", "the reference", str(report.default))
        else:
            exact, default = str(report.exact), str(report.default)
            table.add_row(report.reader, report.at_own_scale, exact, default)
    Console().print(table)


@app.command(
    help_epilogue=_examples(
        "wsi tile slide.svs -o out",
        "wsi tile slides/ -o out --tile-px 224 --mpp 0.5 --workers 4",
        "wsi tile manifest.csv -o out --save-tiles",
    )
)
def tile(
    slides: Slides,
    /,
    *,
    out: Out,
    tiles: TileOptions = TileOptions(),
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Find tissue, lay a grid of tiles over it, and make a store for each slide."""
    from wsi_pipeline.pipeline import plan, run_slides

    stages = ["tile", "save_tiles"] if tiles.save_tiles else ["tile"]
    return _summary(run_slides("tile", slides, plan(out, stages, tiles=tiles), batch=batch), batch)


@app.command(
    help_epilogue=_examples(
        "wsi embed slides/ -o out",
        "wsi embed slides/ -o out --encoder resnet50 --weights resnet50.safetensors",
        "wsi embed slides/ -o out --workers 2",
    )
)
def embed(
    slides: Slides,
    /,
    *,
    out: Out,
    tiles: TileOptions = TileOptions(),
    encoder: EncoderOptions = EncoderOptions(),
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Turn every tile into an embedding; tiles first where needed, goes on where it stopped."""
    from wsi_pipeline.pipeline import plan, run_slides

    stages = ["tile", "save_tiles", "embed"] if tiles.save_tiles else ["tile", "embed"]
    job = plan(out, stages, tiles=tiles, encoder=encoder)
    return _summary(run_slides("embed", slides, job, batch=batch), batch)


@app.command(
    help_epilogue=_examples(
        "wsi train --stores out --labels labels.csv -o model",
        "wsi train --stores out --labels isup.csv -o model --task ordinal --classes 0 1 2 3 4 5",
        "wsi train --stores out --labels outcome.csv -o model --task survival --bag patient",
        "wsi train --stores out --labels findings.csv -o model --task multilabel --uncertain ones",
        "wsi train --stores out --labels labels.csv -o model --task tasks.toml --seeds 3",
        "wsi train --stores out --labels noisy.csv -o model --loss gce --balance sampling",
        "wsi train --stores out --labels labels.csv -o model --head abmil --folds 0",
        "wsi train --stores out --labels labels.csv -o model --split-by site",
        "wsi train --stores out --labels labels.csv -o model --splits other_model/splits.csv",
    )
)
def train(
    *,
    stores: Stores,
    labels: Path,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    head: str = "abmil",
    task: str = "binary",
    folds: int = 5,
    seed: int = 0,
    embeddings: str | None = None,
    allow_missing: Annotated[bool, Flag] = False,
    head_arguments: dict[str, int | float | str] | None = None,
    asked: TaskFlags = TaskOptions(),
    parting: SplitFlags = SplitOptions(),
    options: TrainFlags = TrainOptions(),
    json_: AsJson = False,
) -> int:
    """Train a MIL head with patient-level cross-validation; goes on where it was stopped.

    Parameters
    ----------
    labels
        CSV with slide_id or path, the task's columns (label), and if wanted patient_id, split,
        site, and reader where several readers labelled a slide, a row each.
    out
        Model folder to make.
    head
        How a bag becomes a score: abmil (gated attention), abmil_plain, acmil, additive (tiles'
        contributions add up to the score), clam_sb, clam_mb, dsmil, dtfd, max, mean, tile (the
        slide is as its highest tile), topk, transmil, windowed (looks at where tiles lie).
    task
        What is predicted: binary, multiclass, multilabel, ordinal, regression, survival; or a TOML
        file with a table for each of several, e.g. [grade] and in it task = "ordinal".
    folds
        Cross-validation folds over patients; 0 trains one model on everything.
    seed
        Seed of every random choice.
    embeddings
        Name of the embeddings, where the stores hold several.
    allow_missing
        Go on without the labelled slides that have no store.
    head_arguments
        What the head takes beyond its size, e.g. --head-arguments.dropout 0.5.
    """
    from wsi_pipeline.training import is_first_process, train_model

    metrics = train_model(
        stores, labels, out, head=head, task=task, folds=folds, seed=seed,
        embeddings=embeddings, allow_missing=allow_missing, head_arguments=head_arguments,
        quiet=json_, **asdict(asked), **asdict(parting), **asdict(options),
    )  # fmt: skip
    if not is_first_process():
        return 0
    if json_:
        print(json.dumps(metrics))
    else:
        Console().print(f"Model: {out}", highlight=False)
    return 0


@app.command(
    help_epilogue=_examples(
        "wsi check-splits labels.csv",
        "wsi check-splits labels.csv --splits splits.csv --stores out",
        "wsi check-splits labels.csv --stores out --ignore site-confounded --json",
    )
)
def check_splits(
    labels: Path,
    /,
    *,
    splits: Path | None = None,
    stores: Path | None = None,
    embeddings: str | None = None,
    ignore: Annotated[list[str] | None, Parameter(negative="")] = None,
    json_: AsJson = False,
) -> int:
    """Look for leaks in a split, or in a table that is to be split; exit code 1 if there is one.

    Looks for one patient on two sides; one slide under two names; slides that show the same tissue
    (two thirds of the tiles of one have their nearest tile in the other at the same place); sites
    that tell the label (Cramér's V of at least 0.3, p below 0.05); parts without a class.

    Parameters
    ----------
    labels
        CSV with slide_id or path, and if wanted patient_id, label, site, split.
    splits
        CSV with slide_id, repeat, fold, part (or columns train, val, test) in place of the
        labels' column split.
    stores
        Output folder of `wsi embed`: finds one file under two names, and near-duplicates.
    embeddings
        Name of the embeddings, where the stores hold several.
    ignore
        Kinds of findings to leave out: same-patient, same-slide, near-duplicate, site-confounded,
        class-missing.
    """
    from wsi_pipeline.split_check import check_splits as check

    report = check(labels, splits=splits, stores=stores, embeddings=embeddings, ignore=ignore or ())
    if json_:
        print(json.dumps(report.to_dict()))
        return min(len(report.findings), 1)
    console = Console()
    for finding in report.findings:
        where = f" ({finding.where})" if finding.where else ""
        text = escape(f"{finding.message}{where}")
        console.print(f"[red]{finding.kind}:[/] {text}", highlight=False, soft_wrap=True)
    for kind, why in report.not_checked.items():
        console.print(f"[yellow]not checked: {kind}[/] ({escape(why)})", highlight=False)
    count = len(report.findings) or "no"
    console.print(
        f"{report.slides} slides, {report.folds} splits: {count} findings", highlight=False
    )
    return min(len(report.findings), 1)


@app.command(
    help_epilogue=_examples(
        "wsi evaluate model -o evaluation",
        "wsi evaluate model -o evaluation --compare other_model --by scanner",
        "wsi evaluate predictions.csv --labels labels.csv -o evaluation",
        "wsi evaluate test.csv --labels labels.csv --fit-on validation.csv -o evaluation",
        "wsi evaluate model -o evaluation --rule sensitivity --at-least 0.95 --json",
    )
)
def evaluate(
    source: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    labels: Path | None = None,
    compare: Path | None = None,
    fit_on: Path | None = None,
    task: TaskName | None = None,
    classes: Annotated[list[str] | None, Parameter(negative="")] = None,
    by: Annotated[list[str] | None, Parameter(negative="")] = None,
    rule: Literal["youden", "sensitivity", "specificity"] = "youden",
    at_least: float = 0.95,
    seed: int = 0,
    resamples: int = 1000,
    json_: AsJson = False,
) -> int:
    """Judge a model: figures with intervals, calibration, operating point, subgroups, comparison.

    Writes evaluation.json, tables as CSV, and evaluation.html with all charts in it.

    Parameters
    ----------
    source
        A model folder (its out-of-fold predictions are judged), or a CSV of predictions: slide_id
        and score_<class>, predicted, or risk and if wanted survival_<time>.
    out
        Folder for the results.
    labels
        CSV with what is true: slide_id or path; label, label_<name>, value, or time and event;
        patient_id; any column for --by.
    compare
        A second model folder or CSV, of the same slides.
    fit_on
        CSV of predictions of other slides, on which calibration and operating point are fitted;
        without it they are fitted fold by fold on the other folds.
    task
        In place of what the model or the columns say.
    classes
        The classes in their order, once per class; the last is the positive one of two.
    by
        Column by which subgroups are formed; site and scanner always, where there.
    rule
        How the operating point is chosen: youden (highest sum), or a sensitivity or specificity of
        at least --at-least.
    at_least
        See rule.
    seed
        Seed of all draws.
    resamples
        Draws of patients for the intervals, and permutations.
    """
    from mil_models.evaluation import EvaluationOptions
    from wsi_pipeline.errors import as_usage_error
    from wsi_pipeline.evaluation import evaluate as judge

    with as_usage_error():
        options = EvaluationOptions(rule, at_least, seed, resamples)
        found = judge(
            source, out, labels=labels, compare=compare, fit_on=fit_on, task=task,
            classes=classes or (), by=by or (), options=options,
        )  # fmt: skip
    if json_:
        print(json.dumps(found))
        return 0
    tasks = {"": found} if "metrics" in found else found
    for name, one in tasks.items():
        _show_figures(name, one["metrics"])
        page = out / name / "evaluation.html"
        Console().print(f"Page: {page}", highlight=False, soft_wrap=True)
    return 0


def _show_figures(task: str, metrics: dict[str, Any]) -> None:
    table = Table(task or "figure", "value", "95 % interval", box=None)
    for name, value in metrics.items():
        if name == "reasons" or name.endswith(("_low", "_high")):
            continue
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        text = f"{value:.4f}" if isinstance(value, float) else str("–" if value is None else value)
        table.add_row(escape(name), text, interval)
    console = Console()
    console.print(table)
    for name, why in metrics.get("reasons", {}).items():
        console.print(escape(f"{name}: {why}"), highlight=False)


@app.command(
    help_epilogue=_examples(
        "wsi predict --stores out --model model",
        "wsi predict --stores out --model model --patients labels.csv",
        "wsi predict --stores out --model model --within outlines/slide_1.geojson",
    )
)
def predict(
    *,
    stores: Stores,
    model: Path,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    patients: Path | None = None,
    within: Path | None = None,
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Score embedded slides; attention goes into the stores, scores into predictions.csv.

    Parameters
    ----------
    model
        Model folder made by `wsi train`.
    out
        Where predictions.csv goes; the output folder itself if not given.
    patients
        CSV with slide_id (or path) and patient_id: all slides of a patient are also scored as one
        bag, into patients.csv. For models trained with --bag patient.
    within
        Outlines drawn on a slide (QuPath's .geojson, ASAP's .xml) in a file named after it, or a
        folder of them: these slides are scored by the tiles inside alone, from the embeddings that
        are there, into predictions_within.csv. Outlines of the class Ignore are cut out.
    """
    from wsi_pipeline.models import load_model
    from wsi_pipeline.patients import predict_patients
    from wsi_pipeline.pipeline import predict_stores, root_of

    if within is not None and patients is not None:
        raise UsageError("--within scores parts of slides, --patients all slides: choose one")
    result = predict_stores(stores, model, out, within=within, batch=batch)
    if patients is None and load_model(model.resolve()).takes_patients:
        warnings.warn(f"{model} was trained on all slides of a patient at once; each slide is "
                      "scored alone. Pass --patients for patients", stacklevel=2)  # fmt: skip
    code = _summary(result, batch)
    if patients is not None:
        found, failed = predict_patients(stores, model.resolve(), patients, out or root_of(stores))
        if batch.progress == "auto":
            text = f"{found - failed} of {found} patients scored in patients.csv"
            Console(stderr=True).print(text, highlight=False)
        code = max(code, min(failed, 1))
    return code


@app.command(help_epilogue=_examples("wsi heatmap --stores out --model model"))
def heatmap(
    *, stores: Stores, model: Path | None = None, batch: BatchOptions = BatchOptions()
) -> int:
    """Draw the heatmaps of scored slides: OME-Zarr, PNG over the slide, GeoJSON for QuPath.

    Parameters
    ----------
    model
        Model folder; slides it has not scored yet are scored. Without it, the slide's only score
        is drawn, or tissue where there is none.
    """
    from wsi_pipeline.pipeline import draw_stores

    return _summary(draw_stores(stores, model, batch=batch), batch)


@app.command(
    help_epilogue=_examples(
        "wsi run slide.svs -o out",
        "wsi run slides/ -o out --model model --workers 2",
        "wsi run manifest.csv -o out --model model --progress json",
        "wsi run slides/ -o out --config wsi.toml",
    )
)
def run(
    slides: Slides,
    /,
    *,
    out: Out,
    model: Path | None = None,
    tiles: TileOptions = TileOptions(),
    encoder: EncoderOptions = EncoderOptions(),
    batch: BatchOptions = BatchOptions(),
    live: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Do all of it: tiles, embeddings, scores, heatmaps and one page about every slide.

    Parameters
    ----------
    model
        Model folder made by `wsi train`. Without one: tissue, embeddings and the page.
    live
        Also score what is embedded so far, every few seconds, so that a viewer shows the heatmap
        as it grows. The finished score is the same.
    """
    from wsi_pipeline.pipeline import run as run_all

    result = run_all(slides, out, model=model, tiles=tiles, encoder=encoder, batch=batch, live=live)
    if batch.progress == "auto":
        Console().print(f"Page: {result.out / 'report.html'}", highlight=False, soft_wrap=True)
    return _summary(result, batch)


@app.command(help_epilogue=_examples("wsi view slide.svs", "wsi view slide.svs --stores out"))
def view(slide: str, /, *, stores: Path | None = None, slide_mpp: SlideMpp = None) -> int:
    """Open a slide in napari, with its heatmap where a store has one.

    Parameters
    ----------
    slide
        A slide (file, folder or URL), or a slide store.
    stores
        Output folder of `wsi run` that holds the slide's store.
    """
    from wsi_pipeline.viewing import view_slide

    check_slide_mpp(slide_mpp)
    view_slide(slide, stores=stores, mpp=slide_mpp)
    return 0


@app.command(help_epilogue=_examples("wsi reviews out", "wsi reviews out --csv reviews.csv --json"))
def reviews(out: Path, /, *, csv: Path | None = None, json_: AsJson = False) -> int:
    """Show how far the readers of a run agree: Cohen's kappa, slide by slide and over all.

    Parameters
    ----------
    out
        Output folder of `wsi run` whose slides were reviewed in napari.
    csv
        Write every reader's last verdict on every region there.
    """
    from viewers.review.agreement import agreement_table, read_reviews, write_reviews
    from viewers.review.log import write_spared

    write_spared()  # what a full disk did not take then
    verdicts = read_reviews(out)
    if csv is not None:
        write_reviews(csv, verdicts)
    rows = agreement_table(verdicts)
    readers = sorted({verdict.reader for verdict in verdicts})
    if json_:
        print(json.dumps({"verdicts": len(verdicts), "readers": readers,
                          "agreement": [asdict(row) for row in rows]}))  # fmt: skip
        return 0
    table = Table("slide", "first reader", "second reader", "regions", "agreed", "kappa", box=None)
    for row in rows:
        kappa = "not defined" if row.kappa is None else f"{row.kappa:.3f}"
        cells = (row.slide_id, row.first, row.second, str(row.regions), str(row.agreed), kappa)
        table.add_row(*map(escape, cells))
    console = Console()
    if rows:
        console.print(table)
    slides = len({verdict.slide_id for verdict in verdicts})
    text = f"{len(verdicts)} verdicts on {slides} slides by {', '.join(readers)}"
    console.print(escape(text), highlight=False, soft_wrap=True)
    return 0


@app.command(
    help_epilogue=_examples(
        "wsi encoders", "wsi encoders virchow2", "wsi encoders my.toml", "wsi encoders --json"
    )
)
def encoders(name: str | None = None, /, *, json_: AsJson = False) -> int:
    """List the encoders: whether they can be used here, their licence, tiles and proof.

    Parameters
    ----------
    name
        Show one in full: an encoder, a TOML file that describes one, or any timm model.
    """
    from wsi_pipeline.encoder_list import describe, encoder_list, encoder_table

    if name is not None:
        found = describe(name)
        if json_:
            print(json.dumps(found))
            return 0
        table = Table(show_header=False, box=None)
        for key, value in found.items():
            table.add_row(f"[bold]{key}[/]", escape(str(value)))
        Console().print(table)
        return 0
    rows = encoder_list()
    if json_:
        print(json.dumps(rows))
        return 0
    Console().print(encoder_table(rows))
    return 0


@app.command(help_epilogue=_examples("wsi doctor", "wsi doctor --json"))
def doctor(*, json_: AsJson = False) -> int:
    """Show what is installed: readers, device, offline weights, viewer."""
    from wsi_pipeline.doctor import examine

    report = examine()
    if json_:
        print(json.dumps(report))
        return 0
    table = Table(show_header=False, box=None)
    for section, entries in report.items():
        table.add_row(f"[bold]{section}[/]", "")
        for key, value in entries.items():
            table.add_row(f"  {key}", escape(str(value)))
    Console().print(table)
    return 0


@app.command(help_epilogue=_examples("wsi demo", "wsi demo --slides 4 -o /tmp/demo --workers 2"))
def demo(
    *,
    out: Out = Path("demo"),
    slides: int = 12,
    batch: BatchOptions = BatchOptions(),
) -> int:
    """Build a small archive of slides, then tile, embed, train, score and draw it. No network.

    Parameters
    ----------
    out
        Output folder.
    slides
        Number of slides, half of them with a tumour; at least 4.
    """
    from wsi_pipeline.demo import run_demo

    console = Console(stderr=batch.progress == "json")
    return run_demo(out, slides=slides, batch=batch, console=console)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    debug: Annotated[bool, Flag] = False,
) -> Any:
    """Read the configuration file, then run the command.

    Parameters
    ----------
    config
        TOML file with a table per command, e.g. [run]; flags win over it.
    debug
        Show tracebacks and the log.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_PublicFormatter())
    handler.setLevel(logging.DEBUG if debug else logging.WARNING)
    logging.basicConfig(level=handler.level, handlers=[handler])
    if not debug:
        quiet_libraries()
    if config is not None:
        app.config = (_read_config(config),)
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


class _PublicFormatter(logging.Formatter):
    """Log lines without the credentials that URLs in them may carry."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    tokens = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    sys.excepthook = _show_traceback
    sys.exit(run_tokens(tokens))


def run_tokens(tokens: list[str]) -> int:
    """Run the command line in this process and return its exit code."""
    app.config = ()
    try:
        code = app.meta(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to go on")
        return EXIT_INTERRUPTED
    except cyclopts.CycloptsError as err:
        _complain(f"{err} (wsi COMMAND --help shows what is allowed)")
        return EXIT_USAGE
    except (WSIError, OSError) as err:
        if "--debug" in tokens:
            raise
        _complain(reason_of(err))
        return EXIT_USAGE if is_usage(err) else EXIT_NOTHING_DONE


def is_usage(err: Exception) -> bool:
    """Whether `err` is about what was asked for, not about slides or the machine."""
    names = {"UsageError", "LabelTableError", "EncoderError", "ModelError", "AnnotationError"}
    return any(kind.__name__ in names for kind in type(err).__mro__)


def _read_config(path: Path) -> Toml:
    """Return the configuration as cyclopts reads it, every table and key in it known.

    cyclopts itself looks at the table of the command that runs, and at no other.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise UsageError(f"{path}: {err}") from err
    _check_tables(path, tables, app)
    return Toml(path, must_exist=True)


def _check_tables(path: Path, tables: dict[str, Any], group: App, prefix: str = "") -> None:
    commands = [name for name in group if not name.startswith("-")]
    for name, table in tables.items():
        if name not in commands or not isinstance(table, dict):
            raise UsageError(f"{path}: [{prefix}{name}] is no command; use {', '.join(commands)}")
        if group[name].default_command is None:  # a group of commands, [camelyon.froc]
            _check_tables(path, table, group[name], f"{prefix}{name}.")
            continue
        options = _options_of(name, group)
        unknown = [key for key in table if key.replace("_", "-") not in options]
        if unknown:
            raise UsageError(
                f"{path}: [{prefix}{name}] has no option {unknown[0]!r}; use {', '.join(options)}"
            )


def _options_of(command: str, group: App = app) -> list[str]:
    """Return the long names of a command's options, without dashes."""
    arguments = group[command].assemble_argument_collection()
    names = [name for argument in arguments for name in argument.names]
    return [name[2:] for name in names if name.startswith("--")]


def _summary(result: Any, batch: BatchOptions) -> int:
    code: int = result.exit_code
    if batch.progress == "auto":
        done = result.slides - len(result.failed)
        text = f"{done} of {result.slides} slides done in {result.out}"
        if result.bad_tiles:
            text += f"; {result.bad_tiles} tiles could not be read"
        if result.failed:
            text += f"; {len(result.failed)} failed, reasons in {result.out / 'run_table.csv'}"
        if result.embedding is not None:
            text += f"\n{result.embedding}"
        Console(stderr=True).print(text, highlight=False, soft_wrap=True)
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as people read it, without the place in the code."""
    console = Console(stderr=True)
    console.print(f"[yellow]warning:[/] {escape(redacted(str(message)))}", highlight=False)


def _show_traceback(kind: type[BaseException], err: BaseException, trace: Any) -> None:
    """Show what `--debug` asks for; libraries put whole URLs, signatures included, in messages."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, err, trace))))


def _complain(message: str) -> None:
    text = escape(redacted(message))
    Console(stderr=True).print(f"[red]wsi:[/] {text}", highlight=False, soft_wrap=True)
