"""CAMELYON17: the class of a lymph node, the pN stage of a patient, and kappa as it is scored.

References
----------
Bándi et al. 2019, IEEE TMI 38:550 (classes and stages, after the TNM rules); the challenge's
evaluation: Cohen's kappa over the five stages with quadratic weights, patients only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mil_models import weighted
from mil_models.resampling import RESAMPLES, bootstrap, percentile_interval

NODE_CLASSES = ("negative", "itc", "micro", "macro")
STAGES = ("pN0", "pN0(i+)", "pN1mi", "pN1", "pN2")
NODES = 5
"""Nodes of every patient of the challenge."""


def node_class(diameter_mm: float, cells: int | None = None) -> str:
    """Return the class of a node whose largest metastasis has this longest diameter.

    Isolated tumour cells (itc) below 0.2 mm or with fewer than 200 cells, micro from 0.2 to 2 mm,
    macro above 2 mm; 0 mm is negative.

    Raises
    ------
    ValueError
        A negative or undefined diameter or number of cells.

    Examples
    --------
    >>> [node_class(d) for d in (0, 0.19, 0.2, 2.0, 2.01)]
    ['negative', 'itc', 'micro', 'micro', 'macro']
    >>> node_class(0.4, cells=199)
    'itc'
    """
    if not diameter_mm >= 0 or not np.isfinite(diameter_mm):
        raise ValueError(f"diameter_mm={diameter_mm}: must be 0 or more")
    if cells is not None and cells < 0:
        raise ValueError(f"cells={cells}: must be 0 or more")
    if diameter_mm == 0:
        return "negative"
    if diameter_mm > 2:
        return "macro"
    return "itc" if diameter_mm < 0.2 or (cells is not None and cells < 200) else "micro"


def patient_stage(nodes: Sequence[str]) -> str:
    """Return the pN stage of a patient from the classes of the nodes.

    pN0: nothing; pN0(i+): isolated tumour cells only; pN1mi: micro, no macro; pN1 and pN2: 1 to 3,
    or 4 and more nodes with micro or macro, one at least macro.

    Raises
    ------
    ValueError
        A class is not one of :data:`NODE_CLASSES`, or there is no node.

    Examples
    --------
    >>> patient_stage(["macro", "micro", "micro", "itc", "negative"])
    'pN1'
    >>> patient_stage(["micro"] * 5)
    'pN1mi'
    """
    strange = sorted(set(nodes) - set(NODE_CLASSES))
    if strange or not nodes:
        raise ValueError(f"nodes {strange or 'none'}: use {', '.join(NODE_CLASSES)}")
    positive = sum(node in ("micro", "macro") for node in nodes)
    if "macro" in nodes:
        return "pN2" if positive >= 4 else "pN1"
    if positive:
        return "pN1mi"
    return "pN0(i+)" if "itc" in nodes else "pN0"


@dataclass(frozen=True, slots=True, eq=False)
class StageAgreement:
    """Kappa of predicted stages; None where truth and prediction are one and the same stage.

    `confusion` counts ``(5, 5)``, rows what is, columns what was said, as :data:`STAGES`.
    """

    patients: int
    kappa: float | None
    interval: tuple[float, float] | None
    accuracy: float
    confusion: NDArray[np.int64]


def stage_agreement(
    truth: Mapping[str, str],
    predicted: Mapping[str, str],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> StageAgreement:
    """Return the quadratically weighted kappa over the patients of `truth`.

    Parameters
    ----------
    truth, predicted
        Stage by patient, capitals or not; further patients in `predicted` are not scored, as in
        the challenge.
    seed, resamples
        Draws of patients for the interval; 0 draws none.

    Raises
    ------
    ValueError
        A patient is missing in `predicted`, a stage is none of the five, or there is no patient.
    """
    missing = [name for name in truth if name not in predicted]
    if missing or not truth:
        raise ValueError(f"no predicted stage for {_few(missing) or 'any patient'}")
    is_, said = (
        np.array([_stage_index(name, table[name]) for name in truth])
        for table in (truth, predicted)
    )

    def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        matrix = weighted.confusion(is_, said, len(STAGES), weights)
        return {"kappa": weighted.kappa(matrix, quadratic=True)}

    value = float(figures(np.ones((1, len(truth))))["kappa"][0])
    draws = bootstrap(figures, list(truth), seed=seed, resamples=resamples)["kappa"]
    counts = np.zeros((len(STAGES),) * 2, np.int64)
    np.add.at(counts, (is_, said), 1)
    known = bool(np.isfinite(value))
    return StageAgreement(
        len(truth), value if known else None, percentile_interval(draws) if known else None,
        float(np.mean(is_ == said)), counts,
    )  # fmt: skip


def _stage_index(patient: str, stage: str) -> int:
    lowered = [s.lower() for s in STAGES]
    if stage.strip().lower() not in lowered:
        raise ValueError(f"{patient}: stage {stage!r} is none of {', '.join(STAGES)}")
    return lowered.index(stage.strip().lower())


def _few(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
