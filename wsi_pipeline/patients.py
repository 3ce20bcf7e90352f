"""One answer for each patient: all slides of a patient as one bag."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import mil_models
from tiling.atomic import replacing
from tiling.errors import WSIError
from tiling.store import SlideStore, iter_stores
from tiling.urls import redacted
from wsi_pipeline.errors import UsageError, reason_of
from wsi_pipeline.models import load_model
from wsi_pipeline.split_check import match_stores, read_table


def predict_patients(stores: Path, model: Path, table: Path, out: Path) -> tuple[int, int]:
    """Score each patient of a table and write ``patients.csv`` into `out`.

    Columns: patient_id, label, a column for each of the model's outputs, positive, slides, reason;
    a patient without a score says why.

    Returns
    -------
    Patients in the table, and those that have no score.

    Raises
    ------
    UsageError
        The table lacks its columns, or names no slide that has a store.
    """
    loaded = load_model(model)
    slides, columns = read_table(table)
    if "patient_id" not in columns:
        raise UsageError(f"{table.name}: needs the column patient_id; it has {', '.join(columns)}")
    matched = match_stores(slides, list(iter_stores(stores)))
    if not matched:
        raise UsageError(f"{table.name}: none of its slides has a store in {stores}")
    of_patient: dict[str, list[SlideStore]] = defaultdict(list)
    missing: dict[str, list[str]] = defaultdict(list)
    for index, slide in enumerate(slides):
        if index in matched:
            of_patient[slide.patient_id].append(matched[index])
        else:
            missing[slide.patient_id].append(slide.slide_id)
    rows = []
    for patient in dict.fromkeys(slide.patient_id for slide in slides):
        row: dict[str, object] = {"patient_id": patient, "slides": len(of_patient[patient])}
        try:
            if missing[patient]:
                raise UsageError(f"no store of {', '.join(missing[patient])}; embed it first")
            found = mil_models.predict_patient(of_patient[patient], loaded)
        except WSIError as err:
            row["reason"] = redacted(reason_of(err))
        else:
            row["label"] = found.label
            row |= {
                column: f"{value:.6f}"
                for column, value in zip(loaded.columns.values(), found.scores, strict=True)
            }
            if found.is_positive is not None:
                row["positive"] = str(found.is_positive).lower()
        rows.append(row)
    names = ["patient_id", "label", *loaded.columns.values(), "positive", "slides", "reason"]
    path = out / "patients.csv"
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows), sum("reason" in row for row in rows)
