"""What makes a split dishonest: patients or slides on two sides, look-alikes, telling sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, fisher_exact
from scipy.stats.contingency import association

from mil_models.splits import Sortable, leaking_patients

Floats = NDArray[np.float32]
Kind = Literal["same-patient", "same-slide", "near-duplicate", "site-confounded", "class-missing"]
KINDS: tuple[Kind, ...] = (
    "same-patient", "same-slide", "near-duplicate", "site-confounded", "class-missing",
)  # fmt: skip

SHARE, AGREEING = 2 / 3, 6
"""Slides look alike if so many of the tiles of one, by share and number, have their nearest tile in
the other at one and the same displacement.
"""
SAME_PLACE = 0.1
"""How far displacements may differ, in edges of a tile."""
CLOSENESS, CLOSE_SHARE = 0.5, 0.5
"""Slides of fewer tiles look alike if this share of tiles has one in the other that is this much
nearer than tiles usually are.
"""
TILES = 64
"""Tiles of a slide, evenly spread, that are looked up in another."""
ALL_PAIRS = 2000
"""Up to so many pairs of slides all are compared, beyond that the nearest by mean embedding."""
POOLED = 16
"""Tiles of a slide by which the usual distance of tiles is told."""
NEIGHBOURS = 10
BLOCK = 8192
CONFOUNDED_V, CONFOUNDED_P = 0.3, 0.05
PERMUTATIONS = 9999


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a split, or with a table that is to be split.

    Attributes
    ----------
    where
        The fold it is wrong in; empty if in any.
    slides
        The slides that it concerns.
    """

    kind: Kind
    message: str
    slides: tuple[str, ...] = ()
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"kind": self.kind, "where": self.where, "message": self.message,
                "slides": list(self.slides)}  # fmt: skip


Fold = tuple[str, Mapping[str, Sequence[int]]]
"""A fold's name, and the indices of the slides in each part."""


def patients_on_two_sides(slides: Sequence[Sortable], folds: Sequence[Fold]) -> list[Finding]:
    """Return the patients with slides in several parts of a fold."""
    patients = [slide.patient_id for slide in slides]
    found = []
    for where, parts in folds:
        for patient, sides in leaking_patients(patients, parts).items():
            own = [i for side in sides for i in parts[side] if patients[i] == patient]
            message = f"patient {patient} is in {' and '.join(sides)}"
            names = tuple(slides[i].slide_id for i in own)
            found.append(Finding("same-patient", message, names, where))
    return found


def classes_missing(slides: Sequence[Sortable], folds: Sequence[Fold]) -> list[Finding]:
    """Return the parts that lack a class which the fold has."""
    found = []
    for where, parts in folds:
        wanted = {slides[i].stratum for part in parts.values() for i in part}
        for part, indices in parts.items():
            missing = sorted(wanted - {slides[i].stratum for i in indices})
            if indices and missing:
                message = f"{part} has no slide of class {', '.join(missing)}"
                found.append(Finding("class-missing", message, (), where))
    return found


def same_slide(
    slides: Sequence[Sortable], identities: Sequence[str], folds: Sequence[Fold]
) -> list[Finding]:
    """Return slides of one identity (file or hash) under several names.

    It is a leak if they stand in several parts of a fold, or have several patients: then any split
    by patient may part them.
    """
    by_identity: dict[str, list[int]] = defaultdict(list)
    for index, identity in enumerate(identities):
        if identity:
            by_identity[identity].append(index)
    groups = [group for group in by_identity.values() if len(group) > 1]
    found = [
        Finding("same-slide", f"{_names(slides, group)} are one file{why}",
                tuple(slides[i].slide_id for i in group), where)
        for group in groups
        for where, why in _apart(slides, group, folds)
    ]  # fmt: skip
    for where, parts in folds:
        for index in sorted({i for part in parts.values() for i in part}):
            for _, why in _apart(slides, [index], [(where, parts)]):
                name = slides[index].slide_id
                found.append(Finding("same-slide", f"{name} is{why[1:]}", (name,), where))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """A slide's embeddings ``(N, D)`` and where its tiles are, in edges of a tile ``(N, 2)``."""

    embeddings: Floats
    places: NDArray[np.float64]


