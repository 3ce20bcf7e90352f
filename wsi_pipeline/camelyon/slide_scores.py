"""CAMELYON16: AUROC of slides' scores against the challenge's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mil_models.delong import delong
from mil_models.metrics import auroc, patient_interval
from mil_models.resampling import RESAMPLES
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.tables import few, read_reference, read_scores

DUPLICATE = "test_049"
"""Withdrawn by the challenge; many tables of scores still have it."""


def score_slides(
    scores: Path,
    reference: Path,
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
        See :func:`wsi_pipeline.camelyon.tables.read_scores`.
    reference
        See :func:`wsi_pipeline.camelyon.tables.read_reference`.
    allow_missing
        Leave out the slides of the reference that have no score, and say which.

    Raises
    ------
    ChallengeTableError
        The tables do not fit each other, or a class is missing.
    """
    truth, given = read_reference(reference), read_scores(scores)
    as_referred = {n.lower(): n for n in truth}  # the challenge wrote Test_001 and test_001
    if len(as_referred) < len(truth):
        raise ChallengeTableError(f"{reference.name}: names that differ by capitals only")
    renamed = {as_referred.get(n.lower(), n): score for n, score in given.items()}
    if len(renamed) < len(given):
        raise ChallengeTableError(f"{scores.name}: names that differ by capitals only")
    given = renamed
    left_out = [n for n in given if n not in truth and n.lower() == DUPLICATE]
    strange = [n for n in given if n not in truth and n not in left_out]
    missing = [n for n in truth if n not in given]
    if strange:
        raise ChallengeTableError(f"{reference.name}: no line for {few(strange)} of {scores.name}")
    if missing and not allow_missing:
        raise ChallengeTableError(
            f"{scores.name}: no score for {few(missing)}; add it, or pass --allow-missing"
        )
    names = [n for n in truth if n in given]
    targets = np.array([truth[n] for n in names], dtype=bool)
    values = np.array([given[n] for n in names], dtype=np.float64)
    both = np.stack([-values, values], axis=1)
    area = auroc(targets.astype(np.int64), both)
    if area is None:
        which = "normal" if targets.any() else "tumour"
        raise ChallengeTableError(f"{reference.name}: no {which} slide has a score: no AUROC")
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
