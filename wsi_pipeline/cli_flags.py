"""Flags that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

SLIDES_HELP = "Files, folders, globs, URLs, or a manifest CSV (path; if wanted slide_id, mpp)."
OUT_HELP = "Output folder; what is there already is kept."
Slides = Annotated[list[str], Parameter(negative="", help=SLIDES_HELP)]
Out = Annotated[Path, Parameter(name=["--out", "-o"], help=OUT_HELP)]
SlideMpp = Annotated[
    float | None, Parameter(help="Pixel size at level 0 in µm, in place of what the slide states.")
]
Stores = Annotated[Path, Parameter(help="Output folder of `wsi embed` or `wsi run`.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
Flag = Parameter(negative="")


def examples(*lines: str) -> str:
    """Return what stands below a command's help."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)
