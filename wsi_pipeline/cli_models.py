"""Commands about models: training, looking for leaks, judging answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mil_models.options import SplitOptions, TaskName, TaskOptions, TrainOptions
from wsi_pipeline.cli_flags import AsJson, Flag, Stores, examples

if TYPE_CHECKING:
    pass

TaskFlags = Annotated[
    TaskOptions,
    Parameter(name="*", group="What is asked of a slide", negative="", consume_multiple=True),
]
SplitFlags = Annotated[
    SplitOptions, Parameter(name="*", group="Who is trained on and tested", negative="")
]
TrainFlags = Annotated[TrainOptions, Parameter(name="*", group="How it is trained", negative="")]

models = App()


@models.command(
    help_epilogue=examples(
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


@models.command(
    help_epilogue=examples(
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


@models.command(
    help_epilogue=examples(
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
