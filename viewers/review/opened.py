"""Which slides a reader has opened; for slides that no model has scored, so that none is reviewed.

One JSON object a line in the user's data folder, which is only ever added to: a folder of slides is
often one that its readers cannot write to.
"""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs

from viewers.review.log import append_lines


def opened_path() -> Path:
    """Return the file."""
    return platformdirs.user_data_path("wsi-pipeline") / "opened_slides.jsonl"


def note_opened(slide: str, reader: str) -> None:
    """Keep that `reader` has opened the slide at the path `slide`.

    Raises
    ------
    ReviewError
        It cannot be written.
    """
    append_lines(opened_path(), [json.dumps({"slide": slide, "reader": reader.strip()})])


def opened_by(reader: str) -> set[str]:
    """Return the paths of the slides that `reader` has opened; none without a name."""
    try:
        lines = opened_path().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return {path for line in lines if reader.strip() and (path := _slide(line, reader.strip()))}


def _slide(line: str, reader: str) -> str | None:
    try:
        found = json.loads(line)
        return str(found["slide"]) if found["reader"] == reader else None
    except (ValueError, LookupError, TypeError):
        return None  # cut off by a crash, or none of ours
