"""CAMELYON16: AUROC of slides' scores against the challenge's reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mil_models.delong import delong
from mil_models.metrics import auroc, patient_interval
from mil_models.resampling import RESAMPLES
from tiling.store import iter_stores
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.tables import few, named_as, read_reference, read_scores

DUPLICATE = "test_049"
"""Withdrawn by the challenge; many tables of scores still have it."""


def score_slides(
    scores: Path | Mapping[str, float],
    reference: Path | Mapping[str, bool],
    *,
    allow_missing: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return the AUROC of a table of scores, with intervals over slides, as JSON values.

    `auroc_low` and `auroc_high` are the bootstrap's 95 % percentile interval, `delong_low` and
    `delong_high` DeLong's. Scores of test_049, a duplicate, are left out where the reference is
    without it.

    Names are compared without regard to capitals.

    Parameters
    ----------
    scores
        See :func:`wsi_pipeline.camelyon.tables.read_scores`; or the scores by slide.
    reference
        See :func:`wsi_pipeline.camelyon.tables.read_reference`; or by slide whether it has tumour.
    allow_missing
        Leave out the slides of the reference that have no score, and say which.

    Raises
    ------
    ChallengeTableError
        The tables do not fit each other, or a class is missing.
    """
    truth = read_reference(reference) if isinstance(reference, Path) else reference
    given = read_scores(scores) if isinstance(scores, Path) else scores
    in_truth = reference.name if isinstance(reference, Path) else "the reference"
    in_scores = scores.name if isinstance(scores, Path) else "the scores"
    truth = named_as(truth, (), in_truth)
    given = named_as(given, truth, in_scores)
    left_out = [n for n in given if n not in truth and n.lower() == DUPLICATE]
    strange = [n for n in given if n not in truth and n not in left_out]
    missing = [n for n in truth if n not in given]
    if strange:
        raise ChallengeTableError(f"{in_truth}: no line for {few(strange)} of {in_scores}")
    if missing and not allow_missing:
        raise ChallengeTableError(
            f"{in_scores}: no score for {few(missing)}; add it, or pass --allow-missing"
        )
    names = [n for n in truth if n in given]
    targets = np.array([truth[n] for n in names], dtype=bool)
    values = np.array([given[n] for n in names], dtype=np.float64)
    both = np.stack([-values, values], axis=1)
    area = auroc(targets.astype(np.int64), both)
    if area is None:
        which = "normal" if targets.any() else "tumour"
        raise ChallengeTableError(f"{in_truth}: no {which} slide has a score: no AUROC")
    drawn = patient_interval(targets.astype(np.int64), both, names, seed=seed, resamples=resamples)
    normal = delong(targets, values[None], names).interval()
    return {
        "auroc": area,
        "auroc_low": None if drawn is None else drawn[0],
        "auroc_high": None if drawn is None else drawn[1],
        "delong_low": None if normal is None else normal[0],
        "delong_high": None if normal is None else normal[1],
        "slides": len(names),
        "tumour": int(targets.sum()),
        "normal": int((~targets).sum()),
        "missing": missing,
        "left_out": left_out,
    }


def stored_scores(
    stores: Path, prediction: str | None = None
) -> tuple[dict[str, float], list[str]]:
    """Return each slide's stored score of the last of two classes, and who was trained on.

    Slides without tiles have no score and are left out.

    Parameters
    ----------
    prediction
        Name of the prediction, where the stores hold several.

    Raises
    ------
    ChallengeTableError
        A prediction is not of two classes.
    MissingNodeError
        A slide has no prediction of that name, or several.
    """
    scores: dict[str, float] = {}
    seen = []
    for store in iter_stores(stores):
        if not len(store):
            continue
        found = store.prediction(prediction)
        if len(found.scores) != 2:
            raise ChallengeTableError(
                f"{store.slide_id}: {found.name} has scores of {', '.join(found.scores)}; an "
                "AUROC needs two classes"
            )
        scores[store.slide_id] = list(found.scores.values())[-1]
        if found.attrs.get("seen_in_training"):
            seen.append(store.slide_id)
    return scores, seen