def near_duplicates(
    slides: Sequence[Sortable],
    tiles: Callable[[int], Tiles],
    folds: Sequence[Fold],
    *,
    known: Sequence[str] = (),
) -> list[Finding]:
    """Return pairs of slides that show the same tissue, and that a split parts or may part.

    Each tile of slide A is looked up in B by its embedding. If B is A saved again, compressed anew,
    cropped or moved, then the nearest tiles lie where A's do, all at one displacement; between
    other slides, of one tissue and stain or not, displacements scatter. Two thirds of the tiles
    must agree, and at least 6. So the rule needs no distance that would differ between encoders.
    Slides of fewer than 6 tiles look alike if half of the tiles have one in the other that is
    less than half as far away as tiles usually are from their nearest.

    Slides that were turned or mirrored, or scanned again on another grid, may escape it.

    Parameters
    ----------
    tiles
        Gives the tiles of the slide of an index; there may be none.
    known
        Identities as in :func:`same_slide`; pairs of one identity are not compared.
    """
    pairs = [
        (a, b) for a, b in _candidates(slides, tiles)
        if not (known and known[a] and known[a] == known[b]) and any(_apart(slides, (a, b), folds))
    ]  # fmt: skip
    if not pairs:
        return []
    usual = _usual_distance(tiles, sorted({i for pair in pairs for i in pair}))
    found = []
    for a, b in pairs:
        why_alike = likeness(tiles(a), tiles(b), usual)
        if not why_alike:
            continue
        names = slides[a].slide_id, slides[b].slide_id
        for where, why in _apart(slides, (a, b), folds):
            message = f"{names[0]} and {names[1]} look alike: {why_alike}{why}"
            found.append(Finding("near-duplicate", message, names, where))
    return found


def likeness(a: Tiles, b: Tiles, usual: float) -> str:
    """Return why two slides are near-duplicates, or nothing.

    Parameters
    ----------
    usual
        Distance that the nearest other tile usually has; for slides of few tiles.
    """
    few = min(len(a.embeddings), len(b.embeddings))
    if not few:
        return ""
    if few < AGREEING:
        share = max(_close_share(a, b, usual), _close_share(b, a, usual))
        return f"{share:.0%} of the few tiles are all but identical" if share >= CLOSE_SHARE else ""
    share, count = max(_agreement(a, b), _agreement(b, a))
    if share < SHARE or count < AGREEING:
        return ""
    return f"{share:.0%} of the tiles of one have their nearest tile in the other at the same place"


def site_confounded(slides: Sequence[Sortable]) -> list[Finding]:
    """Return whether sites tell the label: Cramér's V of at least 0.3 with p below 0.05.

    Patients are counted, not slides. p is Fisher's of a 2 x 2 table, of larger ones the
    chi-squared statistic's: by its distribution where all expected counts reach 5, else by
    permutations of the labels.
    """
    rows = sorted({(s.patient_id, s.site, s.stratum) for s in slides if s.site})
    sites, labels = (sorted({row[k] for row in rows}) for k in (1, 2))
    if len(sites) < 2 or len(labels) < 2:
        return []
    table = np.zeros((len(sites), len(labels)), np.int64)
    for _, site, label in rows:
        table[sites.index(site), labels.index(label)] += 1
    strength, p = float(association(table, method="cramer")), independence(table)
    if strength < CONFOUNDED_V or p >= CONFOUNDED_P:
        return []
    single = [
        f"{name} has {labels[int(row.argmax())]} only"
        for name, row in zip(sites, table, strict=True)
        if np.count_nonzero(row) == 1
    ]
    more = f"; {', '.join(single[:5])}" if single else ""
    text = f"the site tells the label: Cramér's V {strength:.2f}, p {p:.2g}{more}"
    return [Finding("site-confounded", f"{text}; test on sites that were not trained on")]


def independence(table: NDArray[np.int64]) -> float:
    """Return the p-value of rows and columns of counts having nothing to do with each other."""
    if table.shape == (2, 2):
        return float(fisher_exact(table).pvalue)
    found = chi2_contingency(table, correction=False)
    if found.expected_freq.min() >= 5:
        return float(found.pvalue)
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(len(table)), table.sum(axis=1))
    column = np.concatenate([np.repeat(np.arange(table.shape[1]), counts) for counts in table])
    as_strong = 0
    for _ in range(PERMUTATIONS):
        cells = np.bincount(
            row * table.shape[1] + rng.permutation(column), minlength=table.size
        ).reshape(table.shape)
        statistic = ((cells - found.expected_freq) ** 2 / found.expected_freq).sum()
        as_strong += statistic >= found.statistic - 1e-9
    return (as_strong + 1) / (PERMUTATIONS + 1)


