"""A reader at work on a slide: the regions of one model, and what is said of them."""

from __future__ import annotations

import importlib.metadata

from tiling.store import Prediction, SlideStore
from viewers.review.keeper import KEEPER
from viewers.review.log import Answer, ReviewLog, Verdict
from viewers.review.regions import regions_of


class ReviewSession:
    """Regions are named by their row, 0 the highest.

    Attributes
    ----------
    log
        What the reader said; None before one has a name.
    """

    def __init__(self, store: SlideStore, prediction: Prediction) -> None:
        self.store = store
        self.prediction = prediction
        self.regions = regions_of(store, prediction.attention)
        self.log: ReviewLog | None = None

    def begin(self, reader: str) -> ReviewLog:
        """Take up a reader's file, and nobody else's.

        Raises
        ------
        ReviewError
            As :meth:`ReviewLog.open`; then nobody's is taken up.
        """
        self.end()
        self.log = KEEPER.open(self.store.path, self.store.slide_id, reader)
        KEEPER.hold(self.log)
        return self.log

    def end(self) -> None:
        """Let go of the file; what could not be written is kept on."""
        if self.log is not None:
            KEEPER.hold(self.log)
        self.log = None

    def said(self, row: int) -> Verdict | None:
        """Return the reader's last word on a region, or None."""
        return None if self.log is None else self.log.of(self._verdict(row).key)

    def answer(self, row: int) -> Answer | None:
        """Return the answer that stands; None where there is none, or a note only."""
        said = self.said(row)
        return None if said is None else said.answer

    def open_rows(self, after: int = -1) -> list[int]:
        """Return the regions below row `after` that have no answer."""
        return [r for r in range(after + 1, len(self.regions)) if self.answer(r) is None]

    def keep(self, reader: str, row: int, answer: Answer | None, note: str) -> None:
        """Write what `reader` says of a region, and what waits of earlier verdicts.

        Raises
        ------
        ReviewError
            The reader has no name; or it could not be written, and the message says where it is.
        """
        log = self.log or self.begin(reader)
        try:
            log.add(self._verdict(row, answer, note.strip()))
        finally:
            KEEPER.hold(log)
        complaint = KEEPER.flush()
        if complaint is not None:
            raise complaint

    def progress_text(self) -> str:
        """Return how far the reader is, and where the verdicts are."""
        done = len(self.regions) - len(self.open_rows())
        lines = [f"{done} of {len(self.regions)} regions read"]
        if not self.regions:
            lines = ["This model's attention is the same everywhere: no regions."]
        if self.log is not None:
            lines.append(f"kept in {self.log.path}")
        if KEEPER.at_risk:
            lines.append(f"{KEEPER.at_risk} NOT SAVED: make room on the disk, leave napari open")
        elif KEEPER.unsaved:
            lines.append(f"{KEEPER.unsaved} not there yet, but safe: make room on the disk")
        return "\n".join(lines)

    def _verdict(self, row: int, answer: Answer | None = None, note: str = "") -> Verdict:
        region, prediction = self.regions[row], self.prediction
        return Verdict(
            slide_id=self.store.slide_id,
            prediction=prediction.name,
            model_id=str(prediction.attrs.get("model_id", prediction.name)),
            version=importlib.metadata.version("wsi-pipeline"),
            rank=region.rank,
            box=region.box,
            score=region.peak,
            reader="",
            answer=answer,
            note=note,
        )
