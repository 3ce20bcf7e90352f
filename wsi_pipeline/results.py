"""What a run leaves beside the stores: ``run.json``, ``predictions.csv``, ``report.html``."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiling.atomic import replacing
from tiling.store import Prediction, SlideStore
from wsi_pipeline import __version__

RECORDED_PACKAGES = (
    "dask", "imagecodecs", "numpy", "openslide-bin", "openslide-python", "pydicom", "scikit-image",
    "simplejpeg", "tifffile", "tiffslide", "timm", "torch", "wsidicom", "zarr",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Return the installed versions of what figures depend on."""
    found = {"python": platform.python_version(), "wsi-pipeline": __version__}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write a CSV, whole or not at all.

    The columns are those of the first row if not given; of no row only slide_id.
    """
    names = columns or (list(rows[0]) if rows else ["slide_id"])
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True, slots=True)
class ScoredSlide:
    """A slide of a run, its store and score as far as there are any, and why it failed, if so."""

    slide_id: str
    store: SlideStore | None
    prediction: Prediction | None
    failure: str = ""


def write_predictions(path: Path, outputs: Mapping[str, str], slides: Iterable[ScoredSlide]) -> int:
    """Write ``predictions.csv``: one row per slide; one that has no score says why.

    Columns: slide_id, label, a column for each of the model's `outputs`, positive (whether the
    score reaches the model's operating point; empty where it has none), tiles, bad_tiles,
    seen_in_training, reason. Return the number of slides that have a score.
    """
    columns = ["slide_id", "label", *outputs.values(), "positive", "tiles", "bad_tiles",
               "seen_in_training", "reason"]  # fmt: skip
    scored = 0
    with (
        replacing(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for slide in slides:
            scored += slide.prediction is not None
            writer.writerow(_prediction_row(slide, outputs))
    return scored


def _prediction_row(slide: ScoredSlide, outputs: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"slide_id": slide.slide_id, "reason": slide.failure}
    if slide.store is not None:
        row["tiles"] = len(slide.store)
        row["reason"] = slide.failure or slide.store.grid.reason
    if slide.prediction is not None:
        attrs = slide.prediction.attrs
        row |= {outputs[name]: f"{v:.6f}" for name, v in slide.prediction.scores.items()}
        row["label"] = slide.prediction.label
        is_positive = attrs.get("is_positive")
        row["positive"] = "" if is_positive is None else str(is_positive).lower()
        row["bad_tiles"] = attrs["bad_tiles"]
        row["seen_in_training"] = str(attrs["seen_in_training"]).lower()
    return row


def find_prediction(
    store: SlideStore, model_id: str, *, part: str | None = None
) -> Prediction | None:
    """Return what the model called `model_id` said of the slide, or None.

    `part` is the hash of the tiles inside a region, as :func:`mil_models.prediction.mask_hash`
    gives it; without it the whole slide is meant.
    """
    for name in store.prediction_names():
        attrs = store.prediction_attrs(name)
        if (attrs["model_id"], (attrs.get("within") or {}).get("sha256")) == (model_id, part):
            return store.prediction(name)
    return None
