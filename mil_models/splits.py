"""Who is trained on and who is tested: by patient, always; by site, where that is asked."""

from __future__ import annotations

import csv
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from mil_models.errors import LabelTableError, SplitError
from mil_models.options import SplitOptions

VALIDATION_FOLDS = 5
"""The validation part is about one in so many of a fold's training patients."""
PARTS = ("train", "val", "test")
COLUMNS = ("slide_id", "repeat", "fold", "part")


class Sortable(Protocol):
    """What a split has to know of a slide: :class:`mil_models.labels.LabelledSlide`, or alike."""

    @property
    def slide_id(self) -> str:
        """The slide's unique name."""

    @property
    def patient_id(self) -> str:
        """Whose it is."""

    @property
    def stratum(self) -> str:
        """What folds are to hold in equal shares."""

    @property
    def split(self) -> str:
        """Train, val, test, or nothing."""

    @property
    def site(self) -> str:
        """Where it comes from, or nothing."""


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of the slides to train on, to stop by, and to test on; no patient in two of them."""

    name: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    repeat: int = 0

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Return the indices by the names that files use."""
        return dict(zip(PARTS, (self.train, self.validation, self.test), strict=True))


def choose_splits(
    slides: Sequence[Sortable], folds: int, seed: int, options: SplitOptions
) -> list[Split]:
    """Return the splits that are asked for: of a file, by site, or by patient.

    Raises
    ------
    SplitError, LabelTableError
        The slides cannot be split so.
    """
    if options.splits is not None:
        return read_splits(options.splits, slides)
    if options.split_by == "patient":
        return repeated_splits(slides, folds, seed, repeats=options.repeats)
    if options.repeats > 1 and options.split_by == "site":
        raise SplitError("nothing to repeat: leaving each site out has one way only")
    if options.split_by == "site":
        return leave_one_site_out(slides, seed)
    found: list[Split] = []
    for repeat in range(options.repeats):
        prefix = f"repeat {repeat} " if options.repeats > 1 else ""
        found += [
            Split(prefix + s.name, s.train, s.validation, s.test, repeat)
            for s in site_folds(slides, folds, seed + repeat)
        ]
    return found


def make_splits(slides: Sequence[Sortable], folds: int, seed: int) -> list[Split]:
    """Return the splits to train by.

    The table's own `split` where it has one; else `folds` patient-level folds, stratified by
    label; for 0 one split that tests nothing. Fewer patients in a class than folds: as many folds
    as there are patients, with a warning.

    Raises
    ------
    LabelTableError
        A class has fewer than two patients.
    """
    if folds < 0 or folds == 1:
        raise ValueError(f"folds={folds}: must be 0 or at least 2")
    everyone = tuple(range(len(slides)))
    if any(slide.split for slide in slides):
        sides = {side: tuple(i for i in everyone if slides[i].split == side) for side in PARTS}
        if len({slides[i].stratum for i in sides["train"]}) < 2:
            raise LabelTableError("the table's train part has one class only")
        return [Split("split", sides["train"], sides["val"], sides["test"])]
    if folds == 0:
        train, validation = _carve(slides, everyone, seed)
        return [Split("all", train, validation, ())]
    folds = _possible_folds(slides, folds)
    parts = _folds(slides, everyone, folds, seed, _patient)
    return _around(slides, parts, [f"fold {number}" for number in range(len(parts))], seed)


