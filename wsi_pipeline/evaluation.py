"""What `wsi evaluate` does: tables in; JSON, CSV and one page out."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tiling.atomic import replacing
from wsi_pipeline.errors import UsageError
from wsi_pipeline.models import require_models
from wsi_pipeline.results import package_versions, write_json

if TYPE_CHECKING:
    from mil_models.answers import Answers
    from mil_models.evaluation import EvaluationOptions

SUBGROUP_COLUMNS = ("site", "scanner")
"""Columns that are always looked at, where a table has them."""
COMPARED = ("first", "second", "difference", "low", "high", "p", "delong_p")
PREDICTED = ("predicted", "risk", "fold", "source")


@dataclass(frozen=True, slots=True, eq=False)
class PredictionTable:
    """Predictions with the truth beside them, as columns of text.

    Attributes
    ----------
    name
        What messages call it.
    task, classes
        As asked, as the model's card says, or as the columns tell.
    out_of_fold
        Whether folds that did not see the slides made the predictions.
    """

    name: str
    columns: dict[str, list[str]]
    task: str
    classes: tuple[str, ...]
    out_of_fold: bool
    card: Mapping[str, Any]


def evaluate(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    compare: Path | None = None,
    fit_on: Path | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    by: Sequence[str] = (),
    options: EvaluationOptions | None = None,
) -> dict[str, Any]:
    """Judge predictions; write ``evaluation.json``, tables and ``evaluation.html``.

    Parameters
    ----------
    source, compare
        A model folder, or a CSV of predictions; `compare` is a second model on the same slides.
    out
        Folder for what is written.
    labels
        CSV with what is true of the slides, and further columns; needed if `source` lacks them.
    fit_on
        CSV of predictions of other slides (a validation set) on which calibration and operating
        point are fitted.
    task, classes
        In place of what the card or the columns say.
    by
        Columns by which subgroups are formed; `site` and `scanner` always, where there.

    Returns
    -------
    What ``evaluation.json`` holds; of a model of several tasks a dict of these by task.

    Raises
    ------
    PredictionTableError
        A table is wrong or does not fit the labels.
    UsageError
        A flag is.
    """
    require_models()
    from mil_models.evaluation import EvaluationOptions

    options = options or EvaluationOptions()
    paths = {"source": source, "compare": compare, "fit_on": fit_on}
    names = _task_names(source)
    if not names:
        return _evaluate_task("", out, paths, labels, task, classes, by, options)
    return {
        name: _evaluate_task(name, out / name, paths, labels, None, (), by, options)
        for name in names
    }


def _evaluate_task(
    prefix: str,
    out: Path,
    paths: Mapping[str, Path | None],
    labels: Path | None,
    task: str | None,
    classes: Sequence[str],
    by: Sequence[str],
    options: EvaluationOptions,
) -> dict[str, Any]:
    from mil_models.answers import ClassAnswers, LabelAnswers
    from mil_models.evaluation import evaluate_answers
    from wsi_pipeline.evaluation_page import write_evaluation_page

    tables = {
        key: read_predictions(path, labels=None if key == "fit_on" and _has_truth(path, prefix)
                              else labels, task=task, classes=classes, prefix=prefix)
        for key, path in paths.items() if path is not None
    }  # fmt: skip
    table = tables["source"]
    answers, rows = _answers(table)
    patients = _patients(table, rows)
    groups = _groups(table, rows, by)
    folds = table.columns.get("fold")
    fitted_on: ClassAnswers | LabelAnswers | None = None
    if "fit_on" in tables:
        others = _answers(tables["fit_on"])[0]
        if not isinstance(others, ClassAnswers | LabelAnswers):
            raise UsageError("--fit-on is for tasks with classes")
        fitted_on = others
    found: dict[str, Any] = {
        "source": table.name,
        "task": table.task,
        "classes": list(table.classes),
        "slides": len(rows),
        "patients": len(set(patients)),
        "without_prediction": len(table.columns["slide_id"]) - len(rows),
        "out_of_fold": table.out_of_fold,
        **evaluate_answers(
            answers, patients, folds=None if folds is None else [folds[r] for r in rows],
            fitted_on=fitted_on, groups=groups, options=options,
        ),
    }  # fmt: skip
    if "compare" in tables:
        found["comparison"] = _comparison(table, tables["compare"], options)
    found["options"] = asdict(options)
    found["versions"] = package_versions()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", found)
    _write_tables(out, found)
    write_evaluation_page(out / "evaluation.html", found, answers)
    return found


def read_predictions(
    path: Path,
    *,
    labels: Path | None = None,
    task: str | None = None,
    classes: Sequence[str] = (),
    prefix: str = "",
) -> PredictionTable:
    """Read a model folder's out-of-fold predictions, or a CSV; join the labels if given.

    Raises
    ------
    PredictionTableError
        There is no slide, a slide stands twice or has no label, or what the table calls label is
        what the model said.
    """
    from mil_models.answers import task_of
    from mil_models.errors import PredictionTableError

    card: Mapping[str, Any] = {}
    file = path
    if path.is_dir():
        card = _card(path)
        file = path / "oof_predictions.csv"
    columns = _read_columns(file)
    if "slide_id" not in columns:
        raise PredictionTableError(
            f"{file.name}: no column slide_id; there are {', '.join(columns) or 'none'}"
        )
    _check_slides(file.name, columns["slide_id"])
    if labels is not None:
        columns = _joined(file.name, columns, labels)
    elif not prefix:
        _check_truth(file.name, columns)
    if prefix:
        columns = _own_columns(columns, prefix)
    asked = card.get("task", {})
    if isinstance(asked, Mapping) and prefix:
        asked = asked["tasks"][prefix]
    kind = task or (asked.get("kind") if isinstance(asked, Mapping) else asked) or task_of(columns)
    named = tuple(classes)
    if not named and not prefix and kind in ("binary", "multiclass", "ordinal", "multilabel"):
        named = tuple(card.get("classes", ()))
    found = [c.removeprefix("score_") for c in columns if c.startswith("score_")]
    return PredictionTable(
        path.name, columns, str(kind), named or tuple(found),
        "fold" in columns and any(columns["fold"]), card,
    )  # fmt: skip


def _answers(table: PredictionTable) -> tuple[Answers, list[int]]:
    from mil_models.answers import parse_answers
    from mil_models.errors import PredictionTableError

    classes = table.classes if table.task not in ("regression", "survival") else ()
    columns = table.columns
    if table.task == "multilabel" or classes:
        answers, rows = parse_answers(table.task, columns, classes=classes, name=table.name)
    else:
        answers, rows = parse_answers(table.task, columns, name=table.name)
    if not len(rows):
        raise PredictionTableError(
            f"{table.name}: no slide has a prediction (a model of --folds 0 tests none; score "
            "other slides by wsi predict and pass its predictions.csv with --labels)"
        )
    return answers, [int(row) for row in rows]


def _comparison(
    table: PredictionTable, other: PredictionTable, options: EvaluationOptions
) -> dict[str, Any]:
    """Compare on the slides that both tables predict."""
    import numpy as np

    from mil_models.comparison import compare
    from mil_models.errors import PredictionTableError

    first, rows = _answers(table)
    second, others = _answers(other)
    place = {other.columns["slide_id"][r]: i for i, r in enumerate(others)}
    shared = [(i, place[s]) for i, r in enumerate(rows)
              if (s := table.columns["slide_id"][r]) in place]  # fmt: skip
    if not shared:
        raise PredictionTableError(f"{table.name} and {other.name} have no slide in common")
    mine, theirs = (np.array(side) for side in zip(*shared, strict=True))
    patients = _patients(table, [rows[i] for i in mine])
    found = compare(
        first.take(mine), second.take(theirs), patients, seed=options.seed,
        resamples=options.resamples,
    )  # fmt: skip
    return {"with": other.name, "slides": len(shared), "figures": found,
            "in_one_only": len(rows) + len(others) - 2 * len(shared)}  # fmt: skip


def _patients(table: PredictionTable, rows: Sequence[int]) -> list[str]:
    names = table.columns.get("patient_id", table.columns["slide_id"])
    return [names[row] or table.columns["slide_id"][row] for row in rows]


def _groups(table: PredictionTable, rows: Sequence[int], by: Sequence[str]) -> dict[str, list[str]]:
    unknown = [name for name in by if name not in table.columns]
    if unknown:
        raise UsageError(f"--by {unknown[0]}: no such column; there are {', '.join(table.columns)}")
    names = [*by, *(c for c in SUBGROUP_COLUMNS if c in table.columns and c not in by)]
    return {name: [table.columns[name][row] for row in rows] for name in names}


def _card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise UsageError(f"{folder}: not a model folder (no readable card.json)") from err
    if not isinstance(card, dict):
        raise UsageError(f"{folder}: not a model folder (card.json is no card)")
    return card


def _task_names(source: Path) -> list[str]:
    """Return the names of the tasks of a model that has several."""
    if not source.is_dir():
        return []
    asked = _card(source).get("task", {})
    return list(asked.get("tasks", {})) if isinstance(asked, Mapping) else []


def _own_columns(columns: Mapping[str, list[str]], prefix: str) -> dict[str, list[str]]:
    """Return one task's columns without its prefix, and those that belong to no task."""
    start = f"{prefix}."
    own = {k.removeprefix(start): v for k, v in columns.items() if k.startswith(start)}
    shared = {k: v for k, v in columns.items() if "." not in k}
    rows = [
        i for i in range(len(shared["slide_id"]))
        if any(v[i] for k, v in own.items()
               if k == "label" or k.startswith("label_") or k in ("value", "time"))
    ]  # fmt: skip
    return {k: [v[i] for i in rows] for k, v in {**shared, **own}.items()}


