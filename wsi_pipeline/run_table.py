"""The run table: one row per slide and stage, what became of it, and why."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from tiling.atomic import replacing
from wsi_pipeline.errors import UsageError

SAVE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class StageRow:
    """What one stage did to one slide.

    `status` is done, skipped (nothing to do; `reason` says why) or failed. `embedded` is the
    number of tiles that were embedded now, not before, and `encoder_seconds` how long the encoder
    was at work on them.
    """

    slide_id: str
    stage: str
    status: Literal["done", "skipped", "failed"]
    reason: str = ""
    seconds: float = 0.0
    tiles: int = 0
    bad_tiles: int = 0
    embedded: int = 0
    encoder_seconds: float = 0.0


class RunTable:
    """``run_table.csv`` of an output folder: rows of earlier runs stay until a stage runs again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], StageRow] = {}
        self._saved = 0.0
        if path.exists():
            self._load()

    def add(self, rows: Iterable[StageRow]) -> None:
        """Take in what a slide's stages reported; written to disk every few seconds."""
        for row in rows:
            self._put(row)
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the table, whole or not at all."""
        with (
            replacing(self.path) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [f.name for f in fields(StageRow)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows.values())
        self._saved = time.monotonic()

    def _load(self) -> None:
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self._put(_parse(row))
        except (KeyError, TypeError, ValueError) as err:
            raise UsageError(
                f"{self.path}: not a run table of ours ({err}); move it away and run again"
            ) from err

    def _put(self, row: StageRow) -> None:
        self.rows[row.slide_id, row.stage] = row


def _parse(row: dict[str, str]) -> StageRow:
    return StageRow(
        slide_id=row["slide_id"],
        stage=row["stage"],
        status=row["status"],  # type: ignore[arg-type]  # our own file
        reason=row["reason"],
        seconds=float(row["seconds"]),
        tiles=int(row["tiles"]),
        bad_tiles=int(row["bad_tiles"]),
        embedded=int(row.get("embedded") or 0),
        encoder_seconds=float(row.get("encoder_seconds") or 0),
    )
