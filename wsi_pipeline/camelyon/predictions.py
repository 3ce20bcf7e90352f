"""`wsi camelyon predict`: a model's maps, detections and scores of all slides of a run."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mil_models.detection import Detection, components, detect
from mil_models.heatmap_features import heatmap_features
from mil_models.staging import NODES as NODES_EACH
from tiling.atomic import replacing
from tiling.errors import WSIError
from tiling.store import SlideStore, iter_stores
from wsi_pipeline.camelyon.files import DETECTIONS, MAPS, NODES, SCORES, SETTINGS, SUBMISSION
from wsi_pipeline.camelyon.maps import TumourMap
from wsi_pipeline.camelyon.options import DetectOptions
from wsi_pipeline.camelyon.stages import NODE_NAME, stage_patients
from wsi_pipeline.camelyon.tables import few
from wsi_pipeline.errors import UsageError, as_usage_error, reason_of
from wsi_pipeline.models import load_model, require_models
from wsi_pipeline.results import write_json, write_rows

if TYPE_CHECKING:
    from mil_models.heatmap_forest import HeatmapForest
    from mil_models.tile_scores import Source, TileScores

SCORE_COLUMNS = (
    "slide",
    "score",
    "diameter_mm",
    "detections",
    "tiles",
    "heads",
    "seen_in_training",
)


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a run of predictions left: slides scored, and why others were not."""

    out: Path
    slides: int
    detections: int
    failed: dict[str, str]
    submission: bool


def predict_archive(
    stores: Path,
    model: Path,
    out: Path,
    *,
    source: Source = "auto",
    options: DetectOptions = DetectOptions(),
    out_of_fold: bool = True,
    forest: Path | None = None,
) -> Predicted:
    """Score every slide of `stores` and write maps, detections and tables into `out`.

    ``detections/<slide>.csv`` (probability,x,y; empty where nothing is found),
    ``maps/<slide>.npz``, ``scores.csv``, ``predict.json``; and of slides named as CAMELYON17's
    nodes ``nodes.csv`` with the longest diameter of tumour, and ``submission.csv`` where every
    patient has all nodes.

    Parameters
    ----------
    source
        See :func:`mil_models.tile_scores.tile_scores`.
    out_of_fold
        A slide that a fold of the model tested is scored by that fold's heads alone.
    forest
        Folder of a heat-map forest, which then scores the slides: its training slides out of fold.

    Raises
    ------
    UsageError, ModelError, ModelMismatchError
        The model is none, or says nothing of tiles; or `out` holds predictions of another model.
    """
    require_models()
    from mil_models.heatmap_forest import load_forest
    from mil_models.tile_scores import held_out_heads, tile_scores, used_heads

    folder = model.resolve()
    loaded = load_model(folder)
    held_out = held_out_heads(loaded, str(folder)) if out_of_fold else None
    trees = None if forest is None else load_forest(forest)
    settings = {
        "forest": None if trees is None else trees.card["table_sha256"][:16],
        "model": loaded.model_id, "head": loaded.card["head"], "source": source,
        "out_of_fold": out_of_fold, **asdict(options),
    }  # fmt: skip
    _check_settings(out, settings)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    diameters: dict[str, float] = {}
    for store in iter_stores(stores):
        try:
            found = tile_scores(loaded, store, source=source, held_out=held_out)
            detected, map_ = _write_slide(out, store, found, options)
        except WSIError as err:
            if _is_of_model(err):
                raise
            failed[store.slide_id] = reason_of(err)
            continue
        diameters[store.slide_id] = diameter_mm(map_, options.threshold)
        rows.append(
            {
                "slide": store.slide_id, "score": f"{_score(found, map_, trees, store):.9g}",
                "diameter_mm": f"{diameters[store.slide_id]:.4f}", "detections": len(detected),
                "tiles": len(store), "heads": used_heads(found.heads, len(loaded.heads)),
                "seen_in_training": str(found.seen_in_training).lower(), "kind": found.source,
            }
        )  # fmt: skip
    kinds = {row.pop("kind") for row in rows}
    write_rows(out / SCORES, rows, SCORE_COLUMNS)
    write_json(out / SETTINGS, {**settings, "kinds": sorted(kinds), "failed": failed})
    submission = _write_nodes(out, diameters)
    total = sum(row["detections"] for row in rows)
    return Predicted(out, len(rows), total, failed, submission)


