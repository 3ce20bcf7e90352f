"""How far readers agree: the same regions, read blind to each other."""

from __future__ import annotations

import csv
import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tiling.atomic import replacing
from viewers.errors import ReviewError
from viewers.review.log import ANSWERS, Verdict, latest, read_verdicts

ALL_SLIDES = "all"
COLUMNS = (
    "slide_id", "reader", "rank", "x0", "y0", "width", "height", "score", "answer", "note",
    "time", "prediction", "model_id", "version",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two readers on a slide, or on all of them (`ALL_SLIDES`).

    Attributes
    ----------
    regions
        How many both gave a verdict on.
    agreed
        How many of them got the same.
    kappa
        Cohen's kappa over agree, disagree and unsure; None where it is not defined: no region, or
        one verdict only.
    """

    slide_id: str
    first: str
    second: str
    regions: int
    agreed: int
    kappa: float | None


def read_reviews(out: str | Path) -> list[Verdict]:
    """Return every reader's last word on every region, by slide, rank and reader.

    Parameters
    ----------
    out
        Output folder of a run, or its ``reviews`` folder.

    Raises
    ------
    ReviewError
        There is no review in it.
    """
    root = Path(out)
    root = root / "reviews" if (root / "reviews").is_dir() else root
    paths = sorted(root.glob("*/*.jsonl"))
    if not paths:
        raise ReviewError(f"{out}: no reviews here; review slides in napari first")
    found: list[Verdict] = []
    for path in paths:
        found += latest(read_verdicts(path)).values()
    models = {v.model_id for v in found}
    if len(models) > 1:
        warnings.warn(
            f"reviews of {len(models)} models: regions are compared within a model", stacklevel=2
        )
    return sorted(found, key=lambda v: (v.slide_id, v.model_id, v.rank, v.reader))


def agreement_table(verdicts: Iterable[Verdict]) -> list[Agreement]:
    """Return each pair of readers slide by slide, and over all slides where they shared several.

    Regions that one of the two left open do not count.

    References
    ----------
    Cohen 1960, "A coefficient of agreement for nominal scales", Educ. Psychol. Meas. 20:37.
    """
    answered = [v for v in verdicts if v.answer is not None]
    by_reader: dict[str, dict[tuple[object, ...], Verdict]] = {}
    for verdict in answered:
        by_reader.setdefault(verdict.reader, {})[verdict.key] = verdict
    rows = []
    for first, second in itertools.combinations(sorted(by_reader), 2):
        shared = [k for k in by_reader[first] if k in by_reader[second]]
        pairs = [(k[0], by_reader[first][k].answer, by_reader[second][k].answer) for k in shared]
        slides = sorted({str(slide) for slide, _, _ in pairs})
        for slide in slides:
            here = [(str(a), str(b)) for s, a, b in pairs if s == slide]
            rows.append(_agreement(slide, first, second, here))
        if len(slides) != 1:
            everything = [(str(a), str(b)) for _, a, b in pairs]
            rows.append(_agreement(ALL_SLIDES, first, second, everything))
    return rows


def write_reviews(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts as CSV, a row each; whole or not at all."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for verdict in verdicts:
            row = asdict(verdict)
            row |= row.pop("box")
            writer.writerow({name: "" if row[name] is None else row[name] for name in COLUMNS})


def _agreement(slide: str, first: str, second: str, pairs: list[tuple[str, str]]) -> Agreement:
    from mil_models.weighted import confusion, kappa

    agreed = sum(a == b for a, b in pairs)
    if not pairs:
        return Agreement(slide, first, second, 0, 0, None)
    said = np.array([[ANSWERS.index(a) for a in pair] for pair in pairs])
    matrix = confusion(said[:, 0], said[:, 1], len(ANSWERS), np.ones((1, len(pairs))))
    value = float(kappa(matrix, quadratic=False)[0])
    return Agreement(
        slide, first, second, len(pairs), agreed, value if np.isfinite(value) else None
    )
