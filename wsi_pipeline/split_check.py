"""What `wsi check-splits` does: read the tables, look for every kind of leak, say what was seen."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tiling.store import SlideStore, iter_stores
from wsi_pipeline.errors import UsageError
from wsi_pipeline.models import require_models

if TYPE_CHECKING:
    from mil_models.leaks import Finding, Fold, Tiles

CACHED = 256
"""Slides whose embeddings are kept between comparisons."""


@dataclass(frozen=True, slots=True)
class TableSlide:
    """A line of the table: what a split has to know of a slide."""

    slide_id: str
    patient_id: str
    stratum: str = ""
    split: str = ""
    site: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What was found, and what could not be looked for, and why."""

    slides: int
    folds: int
    findings: tuple[Finding, ...]
    not_checked: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "slides": self.slides,
            "folds": self.folds,
            "findings": [finding.to_dict() for finding in self.findings],
            "not_checked": dict(self.not_checked),
        }


def check_splits(
    table: Path,
    *,
    splits: Path | None = None,
    stores: Path | None = None,
    embeddings: str | None = None,
    ignore: Collection[str] = (),
) -> SplitReport:
    """Look for leaks in the splits of a table, or for what would leak in any split of it.

    Parameters
    ----------
    table
        CSV with slide_id or path, and if wanted patient_id, label, site, split.
    splits
        File of splits; the table's column split if not given.
    stores
        Stores of the slides: their hashes tell one file under two names, their embeddings
        near-duplicates.
    ignore
        Kinds of findings to leave out.

    Raises
    ------
    UsageError
        The table lacks its columns, or `ignore` names no kind.
    SplitError
        The file of splits is wrong.
    """
    require_models()
    from mil_models import leaks

    unknown = sorted(set(ignore) - set(leaks.KINDS))
    if unknown:
        raise UsageError(f"--ignore {unknown[0]}: use {', '.join(leaks.KINDS)}")
    slides, columns = read_table(table)
    folds = _folds(slides, splits)
    missing = {
        "same-patient": "" if "patient_id" in columns else "the table has no patient_id",
        "site-confounded": "" if any(s.site for s in slides) else "the table has no site",
        "class-missing": "" if any(s.stratum for s in slides) else "the table has no label",
    }
    if not folds:
        missing["same-patient"] = missing["class-missing"] = "there is no split"
    found = [
        *leaks.patients_on_two_sides(slides, folds),
        *leaks.classes_missing(slides, folds),
        *leaks.site_confounded(slides),
    ]
    matched = {} if stores is None else match_stores(slides, list(iter_stores(stores)))
    hashes = [matched[i].source.quick_hash if i in matched else s.path or s.slide_id
              for i, s in enumerate(slides)]  # fmt: skip
    found += leaks.same_slide(slides, hashes, folds)
    if stores is None:
        missing["near-duplicate"] = "no --stores"
    else:
        without = len(slides) - len(matched)
        missing["near-duplicate"] = f"{without} slides have no store" if without else ""
        tiles = _tile_reader(matched, embeddings)
        found += leaks.near_duplicates(slides, tiles, folds, known=hashes)
    kept = tuple(f for f in found if f.kind not in ignore)
    absent = {kind: why for kind, why in missing.items() if why and kind not in ignore}
    return SplitReport(len(slides), len(folds), kept, absent)


def read_table(path: Path) -> tuple[list[TableSlide], list[str]]:
    """Return the slides of a table of labels, and its columns.

    Raises
    ------
    UsageError
        It cannot be read, names no slides, or a line has no slide or an unknown split.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"{path}: cannot be read as CSV: {err}") from err
    key = next((c for c in ("slide_id", "path") if c in columns), None)
    if key is None or not rows:
        what = "no slide in it" if key else f"needs the column slide_id or path; it has {columns}"
        raise UsageError(f"{path.name}: {what}")
    answer = next((c for c in ("label", "event") if c in columns), "")
    slides = []
    for line, row in enumerate(rows, start=2):
        values = {name: (row.get(name) or "").strip() for name in columns if name}
        split = values.get("split", "").lower()
        if not values[key] or split not in ("", "train", "val", "test"):
            what = f"split is {split!r}; use train, val, test" if values[key] else f"{key} is empty"
            raise UsageError(f"{path.name}, line {line}: {what}")
        patient = values.get("patient_id") or values[key]
        stratum, site = values.get(answer, ""), values.get("site", "")
        slides.append(
            TableSlide(values[key], patient, stratum, split, site, values.get("path", ""))
        )
    return slides, columns


def match_stores(
    slides: Sequence[TableSlide], stores: Sequence[SlideStore]
) -> dict[int, SlideStore]:
    """Return the store of each slide that has one, found by id, path, file name or stem."""
    ways: list[dict[str, list[SlideStore]]] = [defaultdict(list) for _ in range(4)]
    for store in stores:
        path = PurePosixPath(store.slide_path)
        names = store.slide_id, store.slide_path, path.name, path.stem
        for way, name in zip(ways, names, strict=True):
            way[name].append(store)
    found = {}
    for index, slide in enumerate(slides):
        path = PurePosixPath(slide.slide_id)
        for way, name in zip(
            ways, (slide.slide_id, slide.path or slide.slide_id, path.name, path.stem), strict=True
        ):
            if len(way.get(name, [])) == 1:
                found[index] = way[name][0]
                break
    return found


def _folds(slides: Sequence[TableSlide], path: Path | None) -> list[Fold]:
    from mil_models.errors import SplitError
    from mil_models.splits import PARTS, read_split_rows

    if path is None:
        parts = {p: [i for i, s in enumerate(slides) if s.split == p] for p in PARTS}
        return [("", parts)] if any(parts.values()) else []
    index: dict[str, list[int]] = defaultdict(list)
    for i, slide in enumerate(slides):
        for name in {slide.slide_id, PurePosixPath(slide.slide_id).stem}:
            index[name].append(i)
    found: dict[str, dict[str, list[int]]] = {}
    for place, name, repeat, fold, part in read_split_rows(path):
        numbers = index.get(name) or index.get(PurePosixPath(name).stem)
        if not numbers:
            raise SplitError(f"{place}: {name} is not in the table of labels")
        parts = found.setdefault(f"repeat {repeat}, fold {fold}", {p: [] for p in PARTS})
        parts[part] += numbers
    return list(found.items())


def _tile_reader(
    stores: Mapping[int, SlideStore], embeddings: str | None
) -> Callable[[int], Tiles]:
    """Return what gives a slide's tiles, unreadable ones left out; none for no store."""
    from mil_models.leaks import Tiles

    cache: dict[int, Tiles] = {}

    def tiles(index: int) -> Tiles:
        if index not in cache:
            store = stores.get(index)
            if store is None or not len(store):
                return Tiles(np.empty((0, 1), np.float32), np.empty((0, 2)))
            values = np.asarray(store.embeddings(embeddings).read(), np.float32)
            keep = np.isfinite(values).all(axis=1)
            edge_um = store.spec.tile_px * store.spec.mpp
            places = store.grid.coords[:] * np.array(store.slide_mpp) / edge_um
            while len(cache) >= CACHED:
                cache.pop(next(iter(cache)))
            cache[index] = Tiles(values[keep], places[keep])
        return cache[index]

    return tiles
