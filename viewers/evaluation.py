"""One self-contained HTML page about an evaluation: figures, charts, subgroups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from tiling.atomic import replacing


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: a heading, remarks, charts (caption to data URI), and a table."""

    title: str
    notes: tuple[str, ...] = ()
    charts: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[Any]] = ()


def write_evaluation(
    path: str | Path,
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    parameters: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page; it asks nothing of the network."""
    path = Path(path)
    environment = Environment(loader=PackageLoader("viewers"), autoescape=True)
    page = environment.get_template("evaluation.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        parameters=parameters,
        warnings=warnings,
        number=_text,
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _text(value: Any) -> str:
    """Return a cell as people read it: three decimals, or four significant for the very small.

    Examples
    --------
    >>> _text(0.91234), _text(0.0000321), _text(None), _text(12)
    ('0.912', '3.21e-05', '–', '12')
    """
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
    return str(value)
