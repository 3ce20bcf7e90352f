"""`wsi segment predict`: slides and a model to maps, outlines, measures and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from wsi_pipeline.camelyon.files import NODES, SCORES
from wsi_pipeline.camelyon.stages import NODE_NAME
from wsi_pipeline.config import BatchOptions, TileOptions
from wsi_pipeline.errors import as_usage_error
from wsi_pipeline.manifest import SlideEntry
from wsi_pipeline.models import require_models
from wsi_pipeline.pipeline import RunResult, output_folder, run_slides
from wsi_pipeline.results import write_rows
from wsi_pipeline.segmentation.options import PredictOptions, SegmentJob
from wsi_pipeline.segmentation.stage import FOLDER, load, windows_of
from wsi_pipeline.slide_work import SlideJob


def predict_slides(
    slides: Sequence[str],
    model: Path,
    out: Path,
    *,
    options: PredictOptions = PredictOptions(),
    tiles: TileOptions = TileOptions(),
    batch: BatchOptions = BatchOptions(progress="none"),
) -> RunResult:
    """Segment every slide: a map in its store, outlines, measures, a picture.

    Writes ``segmentations/<slide>.geojson``, ``.json`` and ``.png``, ``segmentation.csv`` with a
    row per slide and ``lesions.csv`` with one per lesion; for the figures of the CAMELYON
    challenges ``segmentations/detections/<slide>.csv``, ``segmentations/scores.csv``, and of
    slides named as CAMELYON17's ``segmentations/nodes.csv``. What an earlier run did is kept.

    Parameters
    ----------
    tiles
        How slides are read (`slide_mpp`, `reader`), and the grid of stores that are not there yet.

    Raises
    ------
    UsageError, ModelError
        An argument is wrong, or the folder holds no segmentation model; nothing was started.
    """
    require_models()
    path = model.resolve()
    loaded, _ = load(path, options)
    with as_usage_error():
        windows_of((1, 1), (loaded.options.mpp,) * 2, loaded.options, options)
    job = SlideJob(
        SlideEntry("", ""), output_folder(out), ("segment",), tiles, tiles.spec(),
        segment=SegmentJob(path, options),
    )  # fmt: skip
    result = run_slides("segment", slides, job, batch=batch)
    write_tables(result.out)
    return result


def write_tables(out: Path) -> None:
    """Write the tables of all slides that were segmented in `out`."""
    slides, lesions = [], []
    for path in sorted((out / FOLDER).glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found.pop("lesions")
        slides.append(found)
        lesions += [{"slide_id": found["slide_id"], **row} for row in rows]
    write_rows(out / "segmentation.csv", slides)
    scores = [{"slide": row["slide_id"], "score": f"{row['score']:.9g}"} for row in slides]
    write_rows(out / FOLDER / SCORES, scores)
    nodes = [
        {"patient": f"{row['slide_id']}.tif", "diameter_mm": f"{row['largest_diameter_mm']:.4f}"}
        for row in slides
        if NODE_NAME.fullmatch(row["slide_id"])
    ]
    if nodes:
        write_rows(out / FOLDER / NODES, nodes)
    write_rows(out / "lesions.csv", lesions)
