"""Every head on the GlaS fields, beside torchmil's version of it under the same budget.

The fields (MICCAI 2015 gland challenge, research only) are embedded as in `glas.py`; each head is
cross-validated by patient with our training loop: same folds, steps, optimiser, validation part and
early stopping for ours and torchmil's (Apache-2.0), whose modules are wrapped as heads. torchmil's
DSMIL keeps its own loss (by a second forward pass: its seconds are not to be compared). Its CLAM is
trained without the clustering loss, which fails in torchmil 1.0.2 on bags of this size ("the size
of tensor a must match"). A repeat draws the folds anew. Figures: AUROC of the
scores averaged over repeats, with a 95 % interval over the 11 patients; mean AUROC of the repeats;
ECE as trained and after temperature and isotonic calibration on the other folds; seconds of CPU
per repeat; and the mean over repeats of ours less torchmil's.

    python benchmarks/glas_heads.py --data ../shared/data/glas_glands/glas_patients_dev.zip \
        --repeats 20
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from glas import embed_fields, write_slides
from numpy.typing import NDArray
from torch import Tensor, nn

from mil_models.answers import ClassAnswers
from mil_models.bags import BagCache
from mil_models.evaluation import EvaluationOptions, evaluate_answers
from mil_models.heads import HEADS, MILHead, MILOutput, create_head
from mil_models.labels import LabelledSlide, read_answers
from mil_models.loop import Lesson, create_fabric, score_slides, seed_of, train_head
from mil_models.metrics import auroc
from mil_models.options import TrainOptions
from mil_models.splits import make_splits
from mil_models.tasks import Task
from tiling.store import iter_stores
from wsi_pipeline.config import EncoderOptions

PEERS = {"abmil": "ABMIL", "clam_sb": "CLAM_SB", "dsmil": "DSMIL", "transmil": "TransMIL"}
OWN_LOSS = ("DSMIL",)
WIDTH = 256
ALIKE: dict[str, dict[str, Any]] = {
    "clam_sb": {"bag_weight": 1.0},
    "transmil": {"hidden": WIDTH, "heads": 8, "landmarks": 16},
}
"""What both are given beside torchmil's: no clustering loss where it has none; landmarks for bags
of 15 tiles at most, which 256 would be padding."""


class TorchmilHead(MILHead):
    """A model of torchmil as a head: its one logit against 0."""

    permutation_equivariant, has_attention = False, False

    def __init__(self, name: str, dim: int) -> None:
        super().__init__(dim, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its imports
            import torchmil.models as peers
        self.name = name
        project = nn.Sequential(nn.Linear(dim, WIDTH), nn.ReLU(), nn.Dropout(0.25))
        arguments: dict[str, Any] = {
            "ABMIL": {"gated": True},
            "CLAM_SB": {"gated": True},
        }.get(name, {})
        if name == "TransMIL":
            self.model = peers.TransMIL((dim,), att_dim=WIDTH, n_heads=8, n_landmarks=16)
        else:
            self.model = getattr(peers, name)((dim,), feat_ext=project, **arguments)

    def forward(
        self,
        bag: Tensor,
        mask: Tensor,
        *,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MILOutput:
        self.seen = bag, mask
        logit = self._logit(bag, mask)
        return MILOutput(torch.stack([torch.zeros_like(logit), logit], dim=1))

    def loss(self, output: MILOutput, target: Tensor, criterion: Any) -> Tensor:
        if self.name not in OWN_LOSS:
            return super().loss(output, target, criterion)
        truth = target.float().reshape(len(target), -1)[:, -1]
        _, losses = self.model.compute_loss(truth, *self.seen)
        total: Tensor = sum(losses.values())
        return total

    def _logit(self, bag: Tensor, mask: Tensor) -> Tensor:
        found = self.model(bag) if self.name == "TransMIL" else self.model(bag, mask)
        logit: Tensor = found[0] if isinstance(found, tuple) else found
        return logit.reshape(len(bag))


def cross_validated(
    name: str, slides: Sequence[LabelledSlide], task: Task, cache: BagCache, seed: int,
    options: TrainOptions,
) -> tuple[NDArray[np.float64], list[str], float]:  # fmt: skip
    """Return out-of-fold probabilities (N, 2), the fold of every slide, and CPU seconds."""
    targets = task.targets([slide.readings for slide in slides])
    dim = cache.bag(slides[0]).values.shape[1]
    scores, fold_of = np.zeros((len(slides), 2)), [""] * len(slides)
    start = time.process_time()
    for number, split in enumerate(make_splits(slides, 5, seed)):
        own = seed_of(seed, number)
        torch.manual_seed(own)
        head: MILHead = (
            TorchmilHead(name.removeprefix("torchmil "), dim) if name.startswith("torchmil ")
            else create_head(name, dim=dim, classes=task.logits, **ALIKE.get(name, {}))
        )  # fmt: skip
        fitted = task.fitted(targets[list(split.train)])
        lesson = Lesson(name, split, slides, fitted, targets, own)
        learned = train_head(head, lesson, cache, options, create_fabric(options))
        logits = score_slides(learned.head, [slides[i] for i in split.test], cache)
        scores[list(split.test)] = fitted.predict(logits).double().numpy()
        for index in split.test:
            fold_of[index] = str(number)
    return scores, fold_of, time.process_time() - start


def report(
    name: str, runs: list[tuple[NDArray[np.float64], list[str], float]], targets: NDArray[np.int64],
    patients: list[str],
) -> list[float]:  # fmt: skip
    """Print a head's line; return the AUROC of every repeat."""
    mean = np.mean([run[0] for run in runs], axis=0)
    answers = ClassAnswers("binary", ("benign", "malignant"), targets, mean)
    found = evaluate_answers(answers, patients, options=EvaluationOptions())
    metrics, errors = found["metrics"], []
    for scores, folds, _ in runs:
        one = ClassAnswers("binary", answers.classes, targets, scores)
        options = EvaluationOptions(resamples=100)
        calibration = evaluate_answers(one, patients, folds=folds, options=options)["calibration"]
        errors.append([calibration[k]["ece"] for k in ("before", "temperature", "isotonic")])
    each = [float(auroc(targets, run[0]) or np.nan) for run in runs]
    before, temperature, isotonic = np.mean(errors, axis=0)
    seconds = np.mean([run[2] for run in runs])
    print(
        f"{name:18} {metrics['auroc']:.3f} ({metrics['auroc_low']:.3f} to "
        f"{metrics['auroc_high']:.3f})  {np.mean(each):.3f} ± {np.std(each):.3f}   "
        f"{before:.3f} {temperature:.3f} {isotonic:.3f}   {seconds:6.1f}",
        flush=True,
    )
    return each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="Keep slides and embeddings here.")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--heads", nargs="*", default=list(HEADS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        rows = write_slides(arguments.data, work / "slides")
        if not (work / "out" / "stores").exists():
            embed_fields(work, work / "out", EncoderOptions())
        labels = work / "labels.csv"
        with labels.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["slide_id", "patient_id", "label"])
            writer.writerows([r["name"], r["patient"], ("benign", "malignant")[int(r["label"])]]
                             for r in rows)  # fmt: skip
        stores = list(iter_stores(work / "out"))
        slides, task = read_answers(labels, stores, "binary")
        targets = np.array([slide.label == "malignant" for slide in slides]).astype(np.int64)
        patients, cache = [slide.patient_id for slide in slides], BagCache()
        options = TrainOptions(epochs=arguments.epochs, device="cpu")
        print(f"{len(slides)} fields of {len(set(patients))} patients, {arguments.repeats} "
              f"repeats of 5 folds, {arguments.epochs} epochs at most")  # fmt: skip
        print(f"{'head':18} AUROC of mean scores     of a repeat     ECE raw/temp/iso    CPU-s")
        for name in arguments.heads:
            both = {}
            for version in (name, f"torchmil {PEERS[name]}") if name in PEERS else (name,):
                runs = [cross_validated(version, slides, task, cache, seed, options)
                        for seed in range(arguments.repeats)]  # fmt: skip
                both[version] = report(version, runs, targets, patients)
            if len(both) == 2:
                ours, theirs = (np.array(each) for each in both.values())
                error = np.std(ours - theirs, ddof=1) / np.sqrt(len(ours)) if len(ours) > 1 else 0
                print(f"  ours less torchmil's, paired by repeat: {np.mean(ours - theirs):+.4f} "
                      f"(standard error {error:.4f})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
