"""Train a MIL head: by patient, with early stopping, the same result for the same seed."""

from __future__ import annotations

import copy
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models.bags import BagCache, common_contract, sample
from mil_models.checkpoint import INTENDED_USE, check_new, save_model, source_of
from mil_models.errors import LabelTableError
from mil_models.heads import MILHead, create_head
from mil_models.labels import LabelledSlide, read_labels
from mil_models.metrics import summarise
from mil_models.splits import Split, make_splits
from mil_models.tasks import cross_entropy
from tiling.nodes import Json
from tiling.store import SlideStore

OnEpoch = Callable[[str, int, int, float | None], None]
"""Called with (split, epoch, epochs, validation loss or None)."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a head is trained.

    Attributes
    ----------
    epochs
        Passes over the training slides, at most.
    patience
        Epochs without a lower validation loss before a fold stops.
    learning_rate, weight_decay
        AdamW's.
    max_instances
        Instances drawn from a bag for one step.
    """

    epochs: int = 100
    patience: int = 15
    learning_rate: float = 2e-4
    weight_decay: float = 1e-4
    max_instances: int = 8192

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "max_instances"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training: where the model is, and its out-of-fold figures."""

    folder: Path
    metrics: Json


@dataclass(frozen=True, slots=True)
class _Fold:
    split: Split
    head: MILHead
    epochs: int
    scores: NDArray[np.float64]


def train(
    stores: Sequence[SlideStore],
    labels: str | Path,
    out: str | Path,
    *,
    head: str = "abmil",
    task: Literal["binary", "multiclass"] = "binary",
    folds: int = 5,
    seed: int = 0,
    embeddings: str | None = None,
    allow_missing: bool = False,
    on_progress: OnEpoch | None = None,
    **options: Any,
) -> TrainResult:
    """Train a head with patient-level cross-validation and write the model folder.

    Parameters
    ----------
    stores
        Slides with finished embeddings; slides without tiles are left out, with a warning.
    labels
        CSV of labels, see :func:`mil_models.labels.read_labels`.
    out
        Model folder to make.
    head
        Name of the head.
    task
        One of two classes, or one of several; the last class in alphabetical order is the
        positive one.
    folds
        Folds over patients; 0 trains one model on everything.
    seed
        Seed of splits, initial weights, dropout and the order of slides.
    embeddings
        Name of the embeddings, where the stores hold several.
    options
        Fields of :class:`TrainOptions`.

    Raises
    ------
    LabelTableError
        The table is wrong or does not fit the stores.
    ModelMismatchError
        The slides were embedded differently.
    ModelError
        There is a model at `out` already.
    """
    settings = TrainOptions(**options)
    check_new(Path(out))  # now, not when hours of training are to be saved
    slides = read_labels(labels, stores, allow_missing=allow_missing)
    contract = common_contract([slide.store for slide in slides], embeddings)
    classes = sorted({slide.label for slide in slides})
    if task == "binary" and len(classes) > 2:
        raise LabelTableError(
            f"{len(classes)} classes ({', '.join(classes)}): use --task multiclass"
        )
    splits = make_splits(slides, folds, seed)
    cache = BagCache(embeddings)
    arguments: dict[str, Any] = {}
    trained = []
    for number, split in enumerate(splits):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(seed, number))
            model = create_head(
                head, dim=contract["encoder"]["width"], classes=len(classes), **arguments
            )
            trained.append(_train_fold(model, split, slides, classes, cache, settings,
                                       _seed_of(seed, number), on_progress))  # fmt: skip
    predictions = _oof_rows(trained, slides, classes)
    metrics = _metrics(trained, slides, classes, seed)
    card = {
        "task": task,
        "classes": classes,
        "head": {"name": head, "arguments": arguments},
        "folds": len(trained),
        "encoder": contract["encoder"],
        "tiles": contract["tiles"],
        "training": _training_summary(slides, trained, settings, seed),
        "metrics": metrics,
        "versions": {n: importlib.metadata.version(n) for n in ("numpy", "timm", "torch")},
        "intended_use": INTENDED_USE,
    }
    save_model(Path(out), [fold.head for fold in trained], card, predictions)
    return TrainResult(Path(out), metrics)


@torch.inference_mode()
def evaluate(head: MILHead, bag: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return class probabilities (C,) and attention (A, N) of a bag (N, D), in evaluation mode."""
    was_training = head.training
    head.eval()
    output = head(bag.unsqueeze(0), torch.ones(1, len(bag), dtype=torch.bool))
    head.train(was_training)
    attention = None if output.attention is None else output.attention[0]
    return output.logits[0].softmax(dim=0), attention


