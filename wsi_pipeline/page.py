"""Gather what the page of a run shows, and write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiling.store import Prediction, SlideStore
from viewers.report import ReportRow, write_report
from wsi_pipeline.results import package_versions
from wsi_pipeline.run_table import StageRow

if TYPE_CHECKING:
    from mil_models import Model


def write_page(
    out: Path,
    rows: Sequence[StageRow],
    *,
    stores: Mapping[str, SlideStore],
    predictions: Mapping[str, Prediction | None],
    parameters: Mapping[str, Any],
    model: Model | None,
    out_of_fold: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``report.html`` about the slides of a run.

    Parameters
    ----------
    rows
        What each stage did to each slide.
    out_of_fold
        Scores of training slides by models that did not see them.
    """
    by_slide: dict[str, list[StageRow]] = {}
    for row in rows:
        by_slide.setdefault(row.slide_id, []).append(row)
    positive = "" if model is None else model.positive
    page_rows = [
        _page_row(
            out, slide_id, stages, stores.get(slide_id), predictions.get(slide_id), positive,
            (out_of_fold or {}).get(slide_id),
        )
        for slide_id, stages in by_slide.items()
    ]  # fmt: skip
    described = {**parameters, "versions": package_versions()}
    if model is not None:
        described["model card"] = {k: v for k, v in model.card.items() if k != "versions"}
    return write_report(
        out / "report.html",
        title=f"Run {out.name}",
        rows=page_rows,
        parameters=described,
        notes=notes,
    )


def _page_row(
    out: Path,
    slide_id: str,
    stages: Sequence[StageRow],
    store: SlideStore | None,
    prediction: Prediction | None,
    positive: str,
    out_of_fold: float | None,
) -> ReportRow:
    failed = next((row for row in stages if row.status == "failed"), None)
    notes: list[str] = []
    if store is not None:
        notes += store.attrs["slide"]["warnings"]
    if prediction is not None and prediction.attrs["seen_in_training"]:
        text = "trained on this slide"
        if out_of_fold is not None:
            text += f"; out-of-fold {positive} score {out_of_fold:.3f}"
        notes.append(text)
    overview = out / "heatmaps" / f"{slide_id}.png"
    sheet = out / "heatmaps" / f"{slide_id}_tiles.png"
    return ReportRow(
        slide_id=slide_id,
        status="done" if failed is None else "failed",
        reason=failed.reason if failed else next((r.reason for r in stages if r.reason), ""),
        tiles=max(row.tiles for row in stages),
        bad_tiles=max(row.bad_tiles for row in stages),
        tissue_mm2=None if store is None else store.attrs["tissue"]["area_mm2"],
        label="" if prediction is None else prediction.label,
        scores={} if prediction is None else prediction.scores,
        positive=positive,
        notes=tuple(notes),
        overview=overview if failed is None and overview.exists() else None,
        sheet=sheet if prediction is not None and sheet.exists() else None,
    )
