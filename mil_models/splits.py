"""Who is trained on and who is tested: by patient, always."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from mil_models.errors import LabelTableError
from mil_models.labels import LabelledSlide

VALIDATION_FOLDS = 5
"""The validation part is about one in so many of a fold's training patients."""


@dataclass(frozen=True, slots=True)
class Split:
    """Indices of the slides to train on, to stop by, and to test on; no patient in two of them."""

    name: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def make_splits(slides: Sequence[LabelledSlide], folds: int, seed: int) -> list[Split]:
    """Return the splits to train by.

    The table's own `split` where it has one; else `folds` patient-level folds, stratified by
    label; for 0 one split that tests nothing. Fewer patients in a class than folds: as many folds
    as there are patients, with a warning.

    Raises
    ------
    LabelTableError
        A class has fewer than two patients.
    """
    if folds < 0 or folds == 1:
        raise ValueError(f"folds={folds}: must be 0 or at least 2")
    everyone = tuple(range(len(slides)))
    if any(slide.split for slide in slides):
        sides = {side: tuple(i for i in everyone if slides[i].split == side)
                 for side in ("train", "val", "test")}  # fmt: skip
        if len({slides[i].stratum for i in sides["train"]}) < 2:
            raise LabelTableError("the table's train part has one class only")
        return [Split("split", sides["train"], sides["val"], sides["test"])]
    if folds == 0:
        train, validation = _carve(slides, everyone, seed)
        return [Split("all", train, validation, ())]
    folds = _possible_folds(slides, folds)
    parts = _folds(slides, everyone, folds, seed)
    splits = []
    for number, test in enumerate(parts):
        rest = tuple(i for i in everyone if i not in set(test))
        train, validation = _carve(slides, rest, seed)
        splits.append(Split(f"fold {number}", train, validation, test))
    return splits


def _possible_folds(slides: Sequence[LabelledSlide], folds: int) -> int:
    patients = _patients_by_class(slides)
    scarce = min(patients, key=lambda label: len(patients[label]))
    fewest = len(patients[scarce])
    if fewest < 2:
        raise LabelTableError(
            f"class {scarce!r} has {fewest} patient; cross-validation needs 2, or pass --folds 0"
        )
    if fewest < folds:
        warnings.warn(
            f"class {scarce!r} has {fewest} patients: {fewest} folds, not {folds}", stacklevel=3
        )
    return min(folds, fewest)


def _patients_by_class(slides: Sequence[LabelledSlide]) -> dict[str, set[str]]:
    patients: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        patients[slide.stratum].add(slide.patient_id)
    return patients


def _folds(
    slides: Sequence[LabelledSlide], indices: Sequence[int], folds: int, seed: int
) -> list[tuple[int, ...]]:
    labels = np.array([slides[i].stratum for i in indices])
    groups = np.array([slides[i].patient_id for i in indices])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    order = np.asarray(indices)
    return [
        tuple(int(i) for i in order[test])
        for _, test in splitter.split(np.zeros(len(order)), labels, groups)
    ]


def _carve(
    slides: Sequence[LabelledSlide], indices: Sequence[int], seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return training and validation parts that both hold every class, or all and nothing."""
    wanted = {slides[i].stratum for i in indices}
    fewest = min(len(p) for p in _patients_by_class([slides[i] for i in indices]).values())
    for folds in range(min(VALIDATION_FOLDS, fewest), 1, -1):
        for validation in _folds(slides, indices, folds, seed):
            train = tuple(i for i in indices if i not in set(validation))
            if all({slides[i].stratum for i in part} == wanted for part in (train, validation)):
                return train, validation
    return tuple(indices), ()
