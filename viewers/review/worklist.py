"""Which slide to read next: the slides of a run, the most urgent first."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiling.errors import StoreError, StoreOpenError
from tiling.nodes import Json, slug_of
from tiling.store import SlideStore, iter_stores
from viewers.errors import ReviewError
from viewers.review.log import read_verdicts, review_path
from viewers.review.scores import positive_score


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """A slide of a run.

    Attributes
    ----------
    store
        Where its store is.
    score, operating_point
        The positive class's probability and the score from which a slide is positive; None where
        there is none.
    urgency
        The score in units of the operating point (1 is on it), or the score itself where the
        model has no operating point; NaN for a slide without a score.
    label
        The model's answer in a word; or why there is none.
    read
        Regions on which this reader gave a verdict.
    """

    slide_id: str
    store: str
    prediction: str
    score: float | None
    operating_point: float | None
    urgency: float
    label: str
    read: int


def read_worklist(
    out: str | Path, *, reader: str = "", prediction: str | None = None
) -> list[WorklistRow]:
    """Return the slides of a run, the most urgent first, those without a score last.

    Parameters
    ----------
    out
        Output folder of a run, or its ``stores`` folder.
    reader
        Whose verdicts count as read; without a name none do.
    prediction
        The model's name in the stores (``abmil``, or with its hash), where they hold several; the
        first by name otherwise. Scores of parts of a slide (``--within``) are left out.

    Raises
    ------
    ReviewError
        There is no store in it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a store that a run is just making
            stores = list(iter_stores(out))
    except StoreOpenError as err:
        raise ReviewError(f"{out}: no run here (no slide stores); choose what `wsi run -o` made") \
            from err  # fmt: skip
    return sort_by_urgency(_row(store, reader, prediction) for store in stores)


def sort_by_urgency(rows: Iterable[WorklistRow]) -> list[WorklistRow]:
    """Return rows, the most urgent first, those without a score last, equal ones by name."""
    unscored = math.inf

    def order(row: WorklistRow) -> tuple[float, str]:
        return (unscored if math.isnan(row.urgency) else -row.urgency, row.slide_id)

    return sorted(rows, key=order)


def filtered(
    rows: Iterable[WorklistRow], text: str = "", *, unread: bool = False, positive: bool = False
) -> list[WorklistRow]:
    """Return the rows whose name or label holds `text`, in any case.

    Parameters
    ----------
    unread
        Only those that this reader has not begun.
    positive
        Only those at or above the operating point, or 0.5 where there is none.
    """
    wanted = text.strip().casefold()
    return [
        row
        for row in rows
        if wanted in f"{row.slide_id} {row.label}".casefold()
        and not (unread and row.read)
        and not (positive and not is_positive(row))
    ]


def is_positive(row: WorklistRow) -> bool:
    """Whether a slide's score reaches the operating point, or 0.5 where the model has none."""
    return row.score is not None and row.score >= (
        0.5 if row.operating_point is None else row.operating_point
    )


def next_unread(rows: Sequence[WorklistRow], after: str = "") -> WorklistRow | None:
    """Return the first unread row below the slide `after`, or from the top; None if all are read.

    Parameters
    ----------
    after
        A slide_id; "" starts at the top.
    """
    names = [row.slide_id for row in rows]
    start = names.index(after) + 1 if after in names else 0
    return next((row for row in [*rows[start:], *rows[:start]] if not row.read), None)


def _row(store: SlideStore, reader: str, prediction: str | None) -> WorklistRow:
    try:
        names = store.whole_slide_predictions()
    except StoreError as err:
        return WorklistRow(store.slide_id, store.path, "", None, None, math.nan, str(err), 0)
    fitting = [n for n in names if prediction is None or prediction in (n, slug_of(n))]
    if not fitting:
        why = store.attrs["tiles"]["reason"] or "not scored yet"
        return WorklistRow(store.slide_id, store.path, "", None, None, math.nan, why, 0)
    attrs = store.prediction_attrs(fitting[0])
    _, score, point = positive_score(attrs)
    label = str(attrs.get("label", max(attrs["scores"], key=attrs["scores"].__getitem__)))
    return WorklistRow(
        store.slide_id, store.path, fitting[0], score, point,
        score / point if point else score, label, _read_by(store, reader, attrs),
    )  # fmt: skip


def _read_by(store: SlideStore, reader: str, attrs: Json) -> int:
    if not reader.strip():
        return 0
    verdicts = read_verdicts(review_path(store.path, store.slide_id, reader))
    return len({v.box for v in verdicts if v.answer and v.model_id == attrs["model_id"]})
