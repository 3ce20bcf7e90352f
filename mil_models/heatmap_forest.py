"""A random forest on heat-map features: the winning method's way from a map to a slide's score.

What is stored is the table of features, the seed and the settings; loading fits the same trees
again, in a second. scikit-learn's own format is pickle, which can run code.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from mil_models.errors import ModelError
from mil_models.heatmap_features import FEATURES
from mil_models.splits import make_splits
from tiling.nodes import Json

KIND = "heatmap_forest"
CARD, TABLE = "card.json", "features.csv"
TREES = 500
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRow:
    """A slide's features ``(30,)`` in the order of `FEATURES`, and whether it has tumour."""

    slide_id: str
    patient_id: str
    is_tumour: bool
    features: Floats
    split: str = ""
    site: str = ""

    @property
    def stratum(self) -> str:
        """What folds are to hold in equal shares."""
        return "tumour" if self.is_tumour else "normal"


@dataclass(frozen=True, slots=True, eq=False)
class HeatmapForest:
    """A fitted forest; `out_of_fold` the scores of its training slides by folds without them."""

    model: RandomForestClassifier
    card: Json
    out_of_fold: dict[str, float]

    def score(self, features: Floats) -> Floats:
        """Return the probability of tumour ``(N,)`` for features ``(N, 30)``."""
        return np.asarray(self.model.predict_proba(features)[:, 1], np.float64)


def create_forest(seed: int, *, trees: int = TREES) -> RandomForestClassifier:
    """Return an unfitted forest whose classes count the same."""
    return RandomForestClassifier(
        n_estimators=trees,
        class_weight="balanced",
        max_features="sqrt",
        random_state=seed,
        n_jobs=1,
    )


def cross_validated(
    rows: Sequence[FeatureRow], *, folds: int, seed: int, trees: int = TREES
) -> Floats:
    """Return each slide's score by a forest that saw none of its patient's, shape ``(N,)``."""
    features, targets = _arrays(rows)
    scores = np.full(len(rows), np.nan)
    for split in make_splits(rows, folds, seed):
        seen = [*split.train, *split.validation]
        model = create_forest(seed, trees=trees).fit(features[seen], targets[seen])
        scores[list(split.test)] = model.predict_proba(features[list(split.test)])[:, 1]
    return scores


def train_forest(
    rows: Sequence[FeatureRow], folder: Path, *, folds: int = 5, seed: int = 0, trees: int = TREES
) -> HeatmapForest:
    """Fit a forest on all rows and write it, with scores by `folds` that had not seen a slide.

    Raises
    ------
    ModelError
        There is something at `folder` already.
    LabelTableError
        A class has fewer than two patients.
    """
    if folder.exists():
        raise ModelError(f"{folder}: exists already; remove it, or choose another -o")
    scores = cross_validated(rows, folds=folds, seed=seed, trees=trees)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["slide", "patient", "label", "out_of_fold", *FEATURES])
        for row, score in zip(rows, scores.tolist(), strict=True):
            values = [repr(float(v)) for v in row.features]
            writer.writerow([row.slide_id, row.patient_id, int(row.is_tumour), score, *values])
    card: Json = {
        "kind": KIND, "schema_version": 1, "seed": seed, "trees": trees, "folds": folds,
        "slides": len(rows), "features": list(FEATURES), "scikit_learn": sklearn.__version__,
        "table_sha256": _digest(partial / TABLE),
        "intended_use": "Research only. Not a medical device; not for diagnosis.",
    }  # fmt: skip
    (partial / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    partial.rename(folder)
    return load_forest(folder)


def load_forest(folder: Path) -> HeatmapForest:
    """Fit the forest that `folder` describes; the same trees each time.

    Another version of scikit-learn than the card's may grow others: it is warned of.

    Raises
    ------
    ModelError
        It is no such folder, or its table was changed.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["kind"] != KIND or card["features"] != list(FEATURES):
            raise ModelError(f"{folder}: no forest on these heat-map features")
        if _digest(folder / TABLE) != card["table_sha256"]:
            raise ModelError(f"{folder}: {TABLE} was changed since it was written; train again")
        with (folder / TABLE).open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        features = np.array([[float(row[name]) for name in FEATURES] for row in table])
        targets = np.array([int(row["label"]) for row in table])
        held_out = {row["slide"]: float(row["out_of_fold"]) for row in table}
        seed, trees = int(card["seed"]), int(card["trees"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        if isinstance(err, ModelError):
            raise
        raise ModelError(f"{folder}: no folder of a heat-map forest: {err}") from err
    if card["scikit_learn"] != sklearn.__version__:
        warnings.warn(
            f"{folder.name}: fitted with scikit-learn {card['scikit_learn']}, now again with "
            f"{sklearn.__version__}: scores may differ a little",
            stacklevel=2,
        )
    model = create_forest(seed, trees=trees).fit(features, targets)
    return HeatmapForest(model, card, held_out)


def _arrays(rows: Sequence[FeatureRow]) -> tuple[Floats, NDArray[np.int64]]:
    features = np.stack([row.features for row in rows])
    return features, np.array([row.is_tumour for row in rows], np.int64)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