def repeated_splits(
    slides: Sequence[Sortable], folds: int, seed: int, *, repeats: int
) -> list[Split]:
    """Return `repeats` times the folds of :func:`make_splits`, each time of another seed.

    The first are those of :func:`make_splits`.

    Raises
    ------
    SplitError
        There is nothing to repeat: the table has its own split, or `folds` is 0.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: must be at least 1")
    if repeats > 1 and (folds == 0 or any(slide.split for slide in slides)):
        why = "--folds is 0" if folds == 0 else "the table has a split of its own"
        raise SplitError(f"nothing to repeat: {why}")
    found: list[Split] = []
    for repeat in range(repeats):
        with warnings.catch_warnings():
            if repeat:
                warnings.simplefilter("ignore")  # the same as the first time
            made = make_splits(slides, folds, seed + repeat)
        prefix = f"repeat {repeat} " if repeats > 1 else ""
        found += [Split(prefix + s.name, s.train, s.validation, s.test, repeat) for s in made]
    return found


def leave_one_site_out(slides: Sequence[Sortable], seed: int) -> list[Split]:
    """Return a split per site: its slides are tested, other patients of other sites trained on.

    Slides of a tested patient at other sites take no part in that split, with a warning.

    Raises
    ------
    SplitError
        A slide has no site, there is one site only, or without some site one class is left.
    """
    sites = _sites(slides)
    found, dropped = [], 0
    for site in sites:
        test = tuple(i for i, slide in enumerate(slides) if slide.site == site)
        tested = {slides[i].patient_id for i in test}
        rest = tuple(i for i in range(len(slides)) if slides[i].patient_id not in tested)
        dropped += len(slides) - len(test) - len(rest)
        if len({slides[i].stratum for i in rest}) < len({slide.stratum for slide in slides}):
            raise SplitError(f"without site {site!r} a class is missing from training")
        train, validation = _carve(slides, rest, seed)
        found.append(Split(f"site {site}", train, validation, test))
    if dropped:
        warnings.warn(
            f"patients with slides at several sites: {dropped} times a slide of a tested patient "
            "was left out of training",
            stacklevel=2,
        )
    return found


def site_folds(slides: Sequence[Sortable], folds: int, seed: int) -> list[Split]:
    """Return folds in which all slides of a site stand together, labels shared out evenly.

    With sites in training and test alike a model may know the site instead of the disease.

    Raises
    ------
    SplitError
        A slide has no site, there are fewer sites than two, or a patient is at several.

    References
    ----------
    Howard et al. 2021, Nat Commun 12:4423 (preserved-site cross-validation).
    """
    if folds < 2:
        raise ValueError(f"folds={folds}: must be at least 2")
    sites = _sites(slides)
    at: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        at[slide.patient_id].add(slide.site)
    several = sorted(patient for patient, where in at.items() if len(where) > 1)
    if several:
        raise SplitError(
            f"patient {several[0]!r} has slides at {', '.join(sorted(at[several[0]]))}: sites "
            "cannot be kept together; split by patient, or leave one site out at a time"
        )
    if len(sites) < folds:
        warnings.warn(f"{len(sites)} sites: {len(sites)} folds, not {folds}", stacklevel=2)
    with warnings.catch_warnings():
        # scikit-learn warns of classes with fewer slides than folds; the check below is of parts.
        warnings.simplefilter("ignore", UserWarning)
        parts = _folds(
            slides, tuple(range(len(slides))), min(folds, len(sites)), seed, lambda s: s.site
        )
    parts = [part for part in parts if part]
    return _around(slides, parts, [f"fold {number}" for number in range(len(parts))], seed)


def split_rows(slides: Sequence[Sortable], splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Return the splits as rows of a table that :func:`read_splits` reads."""
    number: dict[int, int] = defaultdict(int)
    rows = []
    for split in splits:
        fold = number[split.repeat]
        number[split.repeat] += 1
        for part, indices in split.parts().items():
            for index in indices:
                values = slides[index].slide_id, split.repeat, fold, part
                rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def write_splits(path: str | Path, slides: Sequence[Sortable], splits: Sequence[Split]) -> None:
    """Write the splits as CSV: `slide_id, repeat, fold, part` (train, val, test)."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(split_rows(slides, splits))


def read_splits(path: str | Path, slides: Sequence[Sortable]) -> list[Split]:
    """Read splits that :func:`write_splits` wrote, or a table with columns train, val, test.

    The latter names the slides of each part in its own column, one fold a file (as CLAM does).
    Labelled slides that a fold does not name take no part in it, with a warning.

    Raises
    ------
    SplitError
        It is no such table, a slide is unknown, a slide or a patient stands on two sides of a fold,
        a slide is tested twice in a repeat, or training lacks a class.
    """
    name = Path(path).name
    index = _names(slides)
    folds: dict[tuple[str, str], dict[int, str]] = {}
    unknown: list[str] = []
    for place, slide, repeat, fold, part in read_split_rows(path):
        number = index.get(slide, index.get(PurePosixPath(slide).stem))
        if number is None:
            unknown.append(slide)
            continue
        parts = folds.setdefault((repeat, fold), {})
        if parts.get(number, part) != part:
            raise SplitError(
                f"{place}: {slide} stands in two parts of fold {fold} of repeat {repeat}"
            )
        parts[number] = part
    if unknown:
        raise SplitError(
            f"{name}: not in the table of labels: {', '.join(unknown[:5])}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        )
    return _checked(name, slides, folds)


def read_split_rows(path: str | Path) -> list[tuple[str, str, str, str, str]]:
    """Return (place in the file, slide, repeat, fold, part) of every line of a file of splits.

    Raises
    ------
    SplitError
        It cannot be read, has other columns, or a part that is none.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise SplitError(f"{path}: cannot be read as CSV: {err}") from err
    if {"train", "test"} <= set(columns):
        return [
            (f"{path.name}, line {line}", text, "0", "0", part)
            for line, row in enumerate(rows, start=2)
            for part in PARTS
            if (text := (row.get(part) or "").strip())
        ]
    if not {"slide_id", "part"} <= set(columns):
        raise SplitError(
            f"{path.name}: needs the columns slide_id and part (and may have repeat and fold), or "
            f"train, val and test; it has {', '.join(columns) or 'none'}"
        )
    found = []
    for line, row in enumerate(rows, start=2):
        place, part = f"{path.name}, line {line}", (row["part"] or "").strip().lower()
        slide = (row["slide_id"] or "").strip()
        if part not in PARTS or not slide:
            what = f"part is {part!r}; use train, val, test" if slide else "slide_id is empty"
            raise SplitError(f"{place}: {what}")
        repeat, fold = ((row.get(k) or "0").strip() or "0" for k in ("repeat", "fold"))
        found.append((place, slide, repeat, fold, part))
    if not found:
        raise SplitError(f"{path.name}: no slide in it")
    return found


