"""The table of labels, matched to slide stores."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from mil_models.errors import LabelTableError
from mil_models.options import TaskOptions
from mil_models.readings import Reading
from mil_models.tasks import Task, create_task
from tiling.store import SlideStore
from tiling.urls import file_name, public_url

SPLITS = ("train", "val", "test")
MERGED_KINDS = ("multilabel", "regression", "several")
"""Tasks whose strata only help to make folds alike; without one of them a fold can be learned."""
FEWEST_IN_STRATUM = 5


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """A store with what is said of it; or the stores of a patient whose slides are one bag.

    Attributes
    ----------
    label
        The answer, as a word where the task has classes.
    split
        train, val, test, or "" where the table has none.
    site
        Where the slide comes from (hospital, scanner), "" where the table does not say.
    readings
        The rows of the table: one, or one for each reader.
    group
        What folds are to hold in equal shares, where that is not the label.
    others
        Further stores of the same bag.
    """

    store: SlideStore
    label: str
    patient_id: str
    split: str = ""
    site: str = ""
    readings: tuple[Reading, ...] = ()
    group: str = ""
    others: tuple[SlideStore, ...] = ()

    @property
    def stores(self) -> tuple[SlideStore, ...]:
        """All stores of the bag."""
        return (self.store, *self.others)

    @property
    def slide_id(self) -> str:
        """The slide's unique name; several slides' with ; between."""
        return ";".join(store.slide_id for store in self.stores)

    @property
    def stratum(self) -> str:
        """What folds are to hold in equal shares."""
        return self.group or self.label


def read_labels(
    path: str | Path,
    stores: Sequence[SlideStore],
    *,
    allow_missing: bool = False,
    bag: Literal["slide", "patient"] = "slide",
) -> list[LabelledSlide]:
    """Read a table of class labels and match it to stores, see :func:`read_answers`."""
    return read_answers(path, stores, "multiclass", allow_missing=allow_missing, bag=bag)[0]


def read_answers(
    path: str | Path,
    stores: Sequence[SlideStore],
    task: str | Path,
    asked: TaskOptions = TaskOptions(),
    *,
    allow_missing: bool = False,
    bag: Literal["slide", "patient"] = "slide",
) -> tuple[list[LabelledSlide], Task]:
    """Read a table, match it to stores, and make sure that a task can be learned from it.

    Parameters
    ----------
    path
        CSV with `slide_id` or `path`, the task's columns, and if wanted `patient_id` (else each
        slide is a patient), `split` (train, val, test), `site` and `reader` (a row for each reader
        of a slide). A slide is found by its id, path, file name or stem.
    task, asked
        What is asked, see :func:`mil_models.tasks.create_task`.
    allow_missing
        Leave labelled slides without a store out, with a warning, instead of refusing. Slides
        without tiles are left out in any case, with a warning too.
    bag
        What is to be one bag: a slide, or all slides of a patient.

    Raises
    ------
    LabelTableError
        Columns are missing, a value is empty or wrong, a slide is unknown, ambiguous or named
        twice, there is nothing to tell apart, or a patient stands on two sides of a split.
    """
    name = Path(path).name
    rows, columns = _read_rows(Path(path))
    found = _match_rows(name, rows, columns, stores, allow_missing)
    _check(name, found)
    bags = _by_patient(found) if bag == "patient" else found
    made = create_task(task, [b.readings for b in bags], columns, asked)
    if bag == "patient":
        _check_agreement(found, made)
    _warn_of_unlabelled(name, len(found), stores)
    strata = [made.stratum(one.readings) for one in bags]
    if made.kind in MERGED_KINDS:
        strata = merged_strata(strata, [one.patient_id for one in bags])
    labelled = [
        replace(one, label=made.truth(one.readings).get("label", ""), group=stratum)
        for one, stratum in zip(bags, strata, strict=True)
    ]
    return labelled, made


def merged_strata(strata: Sequence[str], patients: Sequence[str]) -> list[str]:
    """Return the strata, those of few patients under one name, or under the most common's."""
    of: dict[str, set[str]] = defaultdict(set)
    for stratum, patient in zip(strata, patients, strict=True):
        of[stratum].add(patient)
    rare = {stratum for stratum, own in of.items() if len(own) < FEWEST_IN_STRATUM}
    together = {patient for stratum in rare for patient in of[stratum]}
    name = "other" if len(together) >= 2 else max(of, key=lambda stratum: len(of[stratum]))
    return [name if stratum in rare else stratum for stratum in strata]


