"""FROC of a folder of detections against a folder of masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mil_models.froc import RATES, Froc, SlideHits, froc, hits_of
from mil_models.lesions import DILATION_UM, ITC_UM, LEVEL, RESOLUTION_UM, find_lesions
from mil_models.resampling import RESAMPLES
from wsi_pipeline.camelyon.detections import Detections, read_detections
from wsi_pipeline.camelyon.errors import ChallengeTableError, DetectionError, MaskError
from wsi_pipeline.camelyon.masks import find_masks, read_mask
from wsi_pipeline.camelyon.tables import few, named_as, read_reference
from wsi_pipeline.errors import as_usage_error

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class LesionScores:
    """What each slide's detections hit, and the curve; `missing` slides had no detections file."""

    slides: dict[str, SlideHits]
    missing: tuple[str, ...]
    curve: Froc
    corrected: bool

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; the last threshold, beyond every score, is None."""
        interval = self.curve.interval
        at = zip(RATES, self.curve.sensitivity_at, strict=True)
        return {
            "variant": "corrected" if self.corrected else "official",
            "level": LEVEL,
            "resolution_um": RESOLUTION_UM,
            "dilation_um": DILATION_UM,
            "itc_max_diameter_um": ITC_UM,
            "slides": {name: _slide_dict(hits) for name, hits in self.slides.items()},
            "missing": list(self.missing),
            "curve": {
                "threshold": [*self.curve.thresholds[:-1].tolist(), None],
                "avg_false_positives": self.curve.rates.tolist(),
                "sensitivity": self.curve.sensitivities.tolist(),
            },
            "sensitivity_at_fp": {f"{rate:g}": sensitivity for rate, sensitivity in at},
            "froc_score": self.curve.score,
            "froc_score_low": None if interval is None else interval[0],
            "froc_score_high": None if interval is None else interval[1],
        }


def score_lesions(
    detections: Path,
    masks: Path,
    *,
    reference: Path | Mapping[str, bool] | None = None,
    tumour_value: int | None = None,
    corrected: bool = False,
    exclude: Collection[str] = (),
    allow_missing: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LesionScores:
    """Return the FROC of `<slide>.csv` in `detections` against `masks`.

    Names are compared without regard to capitals; those of the files of detections are returned.

    Parameters
    ----------
    reference
        Which slides there are, and which have tumour: a CSV, or by slide. Without it the slides
        are those of the two folders; one without a mask is normal only if its name starts with
        "normal".
    tumour_value
        The value of tumour in masks that are not 1-bit or 0 and 255.
    corrected
        See :func:`mil_models.froc.froc`; also, a slide without a file then has no detections.
    exclude
        Slides to leave out, e.g. test_114, whose lesions are not all annotated.
    allow_missing
        Go on where a slide has no file of detections.

    Raises
    ------
    DetectionError, MaskError, ChallengeTableError
        A file is missing or wrong; see there.
    """
    if not detections.is_dir():
        raise DetectionError(f"{detections}: no such folder of detections")
    in_truth = reference.name if isinstance(reference, Path) else "the reference"
    truth = read_reference(reference) if isinstance(reference, Path) else reference
    files = {path.stem: path for path in sorted(detections.glob("*.csv"))}
    found = find_masks(masks)
    known = {name.lower() for name in (*files, *found, *(truth or ()))}
    strange = [name for name in exclude if name.lower() not in known]
    if strange:
        raise DetectionError(
            f"exclude: neither detections nor masks nor the reference name {few(strange)}; "
            "correct the name, or leave it out"
        )
    left_out = {name.lower() for name in exclude}
    files, found = _kept(files, left_out), _kept(found, left_out)
    if truth is not None:
        truth = named_as(_kept(truth, left_out), files, in_truth)
    found = named_as(found, files if truth is None else {**files, **truth}, str(masks))
    has_tumour = _with_tumour(truth, in_truth, files, found)
    missing = tuple(name for name in has_tumour if name not in files)
    if missing and not allow_missing:
        raise DetectionError(
            f"{detections}: no file for {few(missing)}. The challenge's program would leave such "
            "slides out of its denominators: write an empty file for a slide without detections, "
            "or pass --allow-missing"
        )
    hits = {
        name: _hits(name, files.get(name), found.get(name), tumour, tumour_value)
        for name, tumour in has_tumour.items()
        if name in files or corrected
    }
    with as_usage_error():
        curve = froc(list(hits.values()), corrected=corrected, seed=seed, resamples=resamples)
    return LesionScores(hits, missing, curve, corrected)


def _kept(found: Mapping[str, T], left_out: Collection[str]) -> dict[str, T]:
    return {name: value for name, value in found.items() if name.lower() not in left_out}


def _with_tumour(
    truth: Mapping[str, bool] | None,
    name: str,
    files: Mapping[str, Path],
    masks: Mapping[str, Path],
) -> dict[str, bool | None]:
    """Return whether each slide has tumour; None where its mask has to say."""
    if truth is None:
        unknown = [n for n in files if n not in masks and not n.lower().startswith("normal")]
        if unknown:
            raise MaskError(
                f"no mask of {few(unknown)}: without --reference only a slide whose name starts "
                "with 'normal' counts as normal without one"
            )
        return {n: None if n in masks else False for n in sorted({*files, *masks})}
    strange = [n for n in files if n not in truth]
    if strange:
        raise ChallengeTableError(
            f"{name}: no line for {few(strange)}, which have detections; --exclude them, "
            "or take their files away"
        )
    without = [n for n, tumour in truth.items() if tumour and n not in masks]
    if without:
        raise MaskError(f"no mask of {few(without)}, tumour slides by {name}")
    return dict(truth)


def _hits(
    name: str, file: Path | None, mask: Path | None, tumour: bool | None, tumour_value: int | None
) -> SlideHits:
    """Return what a slide's detections hit; on a normal slide each is a false positive."""
    if mask is None:
        found = Detections.none() if file is None else read_detections(file)
        return SlideHits(len(found.scores), found.scores, np.zeros(0))
    area = read_mask(mask, tumour_value=tumour_value)
    if tumour is not None and tumour != bool(area.pixels.any()):
        says = "tumour" if tumour else "normal"
        held = "some" if area.pixels.any() else "no"
        raise MaskError(f"{mask.name}: {held} tumour in it, but {name} is {says} by the reference")
    found = Detections.none() if file is None else read_detections(file, size=area.size)
    return hits_of(found.scores, found.x0, found.y0, find_lesions(area.pixels))


def _slide_dict(hits: SlideHits) -> dict[str, Any]:
    return {
        "n_detections": hits.detections,
        "n_regions": len(hits.region_scores),
        "itc_labels": list(hits.itc),
        "n_lesions": hits.lesions,
        "n_false_positives": len(hits.false_positives),
        "n_lesions_hit": hits.hits,
    }
