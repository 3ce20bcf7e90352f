"""`wsi camelyon evaluate`: every figure of the challenges from one folder of predictions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mil_models.resampling import RESAMPLES
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.files import (
    DETECTIONS,
    FIGURES,
    SCORES,
    SEGMENTATION,
    SETTINGS,
    SUBMISSION,
)
from wsi_pipeline.camelyon.lesion_scores import LesionScores, score_lesions
from wsi_pipeline.camelyon.slide_scores import score_slides
from wsi_pipeline.camelyon.stages import score_stages
from wsi_pipeline.camelyon.tables import (
    IS_TUMOUR,
    few,
    named_as,
    read_reference,
    read_rows,
    read_table,
)
from wsi_pipeline.errors import UsageError
from wsi_pipeline.results import package_versions, write_json


@dataclass(frozen=True, slots=True)
class Truth:
    """Of each judged slide whether it has tumour, and its centre ("" where nothing says)."""

    tumour: dict[str, bool]
    site: dict[str, str]


def evaluate_predictions(
    folder: Path,
    *,
    reference: Path | None = None,
    manifest: Path | None = None,
    split: str | None = None,
    masks: Path | None = None,
    stages: Path | None = None,
    tumour_value: int | None = None,
    exclude: Collection[str] = (),
    allow_missing: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Judge the predictions in `folder`, write ``figures.json`` there, and return it.

    Parameters
    ----------
    reference
        Slide and class, as the challenge's reference.csv: judged are the slides in it.
    manifest
        As `wsi camelyon check` writes it: the truth without a reference, and the centres.
    split
        Judge only slides of this split of the manifest, e.g. test.
    masks
        Folder of tumour masks; without it lesions are not scored.
    stages
        CAMELYON17's stages; without it patients are not scored.
    exclude
        Slides whose lesions are not scored.
    allow_missing
        Go on where a slide of the truth was not predicted.

    Raises
    ------
    UsageError, ChallengeTableError, DetectionError, MaskError
        Something is missing or wrong; see there.
    """
    settings = _settings(folder)
    if reference is None and manifest is None:
        raise UsageError("what is true? pass --reference or --manifest")
    truth = _truth(reference, manifest, split)
    rows = {line.cells["slide"]: line.cells for line in read_table(folder / SCORES, ["slide"])}
    named = named_as(truth.tumour, rows, "the truth")
    site = named_as(truth.site, rows, "the truth")
    judged = {name: float(rows[name]["score"]) for name in named if name in rows}
    found: dict[str, Any] = {
        "predictions": settings,
        "slides": score_slides(
            judged, named, allow_missing=allow_missing, seed=seed, resamples=resamples
        ),
        "not_judged": sorted(set(rows) - set(named)),
        "split": split,
    }
    lesions = None
    if masks is not None:
        lesions = _lesions(
            folder, masks, named, tumour_value, {*exclude}, allow_missing, seed, resamples
        )
        found["lesions"] = {name: one.to_dict() for name, one in lesions.items()}
    if stages is not None:
        if not (folder / SUBMISSION).exists():
            raise UsageError(
                f"{folder}: no {SUBMISSION}; not every patient has all nodes predicted"
            )
        found["patients"] = score_stages(
            stages, folder / SUBMISSION, seed=seed, resamples=resamples
        )
    found["centers"] = _centers(judged, named, site, lesions, seed, resamples)
    found["rows"] = _rows(rows, named, site, lesions)
    if (folder / SEGMENTATION).exists():
        found["segmentation"] = json.loads((folder / SEGMENTATION).read_text(encoding="utf-8"))
    found["options"] = {"seed": seed, "resamples": resamples, "exclude": sorted(exclude)}
    found["versions"] = package_versions()
    write_json(folder / FIGURES, found)
    return found


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise UsageError(f"{folder}: no predictions of `wsi camelyon predict` in it") from err
    return found


def _truth(reference: Path | None, manifest: Path | None, split: str | None) -> Truth:
    labels: dict[str, bool] = {}
    site: dict[str, str] = {}
    if manifest is None:
        if split is not None:
            raise UsageError("--split needs --manifest")
    else:
        labels, site = _manifest(manifest, split)
    if reference is None:
        return Truth(labels, site)
    tumour = read_reference(reference)
    if split is not None:
        known = {name.lower() for name in labels}
        tumour = {n: t for n, t in tumour.items() if n.lower() in known}
        if not tumour:
            raise ChallengeTableError(f"{reference.name}: no slide of split {split} in it")
    return Truth(tumour, {n: site.get(n.lower(), site.get(n, "")) for n in tumour})