def _match_rows(
    name: str,
    rows: Sequence[dict[str, str]],
    columns: Sequence[str],
    stores: Sequence[SlideStore],
    allow_missing: bool,
) -> list[LabelledSlide]:
    """Return the labelled slides that have tiles, in the order of the table."""
    key = next((c for c in ("slide_id", "path") if c in columns), None)
    if key is None:
        raise LabelTableError(
            f"{name}: needs the columns slide_id (or path) and the label's, and may have "
            f"patient_id, split, site and reader; it has {', '.join(columns) or 'none'}"
        )
    if "patient_id" not in columns:
        warnings.warn(f"{name}: no patient_id; each slide counts as a patient", stacklevel=4)
    index = _index(stores)
    found: dict[str, LabelledSlide] = {}
    missing: list[str] = []
    for line, row in enumerate(rows, start=2):
        value = _value(row, key, name, line)
        store = _match(value, index, name, line)
        if store is None:
            missing.append(value)
            continue
        reading = Reading(f"{name}, line {line}", store.slide_id, row)
        patient = _value(row, "patient_id", name, line) if "patient_id" in columns else value
        split = (row.get("split") or "").strip().lower()
        if "split" in columns and split not in SPLITS:
            raise LabelTableError(f"{name}, line {line}: split is {split!r}; use train, val, test")
        site = (row.get("site") or "").strip()
        slide = LabelledSlide(store, "", patient, split, site, (reading,))
        earlier = found.get(slide.slide_id)
        found[slide.slide_id] = slide if earlier is None else _with_reader(earlier, slide)
    _report_missing(name, list(dict.fromkeys(missing)), allow_missing)
    empty = [slide for slide in found.values() if not len(slide.store)]
    if empty:
        warnings.warn(
            f"{name}: left out for want of tiles: {_some(s.slide_id for s in empty)}", stacklevel=4
        )
    return [slide for slide in found.values() if len(slide.store)]


def _with_reader(slide: LabelledSlide, again: LabelledSlide) -> LabelledSlide:
    """Return `slide` with another reader's row.

    Raises
    ------
    LabelTableError
        It is not another reader's, or says otherwise whose slide it is.
    """
    [reading] = again.readings
    readers = [r.values.get("reader") for r in slide.readings]
    if "reader" not in reading.values or reading.values["reader"] in readers:
        raise LabelTableError(
            f"{reading.where}: slides named more than once: {slide.slide_id} (several readers "
            "take a column reader)"
        )
    for column in ("patient_id", "split", "site"):
        if getattr(slide, column) != getattr(again, column):
            raise reading.error(f"{column} differs from the slide's earlier row")
    return replace(slide, readings=(*slide.readings, reading))


def _by_patient(slides: Sequence[LabelledSlide]) -> list[LabelledSlide]:
    """Return one bag for each patient, the slides in the order of the table."""
    patients: dict[str, list[LabelledSlide]] = defaultdict(list)
    for slide in slides:
        patients[slide.patient_id].append(slide)
    return [replace(own[0], others=tuple(s.store for s in own[1:])) for own in patients.values()]


def _check_agreement(slides: Sequence[LabelledSlide], task: Task) -> None:
    """Make sure that all slides of a patient have the same answer."""
    first: dict[str, LabelledSlide] = {}
    for slide in slides:
        one = first.setdefault(slide.patient_id, slide)
        if task.truth(one.readings) != task.truth(slide.readings):
            raise slide.readings[0].error(
                f"patient {slide.patient_id} has another answer for slide {one.slide_id}; "
                "--bag patient needs one for all"
            )


def _read_rows(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise LabelTableError(f"{path}: cannot be read as CSV: {err}") from err


def _value(row: dict[str, str], column: str, name: str, line: int) -> str:
    text = (row.get(column) or "").strip()
    if not text:
        raise LabelTableError(f"{name}, line {line}: {column} is empty")
    return text


def _index(stores: Sequence[SlideStore]) -> list[dict[str, list[SlideStore]]]:
    """Return how slides can be named, the surest way first: id, path, file name, stem."""
    ways: list[dict[str, list[SlideStore]]] = [defaultdict(list) for _ in range(4)]
    for store in stores:
        path = PurePosixPath(store.slide_path)
        names = store.slide_id, store.slide_path, path.name, path.stem
        for way, text in zip(ways, names, strict=True):
            way[text].append(store)
    return ways


def _match(
    value: str, index: list[dict[str, list[SlideStore]]], name: str, line: int
) -> SlideStore | None:
    path = PurePosixPath(file_name(value))
    resolved = public_url(value) if "://" in value else str(Path(value).resolve())
    for way, text in zip(index, (value, resolved, path.name, path.stem), strict=True):
        stores = way.get(text, [])
        if len(stores) > 1:
            ids = ", ".join(s.slide_id for s in stores[:3])
            raise LabelTableError(f"{name}, line {line}: {value!r} fits several slides ({ids})")
        if stores:
            return stores[0]
    return None


def _report_missing(name: str, missing: list[str], allow_missing: bool) -> None:
    if not missing:
        return
    text = f"{name}: no store of {_some(missing)}"
    if not allow_missing:
        raise LabelTableError(f"{text}; embed them, or pass --allow-missing")
    warnings.warn(text, stacklevel=5)


def _some(names: Iterable[str], limit: int = 5) -> str:
    """Return the first few of `names`, and how many more there are.

    Examples
    --------
    >>> _some("abc", limit=2)
    'a, b and 1 more'
    """
    found = list(names)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _check(name: str, found: Sequence[LabelledSlide]) -> None:
    sides: dict[str, set[str]] = defaultdict(set)
    for slide in found:
        sides[slide.patient_id].add(slide.split)
    leaking = sorted(p for p, s in sides.items() if len(s) > 1)
    if leaking:
        raise LabelTableError(
            f"{name}: patients on more than one side of the split: {_some(leaking)}"
        )


def _warn_of_unlabelled(name: str, found: int, stores: Sequence[SlideStore]) -> None:
    with_tiles = sum(len(store) > 0 for store in stores)
    if found < with_tiles:
        warnings.warn(
            f"{name}: {with_tiles - found} of {with_tiles} stores have no label and are left out",
            stacklevel=4,
        )
