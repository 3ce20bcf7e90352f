"""The table of labels, matched to slide stores."""

from __future__ import annotations

import csv
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mil_models.errors import LabelTableError
from tiling.store import SlideStore
from tiling.urls import file_name, public_url

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class LabelledSlide:
    """A store with its label; `split` is train, val, test, or "" where the table has none.

    `site` is where the slide comes from (hospital, scanner), "" where the table does not say.
    """

    store: SlideStore
    label: str
    patient_id: str
    split: str = ""
    site: str = ""

    @property
    def slide_id(self) -> str:
        """The slide's unique name."""
        return self.store.slide_id

    @property
    def stratum(self) -> str:
        """What folds are to hold in equal shares."""
        return self.label


def read_labels(
    path: str | Path, stores: Sequence[SlideStore], *, allow_missing: bool = False
) -> list[LabelledSlide]:
    """Read a table of labels and match it to stores.

    Parameters
    ----------
    path
        CSV with `slide_id` or `path`, `label`, and if wanted `patient_id` (else each slide is a
        patient), `split` (train, val, test) and `site`. A slide is found by its id, path, file name
        or stem.
    allow_missing
        Leave labelled slides without a store out, with a warning, instead of refusing. Slides
        without tiles are left out in any case, with a warning too.

    Raises
    ------
    LabelTableError
        Columns are missing, a value is empty, a slide is unknown, ambiguous or named twice, there
        is one class only, or a patient stands on two sides of a split.
    """
    name = Path(path).name
    rows, columns = _read_rows(Path(path))
    key = next((c for c in ("slide_id", "path") if c in columns), None)
    if key is None or "label" not in columns:
        raise LabelTableError(
            f"{name}: needs the columns slide_id (or path) and label, and may have patient_id and "
            f"split; it has {', '.join(columns) or 'none'}"
        )
    if "patient_id" not in columns:
        warnings.warn(f"{name}: no patient_id; each slide counts as a patient", stacklevel=2)
    index = _index(stores)
    found: list[LabelledSlide] = []
    missing: list[str] = []
    for line, row in enumerate(rows, start=2):
        value = _value(row, key, name, line)
        store = _match(value, index, name, line)
        if store is None:
            missing.append(value)
            continue
        patient = _value(row, "patient_id", name, line) if "patient_id" in columns else value
        split = (row.get("split") or "").strip().lower()
        if "split" in columns and split not in SPLITS:
            raise LabelTableError(f"{name}, line {line}: split is {split!r}; use train, val, test")
        label, site = _value(row, "label", name, line), (row.get("site") or "").strip()
        found.append(LabelledSlide(store, label, patient, split, site))
    _report_missing(name, missing, allow_missing)
    empty = [slide for slide in found if not len(slide.store)]
    if empty:
        warnings.warn(
            f"{name}: left out for want of tiles: {_some(s.slide_id for s in empty)}", stacklevel=2
        )
    found = [slide for slide in found if len(slide.store)]
    _check(name, found, len(stores) - len(empty))
    return found


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
    warnings.warn(text, stacklevel=3)


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


def _check(name: str, found: list[LabelledSlide], stores: int) -> None:
    twice = [slide for slide, n in Counter(f.slide_id for f in found).items() if n > 1]
    if twice:
        raise LabelTableError(f"{name}: slides named more than once: {_some(twice)}")
    classes = sorted({f.label for f in found})
    if len(classes) < 2:
        raise LabelTableError(
            f"{name}: one class only ({', '.join(classes) or 'no slide'}); training needs two"
        )
    sides: dict[str, set[str]] = defaultdict(set)
    for slide in found:
        sides[slide.patient_id].add(slide.split)
    leaking = sorted(p for p, s in sides.items() if len(s) > 1)
    if leaking:
        raise LabelTableError(
            f"{name}: patients on more than one side of the split: {_some(leaking)}"
        )
    if len(found) < stores:
        warnings.warn(
            f"{name}: {stores - len(found)} of {stores} stores have no label and are left out",
            stacklevel=3,
        )
