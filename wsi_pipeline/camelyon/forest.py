"""Heat-map features of predicted maps, and tables of them, for the forest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mil_models.heatmap_features import FEATURES, heatmap_features
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.files import MAPS
from wsi_pipeline.camelyon.maps import load_map
from wsi_pipeline.camelyon.tables import IS_TUMOUR, few, read_rows
from wsi_pipeline.errors import UsageError, as_usage_error
from wsi_pipeline.models import require_models


def train_forest(
    source: Path, labels: Path | None, out: Path, *, folds: int, seed: int
) -> dict[str, Any]:
    """Fit a forest on the maps of a folder of predictions, or on a table of features.

    Return its cross-validated figures. Slides whose column split is test are left out.

    Parameters
    ----------
    source
        Folder of `wsi camelyon predict`, or CSV with slide, label (1, 0) and the features.
    labels
        CSV with slide_id, label, and if wanted patient_id and split; for a folder.
    """
    require_models()
    from mil_models.heatmap_forest import FeatureRow
    from mil_models.heatmap_forest import train_forest as fit
    from mil_models.metrics import auroc, patient_interval

    found = _of_table(source) if source.is_file() else _of_maps(source, labels)
    rows = [FeatureRow(**one) for one in found]
    with as_usage_error():
        forest = fit(rows, out, folds=folds, seed=seed)
    names = [row.patient_id for row in rows]
    targets = np.array([row.is_tumour for row in rows], np.int64)
    scores = np.array([forest.out_of_fold[row.slide_id] for row in rows])
    both = np.stack([1 - scores, scores], axis=1)
    drawn = patient_interval(targets, both, names, seed=seed)
    return {
        "slides": len(rows), "tumour": int(targets.sum()), "auroc": auroc(targets, both),
        "auroc_low": None if drawn is None else drawn[0],
        "auroc_high": None if drawn is None else drawn[1],
    }  # fmt: skip


def _of_maps(folder: Path, labels: Path | None) -> list[dict[str, Any]]:
    if labels is None:
        raise UsageError("--maps takes a folder of predictions with --labels, or a table")
    found, missing = [], []
    for row in _labelled(labels):
        path = folder / MAPS / f"{row['slide_id']}.npz"
        if row.pop("split") == "test":
            continue
        if not path.exists():
            missing.append(row["slide_id"])
            continue
        with as_usage_error():
            features = heatmap_features(load_map(path).values)
        found.append({**row, "features": features})
    if missing:
        raise UsageError(f"{folder}: no map of {few(missing)}; predict these slides first")
    return found


def _labelled(labels: Path) -> list[dict[str, Any]]:
    rows = read_rows(labels)
    header = rows[0][1] if rows else []
    if not {"slide_id", "label"} <= set(header):
        raise ChallengeTableError(f"{labels.name}: needs the columns slide_id and label")
    found = []
    for place, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        found.append(
            {
                "slide_id": row["slide_id"],
                "patient_id": row.get("patient_id") or row["slide_id"],
                "is_tumour": _is_tumour(place, row.get("label", "")),
                "split": row.get("split", ""),
            }
        )
    return found


def _of_table(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    header = rows[0][1] if rows else []
    missing = [name for name in ("slide", "label", *FEATURES) if name not in header]
    if missing:
        raise ChallengeTableError(f"{path.name}: no column {few(missing)}")
    found = []
    for place, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        found.append(
            {
                "slide_id": row["slide"],
                "patient_id": row.get("patient") or row["slide"],
                "is_tumour": _is_tumour(place, row["label"]),
                "features": np.array([_number(place, name, row) for name in FEATURES]),
            }
        )
    return found


def _is_tumour(place: str, text: str) -> bool:
    if text.lower() not in IS_TUMOUR:
        raise ChallengeTableError(f"{place}: label is {text!r}; use tumor or normal, 1 or 0")
    return IS_TUMOUR[text.lower()]


def _number(place: str, name: str, row: Mapping[str, str]) -> float:
    """Return a feature; an empty cell is a region that is not there: 0."""
    try:
        value = float(row.get(name) or 0)
    except ValueError as err:
        raise ChallengeTableError(f"{place}: {name} is {row[name]!r}, no number") from err
    if not np.isfinite(value):
        raise ChallengeTableError(f"{place}: {name} is {row[name]!r}, no finite number")
    return value