def _apart(
    slides: Sequence[Sortable], group: Sequence[int], folds: Sequence[Fold]
) -> Iterator[tuple[str, str]]:
    """Yield each fold that parts `group`, with how; without folds, whether patients part it."""
    for where, parts in folds:
        sides = [side for side, indices in parts.items() if set(group) & set(indices)]
        if len(sides) > 1:
            yield where, f", in {' and '.join(sides)}"
    patients = sorted({slides[i].patient_id for i in group})
    if not folds and len(patients) > 1:
        yield "", f", of patients {' and '.join(patients)}"


def _names(slides: Sequence[Sortable], group: Sequence[int]) -> str:
    return " and ".join(slides[i].slide_id for i in group)


def _candidates(slides: Sequence[Sortable], tiles: Callable[[int], Tiles]) -> list[tuple[int, int]]:
    """Return all pairs of slides if they are few, else those of nearest mean embedding."""
    count = len(slides)
    if count * (count - 1) // 2 <= ALL_PAIRS:
        return list(combinations(range(count), 2))
    means = [_unit(bag).mean(axis=0) if len(bag := tiles(i).embeddings) else None
             for i in range(count)]  # fmt: skip
    has = [i for i, mean in enumerate(means) if mean is not None]
    rows = np.stack([mean for mean in means if mean is not None])
    rows = _unit(rows - rows.mean(axis=0))
    pairs: set[tuple[int, int]] = set()
    for position, row in enumerate(rows):
        for other in np.argsort(-(rows @ row), kind="stable")[: NEIGHBOURS + 1]:
            if other != position:
                a, b = sorted((has[position], has[int(other)]))
                pairs.add((a, b))
    return sorted(pairs)


def _usual_distance(tiles: Callable[[int], Tiles], indices: Sequence[int]) -> float:
    """Return the median distance of a tile to the nearest other one, of its slide or another."""
    pool = np.concatenate([
        bag[_spread(len(bag), POOLED)] for i in indices[:200]
        if len(bag := _unit(tiles(i).embeddings))
    ] or [np.empty((0, 1), np.float32)])  # fmt: skip
    return float(np.median(_nearest(pool, pool, own=True))) if len(pool) > 1 else 0.0


def _agreement(a: Tiles, b: Tiles) -> tuple[float, int]:
    """Return the share and number of A's tiles whose nearest tile in B is displaced alike."""
    chosen = _spread(len(a.embeddings), TILES)
    own, other = _unit(a.embeddings[chosen]), _unit(b.embeddings)
    best, nearest = np.full(len(own), -np.inf), np.zeros(len(own), np.int64)
    for start in range(0, len(other), BLOCK):
        cosine = own @ other[start : start + BLOCK].T
        top = cosine.argmax(axis=1)
        value = cosine[np.arange(len(own)), top]
        nearest = np.where(value > best, top + start, nearest)
        best = np.maximum(best, value)
    moved = b.places[nearest] - a.places[chosen]
    apart = np.abs(moved[:, None] - moved[None, :]).max(axis=2)  # (n, n)
    count = int((apart <= SAME_PLACE).sum(axis=1).max())
    return count / len(own), count


def _close_share(a: Tiles, b: Tiles, usual: float) -> float:
    own, other = _unit(a.embeddings), _unit(b.embeddings)
    scale = np.full(len(own), usual)
    if len(own) > 1:
        scale = np.minimum(scale, _nearest(own, own, own=True))
    # Two of one slide's tiles that are all but alike have no double of note in another.
    return float(((_nearest(own, other) <= CLOSENESS * scale) & (scale > 1e-4)).mean())


def _spread(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of `count` indices, evenly spread."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _nearest(tiles: Floats, others: Floats, *, own: bool = False) -> NDArray[np.float64]:
    """Return the distance of each of `tiles` to the nearest of `others`, of unit length all.

    With `own` the tiles are among the others: the nearest (itself) is passed over.
    """
    best = np.full((len(tiles), 2), -np.inf)
    for start in range(0, len(others), BLOCK):
        cosine = tiles @ others[start : start + BLOCK].T
        top = np.partition(np.concatenate([best, cosine], axis=1), -2, axis=1)[:, -2:]
        best = top[:, ::-1]
    cosine = best[:, 1 if own else 0]
    distance: NDArray[np.float64] = np.sqrt(np.maximum(2 - 2 * cosine, 0.0))
    return distance


def _unit(bag: Floats) -> Floats:
    bag = np.asarray(bag, np.float32)
    length = np.sqrt(np.square(bag).sum(axis=-1, keepdims=True))
    unit: Floats = np.divide(bag, np.where(length > 0, length, np.float32(1)), dtype=np.float32)
    return unit
