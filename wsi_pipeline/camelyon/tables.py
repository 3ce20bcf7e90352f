"""The challenges' tables; with a header, or as shipped without."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wsi_pipeline.camelyon.errors import ChallengeTableError

T = TypeVar("T")
SLIDE_COLUMNS = ("slide", "slide_id", "name", "image", "file", "case")
CLASS_COLUMNS = ("class", "label", "type")
SCORE_COLUMNS = ("score", "probability", "prob", "p")
IS_TUMOUR = {"tumor": True, "tumour": True, "1": True, "normal": False, "0": False}
SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".mrxs", ".ndpi", ".csv")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a CSV file: where it stands, and its cells by column."""

    place: str
    cells: dict[str, str]


def slide_name(text: str) -> str:
    """Return a slide's name without folder and suffix.

    Examples
    --------
    >>> slide_name("images/test_001.tif"), slide_name("test_001")
    ('test_001', 'test_001')
    """
    name = text.strip().replace("\\", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in SLIDE_SUFFIXES else name


def read_rows(path: Path) -> list[tuple[str, list[str]]]:
    """Return the rows of a CSV file that are not empty, each with its place.

    Raises
    ------
    ChallengeTableError
        The file is not there, or is no text.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            return [
                (f"{path.name}, line {reader.line_num}", [cell.strip() for cell in row])
                for row in reader
                if any(cell.strip() for cell in row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ChallengeTableError(f"{path}: cannot be read as CSV: {err}") from err


def read_table(path: Path, columns: Sequence[str]) -> list[Line]:
    """Return the rows of a CSV file whose header must hold `columns`."""
    rows = read_rows(path)
    header = rows[0][1] if rows else []
    missing = [c for c in columns if c not in header]
    if missing:
        raise ChallengeTableError(
            f"{path.name}: no column {', '.join(missing)}; there are {', '.join(header) or 'none'}"
        )
    return [_line(place, header, cells) for place, cells in rows[1:]]


def read_reference(path: Path) -> dict[str, bool]:
    """Return whether each slide has tumour, from `reference.csv` with or without a header.

    Columns slide and class (Tumor or Normal; else label, 1 or 0), or these two first.

    Raises
    ------
    ChallengeTableError
        A class is neither, a slide stands twice, or there is none.
    """
    found: dict[str, bool] = {}
    for line in _two_columns(path, CLASS_COLUMNS, lambda cell: cell.lower() in IS_TUMOUR):
        text = line.cells["value"].lower()
        if text not in IS_TUMOUR:
            raise ChallengeTableError(
                f"{line.place}: class is {line.cells['value']!r}; use Tumor or Normal"
            )
        _add(found, line, IS_TUMOUR[text])
    return _some(found, path)


def read_scores(path: Path) -> dict[str, float]:
    """Return the score of each slide: two columns, or columns slide (slide_id) and score.

    Raises
    ------
    ChallengeTableError
        A score is no number, a slide stands twice, or there is none.
    """
    found: dict[str, float] = {}
    for line in _two_columns(path, SCORE_COLUMNS, _is_number):
        text = line.cells["value"]
        if not _is_number(text) or not math.isfinite(float(text)):
            raise ChallengeTableError(f"{line.place}: the score is {text!r}, no finite number")
        _add(found, line, float(text))
    return _some(found, path)


def _two_columns(
    path: Path, value_columns: Sequence[str], is_value: Callable[[str], bool]
) -> list[Line]:
    """Return slide and value of every row; there is a header if the first row holds no value."""
    rows = read_rows(path)
    if not rows:
        return []
    first = rows[0][1]
    if len(first) < 2:
        raise ChallengeTableError(f"{path.name}: one column; two are needed: slide and value")
    if is_value(first[1]):
        columns = (0, 1)
    else:
        lowered = [cell.lower() for cell in first]
        slide = next((lowered.index(c) for c in SLIDE_COLUMNS if c in lowered), None)
        value = next((lowered.index(c) for c in value_columns if c in lowered), None)
        if len(first) == 2:
            slide, value = slide or 0, 1 - (slide or 0)
        if slide is None or value is None:
            raise ChallengeTableError(
                f"{path.name}: columns {', '.join(first)}; needed are slide and {value_columns[0]}"
            )
        columns, rows = (slide, value), rows[1:]
    return [
        _line(place, ("slide", "value"), [cells[c] if c < len(cells) else "" for c in columns])
        for place, cells in rows
    ]


def _line(place: str, header: Sequence[str], cells: Sequence[str]) -> Line:
    if len(cells) != len(header):
        raise ChallengeTableError(f"{place}: {len(cells)} cells, where {len(header)} are needed")
    return Line(place, dict(zip(header, cells, strict=True)))


def _add(found: dict[str, T], line: Line, value: T) -> None:
    name = slide_name(line.cells["slide"])
    if not name or name in found:
        said = f"{name} stands in the table already" if name else "no slide is named"
        raise ChallengeTableError(f"{line.place}: {said}")
    found[name] = value


def _some(found: dict[str, T], path: Path) -> dict[str, T]:
    if not found:
        raise ChallengeTableError(f"{path.name}: no slide in it")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def named_as(found: Mapping[str, T], known: Iterable[str], place: str) -> dict[str, T]:
    """Return `found` under the names of `known` where they differ by capitals only.

    The challenge wrote Test_001 and test_001.

    Raises
    ------
    ChallengeTableError
        Two names of either differ by capitals only.

    Examples
    --------
    >>> named_as({"Test_001": 1, "test_002": 2}, ["test_001"], "table.csv")
    {'test_001': 1, 'test_002': 2}
    """
    names = list(known)
    lowered = {name.lower(): name for name in names}
    renamed = {lowered.get(name.lower(), name): value for name, value in found.items()}
    if len(lowered) < len(names) or len({name.lower() for name in found}) < len(found):
        raise ChallengeTableError(f"{place}: names that differ by capitals only")
    return renamed


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are.

    Examples
    --------
    >>> few(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