def leaking_patients(
    patients: Sequence[str], parts: Mapping[str, Iterable[int]]
) -> dict[str, list[str]]:
    """Return the patients that stand in several of `parts`, and in which."""
    sides: dict[str, list[str]] = defaultdict(list)
    for part, indices in parts.items():
        for patient in sorted({patients[i] for i in indices}):
            sides[patient].append(part)
    return {patient: found for patient, found in sides.items() if len(found) > 1}


def _names(slides: Sequence[Sortable]) -> dict[str, int]:
    """Return the index of every slide by its name; a bag of several slides has several names."""
    return {part: i for i, slide in enumerate(slides) for part in slide.slide_id.split(";")} | {
        slide.slide_id: i for i, slide in enumerate(slides)
    }


def _checked(
    name: str, slides: Sequence[Sortable], folds: Mapping[tuple[str, str], Mapping[int, str]]
) -> list[Split]:
    found = []
    repeats = list(dict.fromkeys(repeat for repeat, _ in folds))
    tested: dict[str, set[int]] = defaultdict(set)
    wanted = {slide.stratum for slide in slides}
    for (repeat, fold), parts in folds.items():
        where = f"{name}, repeat {repeat}, fold {fold}"
        indices = {p: tuple(sorted(i for i, q in parts.items() if q == p)) for p in PARTS}
        leaking = leaking_patients([slide.patient_id for slide in slides], indices)
        if leaking:
            patient, sides = next(iter(leaking.items()))
            raise SplitError(
                f"{where}: patients on more than one side: {patient!r} in {' and '.join(sides)}"
                + (f", and {len(leaking) - 1} more" if len(leaking) > 1 else "")
            )
        missing = wanted - {slides[i].stratum for i in indices["train"]}
        if missing:
            raise SplitError(f"{where}: training lacks class {', '.join(sorted(missing))}")
        again = tested[repeat] & set(indices["test"])
        if again:
            raise SplitError(
                f"{where}: {slides[min(again)].slide_id} is tested by another fold of the same "
                "repeat; give each its own repeat"
            )
        tested[repeat] |= set(indices["test"])
        if len(parts) < len(slides):
            warnings.warn(
                f"{where}: {len(slides) - len(parts)} labelled slides take no part", stacklevel=3
            )
        label = f"fold {fold}" if len(repeats) == 1 else f"repeat {repeat} fold {fold}"
        found.append(Split(label, indices["train"], indices["val"], indices["test"],
                           repeats.index(repeat)))  # fmt: skip
    return found


