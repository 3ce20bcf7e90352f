"""CAMELYON17: stages from a table of nodes, and kappa of a table of stages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mil_models.resampling import RESAMPLES
from mil_models.staging import (
    NODE_CLASSES,
    NODES,
    STAGES,
    node_class,
    patient_stage,
    stage_agreement,
)
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.tables import Line, few, read_rows, read_table
from wsi_pipeline.errors import as_usage_error

NODE_NAME = re.compile(r"(?P<patient>.+)_node_(?P<node>\d+)(\.\w+)?", re.IGNORECASE)
PATIENT_SUFFIX = ".zip"


@dataclass(frozen=True, slots=True)
class StagedPatient:
    """A patient without `.zip`, the class of each node by its name, and the stage they make."""

    patient: str
    nodes: dict[str, str]
    stage: str

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Rows of a submission: the patient, then the nodes."""
        return [(self.patient + PATIENT_SUFFIX, self.stage), *self.nodes.items()]


def stage_patients(table: Path) -> list[StagedPatient]:
    """Return the stage of every patient of a table of nodes, in the table's order.

    Columns patient (`patient_000_node_0.tif`) and stage (negative, itc, micro, macro), or in place
    of stage diameter_mm of the largest metastasis and if wanted cells. Rows of patients, whose
    name ends on `.zip`, are not looked at.

    Raises
    ------
    ChallengeTableError
        A row is no node, stands twice, holds no class, or a patient has not five nodes.
    """
    header = _header(table)
    by_size = "stage" not in header
    if by_size and "diameter_mm" not in header:
        raise ChallengeTableError(
            f"{table.name}: the first line names no column stage, nor diameter_mm; it is "
            f"{','.join(header) or 'empty'}"
        )
    nodes: dict[str, dict[str, str]] = {}
    for line in read_table(table, ["patient", "diameter_mm" if by_size else "stage"]):
        name = line.cells["patient"]
        if name.lower().endswith(PATIENT_SUFFIX):
            nodes.setdefault(name[: -len(PATIENT_SUFFIX)], {})
            continue
        match = NODE_NAME.fullmatch(name)
        if match is None:
            raise ChallengeTableError(
                f"{line.place}: {name!r} is no node; names are as patient_000_node_0.tif"
            )
        of_patient = nodes.setdefault(match["patient"], {})
        if int(match["node"]) in {int(NODE_NAME.fullmatch(n)["node"]) for n in of_patient}:  # type: ignore[index]
            raise ChallengeTableError(f"{line.place}: {name} stands in the table already")
        of_patient[name] = _class_by_size(line) if by_size else _class(line)
    for patient, classes in nodes.items():
        if len(classes) != NODES:
            raise ChallengeTableError(
                f"{table.name}: {patient} has {len(classes)} nodes; a stage needs all {NODES}"
            )
    if not nodes:
        raise ChallengeTableError(f"{table.name}: no node in it")
    return [StagedPatient(p, c, patient_stage(list(c.values()))) for p, c in nodes.items()]


def score_stages(
    truth: Path, predicted: Path, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Return the quadratically weighted kappa of a submission, as JSON values.

    Only rows whose patient ends on `.zip` are scored, capitals or not, as in the challenge. Where
    the truth has a column center, `centers` holds the figures of each.

    Raises
    ------
    ChallengeTableError
        A patient is missing or stands twice, or a stage is none.
    """
    is_, said = _patients(truth), _patients(predicted)
    stages = {name: line.cells["stage"] for name, line in said.items()}
    missing = [name for name in is_ if name not in said]
    if missing:
        raise ChallengeTableError(f"{predicted.name}: no row for {few(missing)} of {truth.name}")
    found = _agreement({n: v.cells["stage"] for n, v in is_.items()}, stages, seed, resamples)
    found["stages"] = list(STAGES)
    found["not_scored"] = [name for name in said if name not in is_]
    column = "center" if "center" in next(iter(is_.values())).cells else "centre"
    by_center: dict[str, dict[str, str]] = {}
    for name, line in is_.items():
        if column in line.cells:
            by_center.setdefault(line.cells[column], {})[name] = line.cells["stage"]
    found["centers"] = {
        c: _agreement(part, stages, seed, resamples) for c, part in sorted(by_center.items())
    }
    return found


def _agreement(
    truth: dict[str, str], stages: dict[str, str], seed: int, resamples: int
) -> dict[str, Any]:
    with as_usage_error():
        found = stage_agreement(truth, stages, seed=seed, resamples=resamples)
    return {
        "kappa": found.kappa,
        "kappa_low": None if found.interval is None else found.interval[0],
        "kappa_high": None if found.interval is None else found.interval[1],
        "accuracy": found.accuracy,
        "patients": found.patients,
        "confusion": found.confusion.tolist(),
    }


def _patients(table: Path) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for line in read_table(table, ["patient", "stage"]):
        name = line.cells["patient"].lower()
        if not name.endswith(PATIENT_SUFFIX):
            continue
        if name in found:
            raise ChallengeTableError(f"{line.place}: {name} stands in the table already")
        found[name] = line
    if not found:
        raise ChallengeTableError(
            f"{table.name}: no patient in it; their rows are as patient_000.zip,pN1"
        )
    return found


def _header(table: Path) -> list[str]:
    rows = read_rows(table)
    return rows[0][1] if rows else []


def _class(line: Line) -> str:
    text = line.cells["stage"].lower()
    if text not in NODE_CLASSES:
        raise ChallengeTableError(
            f"{line.place}: stage is {line.cells['stage']!r}; of a node it is one of "
            f"{', '.join(NODE_CLASSES)}"
        )
    return text


def _class_by_size(line: Line) -> str:
    size, cells = line.cells["diameter_mm"], line.cells.get("cells", "")
    try:
        diameter, count = float(size), int(cells) if cells else None
    except ValueError as err:
        raise ChallengeTableError(
            f"{line.place}: diameter_mm is {size!r} and cells {cells!r}; numbers are needed"
        ) from err
    try:
        return node_class(diameter, count)
    except ValueError as err:
        raise ChallengeTableError(f"{line.place}: {err}") from err