def _train_fold(
    head: MILHead,
    split: Split,
    slides: Sequence[LabelledSlide],
    classes: list[str],
    cache: BagCache,
    settings: TrainOptions,
    seed: int,
    on_progress: OnEpoch | None,
) -> _Fold:
    targets = torch.tensor([classes.index(slide.label) for slide in slides])
    weights = _class_weights(targets[list(split.train)], len(classes))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    criterion = partial(cross_entropy, class_weights=weights)
    generator = torch.Generator().manual_seed(seed)
    best_loss, best_epoch, best_state = float("inf"), 0, copy.deepcopy(head.state_dict())
    epoch = 0
    for epoch in range(1, settings.epochs + 1):
        head.train()
        for position in torch.randperm(len(split.train), generator=generator).tolist():
            index = split.train[position]
            bag = sample(cache.bag(slides[index].store), settings.max_instances, generator)
            output = head(
                bag.unsqueeze(0), torch.ones(1, len(bag), dtype=torch.bool), generator=generator
            )
            loss = head.loss(output, targets[index : index + 1], criterion)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        validation = _mean_loss(head, split.validation, slides, targets, cache, weights)
        if on_progress is not None:
            on_progress(split.name, epoch, settings.epochs, validation)
        if validation is not None and validation < best_loss:
            best_loss, best_epoch = validation, epoch
            best_state = copy.deepcopy(head.state_dict())
        if validation is not None and epoch - best_epoch >= settings.patience:
            break
    if split.validation:
        head.load_state_dict(best_state)
        epoch = best_epoch
    head.eval()
    scores = [evaluate(head, cache.bag(slides[i].store))[0].double().numpy() for i in split.test]
    return _Fold(split, head, epoch, np.array(scores).reshape(-1, len(classes)))


@torch.inference_mode()
def _mean_loss(
    head: MILHead,
    indices: Sequence[int],
    slides: Sequence[LabelledSlide],
    targets: Tensor,
    cache: BagCache,
    weights: Tensor,
) -> float | None:
    """Return the class-weighted mean loss in evaluation mode; None without slides."""
    if not indices:
        return None
    criterion = partial(cross_entropy, class_weights=weights)
    head.eval()
    total, weight = 0.0, 0.0
    for index in indices:
        bag = cache.bag(slides[index].store)
        output = head(bag.unsqueeze(0), torch.ones(1, len(bag), dtype=torch.bool))
        total += float(criterion(output.logits, targets[index : index + 1]))
        weight += float(weights[targets[index]])
    return total / weight


def _class_weights(targets: Tensor, classes: int) -> Tensor:
    """Return weights that make every class count the same; a mean of 1 over the slides."""
    counts = torch.bincount(targets, minlength=classes)
    if int(counts.min()) == 0:
        raise LabelTableError(f"a fold's training part lacks a class ({counts.tolist()} slides)")
    return len(targets) / (classes * counts.float())


def _seed_of(seed: int, fold: int) -> int:
    return int(np.random.SeedSequence([seed, fold]).generate_state(1)[0])


def _oof_rows(
    trained: Sequence[_Fold], slides: Sequence[LabelledSlide], classes: list[str]
) -> list[Json]:
    """Return one row per training slide; scores where a fold that did not see it gave some."""
    rows: dict[int, Json] = {
        index: {"slide_id": slide.slide_id, "patient_id": slide.patient_id, "fold": "",
                "label": slide.label, **{f"score_{c}": "" for c in classes},
                "source": source_of(slide.store)}
        for index, slide in enumerate(slides)
    }  # fmt: skip
    for number, fold in enumerate(trained):
        for index, scores in zip(fold.split.test, fold.scores, strict=True):
            rows[index]["fold"] = number
            rows[index] |= {f"score_{c}": f"{s:.6f}" for c, s in zip(classes, scores, strict=True)}
    return list(rows.values())


def _metrics(
    trained: Sequence[_Fold], slides: Sequence[LabelledSlide], classes: list[str], seed: int
) -> Json:
    tested = [i for fold in trained for i in fold.split.test]
    if not tested:
        return {"slides": 0}
    scores = np.concatenate([fold.scores for fold in trained])
    targets = np.array([classes.index(slides[i].label) for i in tested])
    return summarise(targets, scores, [slides[i].patient_id for i in tested], seed=seed)


def _training_summary(
    slides: Sequence[LabelledSlide], trained: Sequence[_Fold], settings: TrainOptions, seed: int
) -> Json:
    return {
        "slides": len(slides),
        "patients": len({slide.patient_id for slide in slides}),
        "slides_per_class": dict(sorted(Counter(slide.label for slide in slides).items())),
        "seed": seed,
        "epochs": [fold.epochs for fold in trained],
        "early_stopping": [bool(fold.split.validation) for fold in trained],
        "options": {
            "epochs": settings.epochs,
            "patience": settings.patience,
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "max_instances": settings.max_instances,
        },
    }
