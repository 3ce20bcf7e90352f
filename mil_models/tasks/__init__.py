"""What a slide is asked, by name; a new task is a file beside this and a line in `KINDS`."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from mil_models.errors import LabelTableError
from mil_models.losses import cross_entropy
from mil_models.options import TASK_NAMES, TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task
from mil_models.tasks.classes import Binary, Multiclass
from mil_models.tasks.multilabel import PREFIX, Multilabel
from mil_models.tasks.ordinal import Ordinal
from mil_models.tasks.regression import Regression
from mil_models.tasks.several import Several
from mil_models.tasks.survival import Cox, DiscreteSurvival
from tiling.nodes import Json

KINDS: dict[str, type[Task]] = {
    "binary": Binary,
    "multiclass": Multiclass,
    "multilabel": Multilabel,
    "ordinal": Ordinal,
    "regression": Regression,
    "survival": Cox,
    "several": Several,
}
COLUMNS = {"regression": ("value",), "survival": ("time", "event")}

__all__ = ["KINDS", "Task", "create_task", "cross_entropy", "needed_columns", "task_from_json"]


def create_task(
    name: str | Path, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions
) -> Task:
    """Return the task called `name`, or the several tasks that a TOML file names.

    The file has a table per task; `task` is its name, `weight` its share in the loss, and all else
    are fields of :class:`mil_models.options.TaskOptions`::

        [grade]
        task = "ordinal"            # in the column grade

        [outcome]
        task = "survival"
        columns = ["months", "died"]

    Parameters
    ----------
    answers
        The readings of each bag.
    columns
        All columns of the table.
    asked
        What is asked beyond the name; for a file: the defaults of every task in it.

    Raises
    ------
    LabelTableError
        The table lacks a column, or an answer is wrong; the message says which slide's.
    ValueError
        There is no such task, or it takes no such option.
    """
    if str(name) in TASK_NAMES:
        kind = kind_of(str(name), asked)
        wanted = needed_columns(str(name), columns, asked)
        return kind.from_table(answers, wanted, asked)
    return _several(Path(name), answers, columns, asked)


def kind_of(name: str, asked: TaskOptions) -> type[Task]:
    """Return the class of the task called `name`."""
    return DiscreteSurvival if (name, asked.survival) == ("survival", "discrete") else KINDS[name]


def needed_columns(
    name: str, columns: Sequence[str], asked: TaskOptions, *, within: str = ""
) -> tuple[str, ...]:
    """Return the columns that hold the answer to the task called `name`.

    `within`: the name it has among several, where columns are named after it.

    Raises
    ------
    LabelTableError
        The table lacks them.
    """
    if asked.columns:
        wanted = asked.columns
    elif name == "multilabel":
        prefix = f"{within}_" if within else PREFIX
        wanted = tuple(c for c in columns if c.startswith(prefix)) or (f"{prefix}…",)
    elif not within:
        wanted = COLUMNS.get(name, ("label",))
    else:
        own = COLUMNS.get(name, ())
        wanted = tuple(f"{within}_{column}" for column in own) if len(own) > 1 else (within,)
    missing = [column for column in wanted if column not in columns]
    if missing:
        raise LabelTableError(
            f"{within or name} needs the columns {', '.join(wanted)}; the table has "
            f"{', '.join(columns) or 'none'} (--columns names others)"
        )
    return tuple(wanted)


def task_from_json(settings: Json) -> Task:
    """Return the task that a model's card describes.

    Raises
    ------
    KeyError, TypeError
        It is none of this version.
    """
    kind = KINDS[settings["kind"]]
    if settings.get("survival") == "discrete":
        kind = DiscreteSurvival
    return kind.from_json(settings)


def _several(
    path: Path, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions
) -> Task:
    if path.suffix.lower() != ".toml":
        raise ValueError(f"task={str(path)!r}: choose from {', '.join(TASK_NAMES)}, or a TOML file")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise ValueError(f"{path}: {err}") from err
    makers: dict[str, Callable[[Sequence[Answer]], Task]] = {}
    shares, columns_of = {}, {}
    for name, table in tables.items():
        own = _options_of(path, name, table, asked)
        kind = table["task"]
        wanted = needed_columns(kind, columns, own, within=name)
        columns_of[name] = wanted
        shares[name] = float(table.get("weight", 1.0))
        makers[name] = partial(
            kind_of(kind, own).from_table, columns=wanted, asked=own, prefix=f"{name}_"
        )
    if not makers:
        raise ValueError(f"{path}: no task in it; write a table for each, e.g. [grade]")
    return Several.from_table(
        answers, columns, asked, tasks=makers, shares=shares, columns_of=columns_of
    )


def _options_of(path: Path, name: str, table: Any, asked: TaskOptions) -> TaskOptions:
    """Return one task's options, all known."""
    if not isinstance(table, dict) or table.get("task") not in TASK_NAMES:
        raise ValueError(f"{path}: [{name}] needs task = one of {', '.join(TASK_NAMES)}")
    if "." in name:
        raise ValueError(f"{path}: [{name!r}]: a task's name has no dot")
    known = [field.name for field in fields(TaskOptions)]
    given = {key: value for key, value in table.items() if key not in ("task", "weight")}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{path}: [{name}] has no option {unknown[0]!r}; use {', '.join(known)}")
    listed = {k: tuple(map(str, v)) if k in ("columns", "classes") else v for k, v in given.items()}
    if "times" in listed:
        listed["times"] = tuple(float(time) for time in listed["times"])
    defaults = {field: getattr(asked, field) for field in known}
    return TaskOptions(**{**defaults, **listed})