def _patient(slide: Sortable) -> str:
    return slide.patient_id


def _sites(slides: Sequence[Sortable]) -> list[str]:
    nowhere = [slide.slide_id for slide in slides if not slide.site]
    if nowhere:
        raise SplitError(
            f"{len(nowhere)} slides have no site (first: {nowhere[0]}); fill the column site"
        )
    sites = sorted({slide.site for slide in slides})
    if len(sites) < 2:
        raise SplitError(f"one site only ({sites[0]}): splitting by site needs two")
    return sites


def _around(
    slides: Sequence[Sortable], parts: Sequence[tuple[int, ...]], names: Sequence[str], seed: int
) -> list[Split]:
    """Return a split for each part that is to be tested, trained on all others."""
    splits = []
    for name, test in zip(names, parts, strict=True):
        inside = set(test)
        rest = tuple(i for i in range(len(slides)) if i not in inside)
        train, validation = _carve(slides, rest, seed)
        splits.append(Split(name, train, validation, test))
    return splits


def _possible_folds(slides: Sequence[Sortable], folds: int) -> int:
    patients = _patients_by_class(slides)
    scarce = min(patients, key=lambda label: len(patients[label]))
    fewest = len(patients[scarce])
    if fewest < 2:
        raise LabelTableError(
            f"class {scarce!r} has {fewest} patient; cross-validation needs 2, or pass --folds 0"
        )
    if fewest < folds:
        warnings.warn(
            f"class {scarce!r} has {fewest} patients: {fewest} folds, not {folds}", stacklevel=3
        )
    return min(folds, fewest)


def _patients_by_class(slides: Sequence[Sortable]) -> dict[str, set[str]]:
    patients: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        patients[slide.stratum].add(slide.patient_id)
    return patients


def _folds(
    slides: Sequence[Sortable],
    indices: Sequence[int],
    folds: int,
    seed: int,
    group: Callable[[Sortable], str],
) -> list[tuple[int, ...]]:
    labels = np.array([slides[i].stratum for i in indices])
    groups = np.array([group(slides[i]) for i in indices])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    order = np.asarray(indices)
    return [
        tuple(int(i) for i in order[test])
        for _, test in splitter.split(np.zeros(len(order)), labels, groups)
    ]


def _carve(
    slides: Sequence[Sortable], indices: Sequence[int], seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return training and validation parts that both hold every class, or all and nothing."""
    wanted = {slides[i].stratum for i in indices}
    fewest = min(len(p) for p in _patients_by_class([slides[i] for i in indices]).values())
    for folds in range(min(VALIDATION_FOLDS, fewest), 1, -1):
        for validation in _folds(slides, indices, folds, seed, _patient):
            train = tuple(i for i in indices if i not in set(validation))
            if all({slides[i].stratum for i in part} == wanted for part in (train, validation)):
                return train, validation
    return tuple(indices), ()
