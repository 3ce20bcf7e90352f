"""The logs whose verdicts wait for room on a disk; they outlive the dock that they came from."""

from __future__ import annotations

from pathlib import Path

from viewers.errors import ReviewError
from viewers.review.log import ReviewLog, review_path


class Keeper:
    """Holds what could not be written, until it is."""

    def __init__(self) -> None:
        self.waiting: list[ReviewLog] = []

    def open(self, store: str | Path, slide_id: str, reader: str) -> ReviewLog:
        """Return a reader's log: the one that waits, if there is one.

        Raises
        ------
        ReviewError
            As :meth:`ReviewLog.open`.
        """
        path = review_path(store, slide_id, reader)
        waiting = [log for log in self.waiting if log.path == path]
        return waiting[0] if waiting else ReviewLog.open(store, slide_id, reader)

    def hold(self, log: ReviewLog) -> None:
        """Hold on to a log, if anything in it waits."""
        if log.unsaved and log not in self.waiting:
            self.waiting.append(log)

    @property
    def unsaved(self) -> int:
        """Verdicts that are not where they belong."""
        return sum(len(log.unsaved) for log in self.waiting)

    @property
    def at_risk(self) -> int:
        """Verdicts that are on no disk at all."""
        return sum(len(log.at_risk) for log in self.waiting)

    def flush(self) -> ReviewError | None:
        """Write what waits; return what was in the way of the last that could not be."""
        complaint: ReviewError | None = None
        for log in list(self.waiting):
            try:
                log.flush()
            except ReviewError as err:
                complaint = err
            else:
                self.waiting.remove(log)
        return complaint

    def save_to(self, folder: Path) -> list[Path]:
        """Write what waits to a folder that the reader chose; return the files.

        Raises
        ------
        ReviewError
            There is no room either.
        """
        return [log.save_to(folder) for log in self.waiting]


KEEPER = Keeper()
"""The one of this program."""
