"""`wsi segment evaluate`: segmentations in stores against what is annotated."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon

from mil_models.resampling import bootstrap, percentile_interval
from mil_models.segmentation.lesion_agreement import LesionReport, compare_lesions
from mil_models.segmentation.lesion_measures import lesion_labels
from mil_models.segmentation.metrics import Agreement, agreement, halo_px
from tiling.outlines import map_outlines, mask_outlines, threshold_value
from tiling.probability_map import ProbabilityMap, blocks, open_map
from tiling.region_masks import RegionMask
from tiling.slide import open_slide
from tiling.store import SlideStore, iter_stores
from wsi_pipeline.camelyon.files import SEGMENTATION
from wsi_pipeline.errors import UsageError
from wsi_pipeline.manifest import SlideEntry
from wsi_pipeline.pipeline import output_folder, root_of
from wsi_pipeline.results import write_json, write_rows
from wsi_pipeline.segmentation.options import EvaluateOptions, TruthOptions
from wsi_pipeline.segmentation.stage import MEASURED_PX
from wsi_pipeline.segmentation.training import read_table
from wsi_pipeline.segmentation.truth import find_truth, read_truth

CELLS_AT_ONCE = 8
"""Cells a side of a block that is compared at once: 8 of 192 px are 1536 px."""
FIGURES = ("dice", "iou", "boundary_f1", "precision", "recall")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SlideScores:
    """How the segmentation of one slide agrees with what is annotated."""

    slide_id: str
    patient: str
    trained_on: bool
    agreement: Agreement
    lesions: LesionReport

    def to_dict(self) -> dict[str, Any]:
        """Return the slide's row, as JSON values; None where a figure is not defined."""
        return {
            "slide_id": self.slide_id,
            **{name: getattr(self.agreement, name) for name in FIGURES},
            "lesions": len(self.lesions.lesions),
            "lesions_hit": self.lesions.hits,
            "false_lesions": len(self.lesions.false),
            "trained_on": self.trained_on,
        }

    def lesion_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per true lesion, then one per lesion found where none is."""
        for one in self.lesions.lesions:
            yield {
                "slide_id": self.slide_id, "lesion": one.lesion.number, "kind": "true",
                "area_mm2": one.lesion.area_mm2, "diameter_mm": one.lesion.diameter_mm,
                **{name: getattr(one.agreement, name) for name in FIGURES},
            }  # fmt: skip
        for lesion in self.lesions.false:
            yield {
                "slide_id": self.slide_id, "lesion": lesion.number, "kind": "false",
                "area_mm2": lesion.area_mm2, "diameter_mm": lesion.diameter_mm,
                **dict.fromkeys(FIGURES),
            }  # fmt: skip


def evaluate_slides(
    stores: Path,
    annotations: Sequence[Path],
    out: Path,
    *,
    options: EvaluateOptions = EvaluateOptions(),
    truth: TruthOptions = TruthOptions(),
    table: Path | None = None,
    pictures: bool = False,
    on_slide: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Judge the segmentations in `stores`; write ``segmentation.json`` and two tables to `out`.

    ``segmentation_scores.csv`` has a row per slide, ``lesion_scores.csv`` one per true lesion and
    per lesion found where none is.

    Parameters
    ----------
    stores
        Output folder of `wsi segment predict`.
    annotations
        Outlines or masks named after the slides, or folders of them. Slides with a segmentation
        and without one of these are refused.
    table
        CSV with slide_id and patient_id: intervals draw patients, else slides.
    pictures
        Also draw each slide with its map, what was found and what is annotated.

    Raises
    ------
    UsageError, AnnotationError, MissingNodeError
        No store holds a segmentation, an annotation is missing or wrong, or several maps fit.
    """
    found = find_truth(annotations)
    rows = {} if table is None else read_table(table)
    held = [store for store in iter_stores(root_of(stores)) if store.image_names("segmentations")]
    if not held:
        raise UsageError(f"{stores}: no store in it holds a segmentation; run wsi segment predict")
    # All that can be wrong with annotations is said before anything is written.
    judged = [_judged(store, found, truth, options) for store in held]
    folder = output_folder(out, stores=False)
    scores = []
    for number, (store, segmentation, known) in enumerate(judged, start=1):
        patient = rows.get(store.slide_id, {}).get("patient_id") or store.slide_id
        scores.append(_scores(store, segmentation, known, patient, options))
        if pictures:
            _draw(store, segmentation, known, scores[-1], folder, options)
        if on_slide is not None:
            on_slide(number, len(judged))
    return _write(folder, scores, options)


def compare_map(
    found: ProbabilityMap, truth: RegionMask, *, threshold: float, tolerance_um: float
) -> Agreement:
    """Return how a whole map agrees with what is annotated, at the map's own pixels, in blocks."""
    grid, limit = found.grid, threshold_value(threshold)
    mpp, halo = grid.mpp, halo_px(grid.mpp, tolerance_um)
    height, width = found.shape(0)
    total = Agreement()
    for rows, columns in blocks((height, width), CELLS_AT_ONCE * grid.stride_px):
        wide = (
            slice(max(rows.start - halo, 0), min(rows.stop + halo, height)),
            slice(max(columns.start - halo, 0), min(columns.stop + halo, width)),
        )
        mine = found.read(0, *wide) >= limit
        true = read_at(truth, grid.pixel, *wide)
        if mine.any() or true.any():
            core = (
                slice(rows.start - wide[0].start, rows.stop - wide[0].start),
                slice(columns.start - wide[1].start, columns.stop - wide[1].start),
            )
            total += agreement(mine, true, mpp, tolerance_um=tolerance_um, core=core)
    return total


