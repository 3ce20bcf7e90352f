"""One self-contained HTML page about a run: every slide, its score, where the model looked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from tiling.atomic import replacing

OVERVIEW_PX = 900
SHEET_PX = 1200
JPEG_QUALITY = 82


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One slide of the page.

    Attributes
    ----------
    status, reason
        done or failed, and why; a finished slide may have a reason too (no tissue).
    scores
        Probability by class; empty without a model.
    positive
        The class that the page is sorted by.
    notes
        What the reader must know about this slide's score.
    overview, sheet
        Pictures to embed, or None.
    """

    slide_id: str
    status: str
    reason: str = ""
    tiles: int = 0
    bad_tiles: int = 0
    tissue_mm2: float | None = None
    label: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    positive: str = ""
    notes: tuple[str, ...] = ()
    overview: Path | None = None
    sheet: Path | None = None

    @property
    def score(self) -> float | None:
        """The score that the page is sorted by."""
        return self.scores.get(self.positive)


def write_report(
    path: str | Path,
    *,
    title: str,
    rows: Sequence[ReportRow],
    parameters: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Path:
    """Write the page: highest score first, slides without a score next, failed ones last.

    It asks nothing of the network: pictures, style and script are in it.
    """
    path = Path(path)
    environment = Environment(loader=PackageLoader("viewers"), autoescape=True)
    classes = list(dict.fromkeys(name for row in rows for name in row.scores))
    page = environment.get_template("report.html").render(
        title=title,
        rows=sorted(rows, key=_order),
        classes=classes,
        parameters=parameters,
        notes=notes,
        failed=sum(row.status == "failed" for row in rows),
        picture=_data_uri,
        overview_px=OVERVIEW_PX,
        sheet_px=SHEET_PX,
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _order(row: ReportRow) -> tuple[bool, float, str]:
    return row.status == "failed", -(row.score if row.score is not None else -1.0), row.slide_id


def _data_uri(path: Path, max_px: int) -> str:
    """Return a picture, no larger than `max_px`, as a data URI."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((max_px, max_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
