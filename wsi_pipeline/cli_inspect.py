"""Commands that show what is there: of a slide, of encoders, of this machine, of reviews."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tiling.urls import redacted
from wsi_pipeline.cli_flags import AsJson, Flag, SlideMpp, examples
from wsi_pipeline.config import (
    ReaderName,
    check_slide_mpp,
)

if TYPE_CHECKING:
    from tiling.comparison import Comparison

inspect = App()


@inspect.command(
    help_epilogue=examples(
        "wsi info slide.svs",
        "wsi info slide.svs --json",
        "wsi info slide.svs --compare",
        "wsi info s3://bucket/slide.svs",
    )
)
def info(
    slide: str,
    /,
    *,
    reader: ReaderName = "auto",
    slide_mpp: SlideMpp = None,
    compare: Annotated[bool, Flag] = False,
    json_: AsJson = False,
) -> int:
    """Show a slide's size, levels and pixel size, and what is doubtful about them.

    Parameters
    ----------
    slide
        A slide file, a folder that is one (OME-Zarr, a DICOM series), or a URL.
    reader
        Which library opens it.
    compare
        Also read it with every reader that opens it, and say where their pixels differ.
    """
    from tiling.comparison import compare_readers
    from wsi_pipeline.info import slide_info

    check_slide_mpp(slide_mpp)
    found = slide_info(slide, reader=reader, mpp=slide_mpp)
    compared = compare_readers(slide) if compare else None
    if compared is not None:
        found["comparison"] = compared.to_dict()
    if json_:
        print(json.dumps(found))
        return 0
    table = Table(show_header=False, box=None)
    for key, value in found.items():
        if key == "comparison":
            continue
        if key == "levels":
            value = [f"{v['width']} x {v['height']} (1/{v['downsample']:.6g})" for v in value]
        elif key == "refused_by":
            value = [f"{name}: {reason}" for name, reason in value.items()]
        if isinstance(value, list):
            value = "\n".join(value) or "none"
        table.add_row(f"[bold]{key}[/]", "unknown" if value is None else escape(str(value)))
    Console().print(table)
    if compared is not None:
        _show_comparison(compared)
    return 0


def _show_comparison(compared: Comparison) -> None:
    table = Table(
        title=f"Grey levels, of 255, by which pixels differ from those of {compared.reference}",
        caption=f"{compared.places} places on tissue. Tiles: {compared.ratio} level-0 px per px; "
        "exact is averaged from full resolution, default may be shrunk while it is decoded.",
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("reader", "levels at their own scale", "exact tiles", "default tiles"):
        table.add_column(heading, overflow="fold")
    for report in compared.readers:
        if report.problem:
            table.add_row(report.reader, f"not opened: {escape(redacted(report.problem))}")
        elif report.reader == compared.reference:
            table.add_row(report.reader, "the reference", "the reference", str(report.default))
        else:
            exact, default = str(report.exact), str(report.default)
            table.add_row(report.reader, report.at_own_scale, exact, default)
    Console().print(table)


@inspect.command(
    help_epilogue=examples(
        "wsi encoders", "wsi encoders virchow2", "wsi encoders my.toml", "wsi encoders --json"
    )
)
def encoders(name: str | None = None, /, *, json_: AsJson = False) -> int:
    """List the encoders: whether they can be used here, their licence, tiles and proof.

    Parameters
    ----------
    name
        Show one in full: an encoder, a TOML file that describes one, or any timm model.
    """
    from wsi_pipeline.encoder_list import describe, encoder_list, encoder_table

    if name is not None:
        found = describe(name)
        if json_:
            print(json.dumps(found))
            return 0
        table = Table(show_header=False, box=None)
        for key, value in found.items():
            table.add_row(f"[bold]{key}[/]", escape(str(value)))
        Console().print(table)
        return 0
    rows = encoder_list()
    if json_:
        print(json.dumps(rows))
        return 0
    Console().print(encoder_table(rows))
    return 0


@inspect.command(help_epilogue=examples("wsi doctor", "wsi doctor --json"))
def doctor(*, json_: AsJson = False) -> int:
    """Show what is installed: readers, device, offline weights, viewer."""
    from wsi_pipeline.doctor import examine

    report = examine()
    if json_:
        print(json.dumps(report))
        return 0
    table = Table(show_header=False, box=None)
    for section, entries in report.items():
        table.add_row(f"[bold]{section}[/]", "")
        for key, value in entries.items():
            table.add_row(f"  {key}", escape(str(value)))
    Console().print(table)
    return 0


@inspect.command(
    help_epilogue=examples("wsi reviews out", "wsi reviews out --csv reviews.csv --json")
)
def reviews(out: Path, /, *, csv: Path | None = None, json_: AsJson = False) -> int:
    """Show how far the readers of a run agree: Cohen's kappa, slide by slide and over all.

    Parameters
    ----------
    out
        Output folder of `wsi run` whose slides were reviewed in napari.
    csv
        Write every reader's last verdict on every region there.
    """
    from viewers.review.agreement import agreement_table, read_reviews, write_reviews
    from viewers.review.log import write_spared

    write_spared()  # what a full disk did not take then
    verdicts = read_reviews(out)
    if csv is not None:
        write_reviews(csv, verdicts)
    rows = agreement_table(verdicts)
    readers = sorted({verdict.reader for verdict in verdicts})
    if json_:
        print(json.dumps({"verdicts": len(verdicts), "readers": readers,
                          "agreement": [asdict(row) for row in rows]}))  # fmt: skip
        return 0
    table = Table("slide", "first reader", "second reader", "regions", "agreed", "kappa", box=None)
    for row in rows:
        kappa = "not defined" if row.kappa is None else f"{row.kappa:.3f}"
        cells = (row.slide_id, row.first, row.second, str(row.regions), str(row.agreed), kappa)
        table.add_row(*map(escape, cells))
    console = Console()
    if rows:
        console.print(table)
    slides = len({verdict.slide_id for verdict in verdicts})
    text = f"{len(verdicts)} verdicts on {slides} slides by {', '.join(readers)}"
    console.print(escape(text), highlight=False, soft_wrap=True)
    return 0