def read_at(
    truth: RegionMask, pixel: tuple[float, float], rows: slice, columns: slice
) -> NDArray[np.bool_]:
    """Return what is annotated in a part of a map whose pixels have that size in level-0 px."""
    size = columns.stop - columns.start, rows.stop - rows.start
    corner = np.array([[columns.start * pixel[0], rows.start * pixel[1]]])
    return np.asarray(truth.read(corner, (size[0] * pixel[0], size[1] * pixel[1]), size)[0])


def _judged(
    store: SlideStore, found: Mapping[str, Path], truth: TruthOptions, options: EvaluateOptions
) -> tuple[SlideStore, ProbabilityMap, RegionMask]:
    entry = SlideEntry(store.slide_id, store.slide_path)
    known = read_truth(entry, store.slide_size, found, truth)
    return store, open_map(store, options.name), known


def _scores(
    store: SlideStore,
    found: ProbabilityMap,
    truth: RegionMask,
    patient: str,
    options: EvaluateOptions,
) -> SlideScores:
    level = found.level_within(MEASURED_PX)
    mpp, (height, width) = found.mpp(level), found.shape(level)
    everything = slice(0, height), slice(0, width)
    mine, true = (
        lesion_labels(mask, mpp, merge=options.merge)
        for mask in (
            found.read(level, *everything) >= threshold_value(options.threshold),
            read_at(truth, found.pixel(level), *everything),
        )
    )
    return SlideScores(
        store.slide_id,
        patient,
        bool(found.attrs.get("trained_on")),
        compare_map(
            found, truth, threshold=options.threshold, tolerance_um=options.tolerance_um
        ),
        compare_lesions(mine, true, mpp, tolerance_um=options.tolerance_um),
    )  # fmt: skip


def _write(folder: Path, scores: Sequence[SlideScores], options: EvaluateOptions) -> dict[str, Any]:
    slides = [one.to_dict() for one in scores]
    lesions = [row for one in scores for row in one.lesion_rows()]
    write_rows(folder / "segmentation_scores.csv", slides)
    write_rows(folder / "lesion_scores.csv", lesions)
    trained_on = [one.slide_id for one in scores if one.trained_on]
    if trained_on:
        warnings.warn(
            f"{len(trained_on)} of {len(scores)} slides were trained or judged on in training "
            f"({', '.join(trained_on[:3])}): their figures say nothing of other slides",
            stacklevel=2,
        )
    found = {
        "options": asdict(options),
        "slides": {row["slide_id"]: {k: v for k, v in row.items() if k != "slide_id"}
                   for row in slides},
        **_summary(scores, options),
    }  # fmt: skip
    write_json(folder / SEGMENTATION, found)
    return found


def _summary(scores: Sequence[SlideScores], options: EvaluateOptions) -> dict[str, Any]:
    """Return means over slides and figures of all pixels together, with intervals over patients."""
    each = {
        name: np.array([_number(getattr(one.agreement, name)) for one in scores])
        for name in FIGURES
    }
    both, found, there = (
        np.array([getattr(one.agreement, name) for one in scores], np.float64)
        for name in ("both", "found", "there")
    )

    def figures(weights: Floats) -> dict[str, Floats]:
        means = {f"mean_{name}": _weighted_mean(v, weights) for name, v in each.items()}
        sizes = weights @ (found + there)
        means["pooled_dice"] = np.divide(
            2 * (weights @ both), sizes, out=np.full(len(weights), np.nan), where=sizes > 0
        )
        return means

    whole = figures(np.ones((1, len(scores))))
    draws: Mapping[str, Floats] = {}
    if options.resamples:
        patients = [one.patient for one in scores]
        draws = bootstrap(figures, patients, seed=options.seed, resamples=options.resamples)
    summary: dict[str, Any] = {"count": len(scores)}
    for name, value in whole.items():
        interval = percentile_interval(draws[name]) if name in draws else None
        known = bool(np.isfinite(value[0]))
        summary[name] = float(value[0]) if known else None
        summary[f"{name}_low"] = interval[0] if known and interval else None
        summary[f"{name}_high"] = interval[1] if known and interval else None
    lesions = sum(len(one.lesions.lesions) for one in scores)
    hits = sum(one.lesions.hits for one in scores)
    return {
        **summary,
        "lesions": lesions,
        "lesions_hit": hits,
        "false_lesions": sum(len(one.lesions.false) for one in scores),
    }


def _weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Return the mean of the defined values for each row of weights ``(R, N)``; NaN of none."""
    known = np.isfinite(values)
    total = weights[:, known].sum(axis=1)
    means: Floats = np.full(len(weights), np.nan)
    np.divide(weights[:, known] @ values[known], total, out=means, where=total > 0)
    return means


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _draw(
    store: SlideStore,
    found: ProbabilityMap,
    truth: RegionMask,
    scores: SlideScores,
    folder: Path,
    options: EvaluateOptions,
) -> None:
    from viewers.segmentation import draw_segmentation

    level = found.level_within(MEASURED_PX)
    reading = functools.partial(read_at, truth, found.pixel(level))
    true = mask_outlines(reading, found.shape(level))
    x, y = found.pixel(level)
    dice = scores.agreement.dice
    text = "nothing annotated, nothing found" if dice is None else f"Dice {dice:.3f}"
    with open_slide(store.slide_path, mpp=store.slide_mpp) as slide:
        draw_segmentation(
            folder / "pictures" / f"{store.slide_id}.png", slide, found,
            MultiPolygon(map_outlines(found, options.threshold)),
            title=f"{store.slide_id}\n{text}; annotated green, found blue",
            truth=shapely.transform(true, lambda points: points * (x, y)),
        )  # fmt: skip
