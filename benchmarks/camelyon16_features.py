"""Tell tumour slides by 30 features of a heat map: random forest, logistic regression, our heads.

The table holds 266 CAMELYON16 training slides with the features of the winning method of 2016
(areas, probabilities and shapes in a tumour heat map). Each slide is a bag of one instance; heads
are trained by our own loop and cross-validated, logistic regression and a random forest (that of
`wsi camelyon train --maps`) by scikit-learn on the same folds. Features are put on a logarithmic
scale where they span decades, and standardised on the training part of each fold, for all alike. A
slide is a patient here. The maps seem to come from a classifier that was trained on these slides:
on test slides the figures are lower (logistic regression: 0.87).

    python benchmarks/camelyon16_features.py --table ../shared/data/camelyon_tables/\
camelyon16_train_heatmap_features.csv --repeats 5
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mil_models.answers import ClassAnswers
from mil_models.bags import Bag, BagCache
from mil_models.comparison import compare
from mil_models.heads import create_head
from mil_models.heatmap_forest import create_forest
from mil_models.loop import Lesson, create_fabric, score_slides, seed_of, train_head
from mil_models.metrics import answer_metrics
from mil_models.options import TaskOptions, TrainOptions
from mil_models.readings import Reading
from mil_models.splits import repeated_splits
from mil_models.tasks import create_task

HEADS = ("mean", "abmil")
PLAIN = ("logistic regression", "random forest")
"""Without early stopping: these may have the validation part too."""
FOLDS = 5
OPTIONS = TrainOptions(epochs=20, patience=8, learning_rate=3e-3, device="cpu")
CLASSES = ("normal", "tumour")


@dataclass(frozen=True)
class Row:
    """A slide of the table, as splits and the training loop want it."""

    slide_id: str
    label: str
    split: str = ""
    site: str = ""

    @property
    def patient_id(self) -> str:
        return self.slide_id

    @property
    def stratum(self) -> str:
        return self.label


class TableBags(BagCache):
    """Bags of one instance, from rows of a table instead of stores."""

    def __init__(self, values: dict[str, NDArray[np.float32]]) -> None:
        super().__init__()
        for name, row in values.items():
            place = torch.zeros(1, 2, dtype=torch.int64)
            self._bags[name] = Bag(torch.from_numpy(row)[None], place)


def read_table(path: Path) -> tuple[list[Row], NDArray[np.float64]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("slide", "label")]
    values = np.array([[float(row[name] or 0) for name in names] for row in rows])
    values = np.nan_to_num(values)
    wide = (values.min(axis=0) >= 0) & (values.max(axis=0) > 100)
    values[:, wide] = np.log1p(values[:, wide])
    return [Row(row["slide"], CLASSES[int(row["label"])]) for row in rows], values


def cross_validated(
    name: str, slides: Sequence[Row], values: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the out-of-fold probability of a tumour of every slide."""
    targets = np.array([CLASSES.index(slide.label) for slide in slides])
    scores = np.empty(len(slides))
    readings = [[Reading("table", s.slide_id, {"label": s.label})] for s in slides]
    task = create_task("binary", readings, ["label"], TaskOptions())
    for number, split in enumerate(repeated_splits(slides, FOLDS, seed, repeats=1)):
        held = list(split.test)
        seen = [*split.train, *split.validation]
        fitted = seen if name in PLAIN else list(split.train)
        scaled = StandardScaler().fit(values[fitted]).transform(values)
        if name == "logistic regression":
            model = LogisticRegression(C=0.1, max_iter=5000).fit(scaled[fitted], targets[fitted])
            scores[held] = model.predict_proba(scaled[held])[:, 1]
            continue
        if name == "random forest":
            forest = create_forest(seed).fit(values[fitted], targets[fitted])
            scores[held] = forest.predict_proba(values[held])[:, 1]
            continue
        own = seed_of(seed, number)
        torch.manual_seed(own)
        head = create_head(name, dim=values.shape[1], classes=task.logits)
        bags = TableBags({s.slide_id: v.astype(np.float32)
                          for s, v in zip(slides, scaled, strict=True)})  # fmt: skip
        lesson = Lesson(name, split, slides, task.fitted(task.targets(readings)[seen]),  # type: ignore[arg-type]
                        task.targets(readings), own)  # fmt: skip
        learned = train_head(head, lesson, bags, OPTIONS, create_fabric(OPTIONS))
        logits = score_slides(learned.head, [slides[i] for i in held], bags)  # type: ignore[misc]
        scores[held] = learned.task.predict(logits)[:, 1].double().numpy()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heads", nargs="*", choices=HEADS, default=HEADS)
    arguments = parser.parse_args()
    slides, values = read_table(arguments.table)
    targets = np.array([CLASSES.index(slide.label) for slide in slides])
    names = [slide.slide_id for slide in slides]
    print(f"{len(slides)} slides, {targets.sum()} tumour, {values.shape[1]} features; "
          f"{arguments.repeats} x {FOLDS} folds, scores averaged over repeats")  # fmt: skip
    answers = {}
    for name in (*PLAIN, *arguments.heads):
        start = time.process_time()
        runs = [cross_validated(name, slides, values, seed) for seed in range(arguments.repeats)]
        mean = np.mean(runs, axis=0)
        answers[name] = ClassAnswers("binary", CLASSES, targets, np.stack([1 - mean, mean], axis=1))
        found = answer_metrics(answers[name], names)
        text = f"{name:20} AUROC {found['auroc']:.4f} ({found['auroc_low']:.4f} to "
        text += f"{found['auroc_high']:.4f}), DeLong {found['auroc_delong_low']:.4f} to "
        text += f"{found['auroc_delong_high']:.4f}, {time.process_time() - start:.0f} CPU-s"
        if name != "logistic regression":
            gap = compare(answers[name], answers["logistic regression"], names)["auroc"]
            text += f"; less logistic regression {gap['difference']:+.4f} "
            text += f"({gap['low']:+.4f} to {gap['high']:+.4f}), DeLong p {gap['delong_p']:.2f}"
        print(text, flush=True)


if __name__ == "__main__":
    main()