def _read_columns(path: Path) -> dict[str, list[str]]:
    from mil_models.errors import PredictionTableError

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), [n for n in reader.fieldnames or [] if n]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise PredictionTableError(f"{path}: cannot be read as CSV: {err}") from err
    if not rows:
        raise PredictionTableError(f"{path.name}: no slide in it")
    return {name: [(row[name] or "").strip() for row in rows] for name in names}


def _check_slides(name: str, slides: Sequence[str]) -> None:
    from mil_models.errors import PredictionTableError

    seen: dict[str, int] = {}
    for line, slide in enumerate(slides, start=2):
        if not slide:
            raise PredictionTableError(f"{name}, line {line}: slide_id is empty")
        if slide in seen:
            raise PredictionTableError(
                f"{name}, line {line}: {slide} stands in line {seen[slide]} already"
            )
        seen[slide] = line


def _joined(name: str, columns: dict[str, list[str]], labels: Path) -> dict[str, list[str]]:
    """Return the predictions' columns with those of the labels in their place."""
    from mil_models.errors import PredictionTableError

    truth = _read_columns(labels)
    key = next((c for c in ("slide_id", "path") if c in truth), None)
    if key is None:
        raise PredictionTableError(f"{labels.name}: needs the column slide_id or path")
    index: dict[str, int] = {}
    for row, slide in enumerate(truth[key]):
        for known in {slide, PurePosixPath(slide).name, PurePosixPath(slide).stem}:
            index.setdefault(known, row)
    rows = []
    for line, slide in enumerate(columns["slide_id"], start=2):
        if slide not in index:
            raise PredictionTableError(f"{name}, line {line}: {slide} has no line in {labels.name}")
        rows.append(index[slide])
    kept = {k: v for k, v in columns.items() if k in PREDICTED or k == "slide_id"
            or k.startswith(("score_", "survival_"))}  # fmt: skip
    added = {
        k: [v[row] for row in rows] for k, v in truth.items() if k != "slide_id" and k not in kept
    }
    return {**kept, **added}