def _manifest(path: Path, split: str | None) -> tuple[dict[str, bool], dict[str, str]]:
    rows = read_rows(path)
    header = rows[0][1] if rows else []
    for column in ("slide_id", "label", *(["split"] if split else [])):
        if column not in header:
            raise ChallengeTableError(f"{path.name}: no column {column}")
    labels: dict[str, bool] = {}
    site: dict[str, str] = {}
    for place, cells in rows[1:]:
        row = dict(zip(header, cells, strict=False))
        if split is not None and row.get("split") != split:
            continue
        if row["label"].lower() not in IS_TUMOUR:
            raise ChallengeTableError(f"{place}: label is {row['label']!r}; use tumor or normal")
        labels[row["slide_id"]] = IS_TUMOUR[row["label"].lower()]
        site[row["slide_id"]] = row.get("site", "")
    if not labels:
        raise ChallengeTableError(f"{path.name}: no slide{f' of split {split}' if split else ''}")
    return labels, site


def _lesions(
    folder: Path,
    masks: Path,
    truth: Mapping[str, bool],
    tumour_value: int | None,
    exclude: set[str],
    allow_missing: bool,
    seed: int,
    resamples: int,
) -> dict[str, LesionScores]:
    """Return the challenge's figures and the corrected ones, over the slides of the truth."""
    others = {p.stem for p in (folder / DETECTIONS).glob("*.csv")} - set(truth)
    return {
        name: score_lesions(
            folder / DETECTIONS, masks, reference=truth, tumour_value=tumour_value,
            corrected=name == "corrected", exclude=others | exclude, allow_missing=allow_missing,
            seed=seed, resamples=resamples,
        )
        for name in ("official", "corrected")
    }  # fmt: skip


def _centers(
    scores: Mapping[str, float],
    truth: Mapping[str, bool],
    site: Mapping[str, str],
    lesions: Mapping[str, LesionScores] | None,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Return the figures of each centre; those that one has not the slides for are None."""
    from mil_models.froc import froc

    found: dict[str, Any] = {}
    for name in sorted({s for s in site.values() if s}):
        own = {slide: t for slide, t in truth.items() if site.get(slide) == name}
        one: dict[str, Any] = {"slides": len(own), "tumour": sum(own.values())}
        try:
            held = {slide: scores[slide] for slide in own if slide in scores}
            area = score_slides(held, own, allow_missing=True, seed=seed, resamples=resamples)
            one |= {k: area[k] for k in ("auroc", "auroc_low", "auroc_high")}
        except ChallengeTableError:
            one |= dict.fromkeys(("auroc", "auroc_low", "auroc_high"))
        if lesions is not None:
            hits = [h for s, h in lesions["official"].slides.items() if s in own]
            one |= dict.fromkeys(("froc_score", "froc_score_low", "froc_score_high"))
            if sum(h.lesions for h in hits):
                curve = froc(hits, seed=seed, resamples=resamples)
                low, high = curve.interval or (None, None)
                one |= {"froc_score": curve.score, "froc_score_low": low, "froc_score_high": high}
        found[name] = one
    return found


def _rows(
    rows: Mapping[str, Mapping[str, str]],
    truth: Mapping[str, bool],
    site: Mapping[str, str],
    lesions: Mapping[str, LesionScores] | None,
) -> list[dict[str, Any]]:
    """Return what is to be said of each judged slide, those that are most wrong first."""
    found = []
    for name, tumour in truth.items():
        if name not in rows:
            continue
        row: dict[str, Any] = {
            "slide": name, "tumour": tumour, "score": float(rows[name]["score"]),
            "site": site.get(name, ""),
            "seen_in_training": rows[name]["seen_in_training"] == "true",
        }  # fmt: skip
        hits = None if lesions is None else lesions["official"].slides.get(name)
        if hits is not None:
            row |= {"lesions": hits.lesions, "lesions_hit": hits.hits, "itc": len(hits.itc),
                    "false_positives": len(hits.false_positives)}  # fmt: skip
        found.append(row)
    return sorted(found, key=lambda r: (r["score"] if r["tumour"] else 1 - r["score"], r["slide"]))


def load_figures(folder: Path) -> dict[str, Any]:
    """Read what :func:`evaluate_predictions` wrote.

    Raises
    ------
    UsageError
        It is not there.
    """
    try:
        found: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise UsageError(f"{folder}: no {FIGURES}; run `wsi camelyon evaluate` first") from err
    return found


def unjudged(found: Mapping[str, Any]) -> str:
    """Return in words which predicted slides no truth was given for; "" for none."""
    names = found["not_judged"]
    return f"{len(names)} predicted slides are not judged: {few(names)}" if names else ""
