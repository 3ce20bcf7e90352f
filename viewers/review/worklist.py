"""Which slide to read next: the slides of a run, the most urgent first, or of a folder, by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tiling.errors import StoreError, StoreOpenError
from tiling.nodes import Json, slug_of
from tiling.slide_folder import slides_below
from tiling.store import SlideStore, iter_stores
from viewers.errors import ReviewError
from viewers.review.log import read_verdicts, review_path
from viewers.review.opened import opened_by
from viewers.review.scores import positive_score


@dataclass(frozen=True, slots=True)
class WorklistRow:
    """A slide of a run, or of a folder.

    Attributes
    ----------
    path
        Where its store is; or the slide itself, where there is none.
    has_store
        Which of the two.
    score, operating_point
        The positive class's probability and the score from which a slide is positive; None where
        there is none.
    urgency
        The score in units of the operating point (1 is on it), or the score itself where the
        model has no operating point; NaN for a slide without a score.
    label
        The model's answer in a word; or why there is none.
    read
        Regions on which this reader gave a verdict; of a slide without a score, 1 once it was
        opened.
    """

    slide_id: str
    path: str
    prediction: str
    score: float | None
    operating_point: float | None
    urgency: float
    label: str
    read: int
    has_store: bool = True


def read_worklist(
    out: str | Path, *, reader: str = "", prediction: str | None = None
) -> list[WorklistRow]:
    """Return the slides of a run, the most urgent first, or of a folder; without a score last.

    Parameters
    ----------
    out
        Output folder of a run, or its ``stores`` folder; or a folder of slides, at any depth.
    reader
        Whose verdicts count as read; without a name none do.
    prediction
        The model's name in the stores (``abmil``, or with its hash), where they hold several; the
        first by name otherwise. Scores of parts of a slide (``--within``) are left out.

    Raises
    ------
    ReviewError
        There is neither a store nor a slide in it.
    """
    seen = opened_by(reader)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a store that a run is just making
            stores = list(iter_stores(out))
    except StoreOpenError:
        found = slides_below(Path(out)) if Path(out).is_dir() else []
        if not found:
            raise ReviewError(
                f"{out}: neither a run (slide stores) nor a slide here; choose what `wsi run -o` "
                "made, or a folder of slides"
            ) from None
        return sort_by_urgency(_slide_row(name, path, seen) for name, path in found)
    return sort_by_urgency(_row(store, reader, prediction, seen) for store in stores)


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


def _slide_row(slide_id: str, path: str, seen: set[str]) -> WorklistRow:
    return _unscored(slide_id, path, path, "not scored yet", seen, has_store=False)


def _unscored(
    slide_id: str, path: str, slide: str, why: str, seen: set[str], *, has_store: bool = True
) -> WorklistRow:
    read = int(str(Path(slide).resolve()) in seen)
    return WorklistRow(slide_id, path, "", None, None, math.nan, why, read, has_store)


def _row(store: SlideStore, reader: str, prediction: str | None, seen: set[str]) -> WorklistRow:
    slide = store.slide_path
    try:
        names = store.whole_slide_predictions()
    except StoreError as err:
        return _unscored(store.slide_id, store.path, slide, str(err), seen)
    fitting = [n for n in names if prediction is None or prediction in (n, slug_of(n))]
    if not fitting:
        why = store.attrs["tiles"]["reason"] or "not scored yet"
        return _unscored(store.slide_id, store.path, slide, why, seen)
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