def _check_truth(name: str, columns: Mapping[str, list[str]]) -> None:
    """Refuse a table of `wsi predict`: its label is what the model said, not what is."""
    from mil_models.errors import PredictionTableError

    scores = [c for c in columns if c.startswith("score_")]
    if "fold" in columns or "label" not in columns or not scores:
        return
    if {"seen_in_training", "bad_tiles"} & set(columns):
        raise PredictionTableError(
            f"{name}: its column label is what the model said; pass what is true by --labels"
        )


def _has_truth(path: Path | None, prefix: str) -> bool:
    """Whether a table has its own truth beside its predictions."""
    if path is None or path.is_dir():
        return path is not None
    columns = _read_columns(path)
    return not {"seen_in_training", "bad_tiles"} & set(columns) and f"{prefix}label" in columns


def _write_tables(out: Path, found: Mapping[str, Any]) -> None:
    metrics = found["metrics"]
    _write_csv(out / "metrics.csv", ("figure", "value", "low", "high"), _metric_rows(metrics))
    rows = [
        (column, group, figures["slides"], figures["patients"], *row)
        for column, groups in found["subgroups"].items()
        for group, figures in groups.items()
        for row in _metric_rows(figures)
    ]
    if rows:
        columns = ("column", "group", "slides", "patients", "figure", "value", "low", "high")
        _write_csv(out / "subgroups.csv", columns, rows)
    if "comparison" in found:
        compared = found["comparison"]["figures"].items()
        values = [(figure, *(of.get(n) for n in COMPARED)) for figure, of in compared]
        _write_csv(out / "comparison.csv", ("figure", *COMPARED), values)
    calibrations = {name: of["calibration"] for name, of in found.get("labels", {}).items()}
    calibrations = calibrations or {"": found.get("calibration", {})}
    bins = [(label, when, *row) for label, calibration in calibrations.items()
            for when in ("before", "temperature", "isotonic")
            for row in (calibration.get(when) or {}).get("bins", ())]  # fmt: skip
    if bins:
        names = ("label", "calibration", "mean_score", "frequency", "slides")
        _write_csv(out / "reliability.csv", names, bins)


def _metric_rows(metrics: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (name, value, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
        for name, value in metrics.items()
        if name not in ("slides", "patients", "reasons") and not name.endswith(("_low", "_high"))
    ]


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(["" if v is None else f"{v:.6g}" if isinstance(v, float) else v
                             for v in row])  # fmt: skip