def detections_in(map_: TumourMap, options: DetectOptions) -> list[Detection]:
    """Return the detections in a map, all within the slide."""
    cell_mm2 = map_.cell_px[0] * map_.mpp[0] * map_.cell_px[1] * map_.mpp[1] / 1e6
    found = detect(
        map_.values, cell_px=map_.cell_px, threshold=options.threshold, method=options.method,
        min_area=max(1, math.ceil(options.min_area_mm2 / cell_mm2)),
        radius_px=options.radius_um / map_.mpp[0],
    )  # fmt: skip
    right, bottom = map_.slide_size[0] - 1, map_.slide_size[1] - 1
    return [Detection(d.score, min(d.x0, right), min(d.y0, bottom)) for d in found]


def diameter_mm(map_: TumourMap, threshold: float) -> float:
    """Return the longest diameter of a connected part that reaches `threshold`; 0 without one."""
    found = components(map_.values, cell_px=map_.cell_px, threshold=threshold)
    return max((c.diameter_px for c in found), default=0.0) * map_.mpp[0] / 1000


def _score(
    found: TileScores, map_: TumourMap, forest: HeatmapForest | None, store: SlideStore
) -> float:
    """Return a slide's score: the model's own, or what the forest makes of the map."""
    if forest is None:
        return found.score
    if store.slide_id in forest.out_of_fold:
        return forest.out_of_fold[store.slide_id]
    return float(forest.score(heatmap_features(map_.values)[None])[0])


def _is_of_model(err: WSIError) -> bool:
    """Whether an error is about the model, and so would come again with every slide."""
    from mil_models.errors import ModelMismatchError

    return isinstance(err, ModelMismatchError)


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that predictions of another model are not mixed with these."""
    if (out / DETECTIONS).exists() and not (out / SETTINGS).exists():
        raise UsageError(f"{out}: holds detections of another origin; use another -o")
    if not (out / SETTINGS).exists():
        write_json(out / SETTINGS, settings)
        return
    before = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    changed = [key for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise UsageError(
            f"{out}: holds predictions with another {', '.join(changed)}; use another -o"
        )


def _write_slide(
    out: Path, store: SlideStore, found: TileScores, options: DetectOptions
) -> tuple[list[Detection], TumourMap]:
    map_ = TumourMap.of(store, found.values)
    detected = detections_in(map_, options)
    map_.save(out / MAPS / f"{store.slide_id}.npz")
    path = out / DETECTIONS / f"{store.slide_id}.csv"
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows((f"{d.score:.9g}", d.x0, d.y0) for d in detected)
    return detected, map_


def _write_nodes(out: Path, diameters: Mapping[str, float]) -> bool:
    """Write the nodes' table, and the submission if every patient has all nodes."""
    nodes = {f"{name}.tif": d for name, d in diameters.items() if NODE_NAME.fullmatch(name)}
    if not nodes:
        return False
    rows = [{"patient": name, "diameter_mm": f"{d:.4f}"} for name, d in nodes.items()]
    write_rows(out / NODES, rows)
    counts = Counter(NODE_NAME.fullmatch(name)["patient"] for name in nodes)  # type: ignore[index]
    short = [f"{patient} ({n})" for patient, n in counts.items() if n != NODES_EACH]
    if short:
        warnings.warn(
            f"no {SUBMISSION}: patients without {NODES_EACH} scored nodes: {few(short)}",
            stacklevel=3,
        )
        return False
    with as_usage_error():
        patients = stage_patients(out / NODES)
    staged = [{"patient": name, "stage": stage} for p in patients for name, stage in p.rows]
    write_rows(out / SUBMISSION, staged)
    return True
