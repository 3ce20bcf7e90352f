"""Train a classifier of tiles on tiles' labels, with hard negatives, patients kept apart.

References
----------
Wang et al. 2016, arXiv:1606.05718, section 3 (tiles drawn from every slide, false positives added:
the winners of CAMELYON16); Ehteshami Bejnordi et al. 2017, JAMA 318:2199.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from numpy.typing import NDArray
from torch import Tensor

from mil_models.bags import BagCache, check_readable, common_contract, real_rows
from mil_models.checkpoint import INTENDED_USE, SavedHead, check_new, save_model
from mil_models.errors import LabelTableError
from mil_models.heads import create_head
from mil_models.heads.tile import TileClassifier
from mil_models.labels import LabelledSlide, read_answers
from mil_models.loop import Learned, Lesson, seed_of
from mil_models.metrics import auroc
from mil_models.options import SplitOptions, TaskOptions, TileTrainOptions
from mil_models.out_of_fold import fold_metrics, held_out_card, tested_scores
from mil_models.splits import choose_splits, split_rows
from mil_models.tables import epoch_rows, prediction_rows
from mil_models.training import TrainResult
from tiling.nodes import Json
from tiling.store import SlideStore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OnRound = Callable[[str, int, int, float], None]
"""Called with (split, epochs done, epochs at most, training loss)."""
NORMAL, TUMOUR, NEITHER = 0, 1, -1
FEWEST_STEPS, SMALLEST_BATCH = 16, 16
"""Batches are smaller where an epoch would otherwise have too few steps to learn anything."""
EVALUATED_TILES = 1 << 16
"""Tiles whose logits are computed at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tiles:
    """The labelled tiles of all slides: by slide what each tile of its bag is ``(N,)``."""

    slides: Sequence[LabelledSlide]
    cache: BagCache
    labels: Sequence[Ints]

    def values(self, index: int) -> Tensor:
        """Return the embeddings ``(N, D)`` of a slide's bag."""
        return self.cache.bag(self.slides[index]).values


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Tiles that are trained on: by slide the indices in its bag, ascending."""

    chosen: dict[int, Ints]

    def tensors(self, tiles: _Tiles) -> tuple[Tensor, Tensor]:
        """Return embeddings ``(M, D)`` and labels ``(M,)``."""
        values = [tiles.values(slide)[torch.from_numpy(own)] for slide, own in self.chosen.items()]
        labels = [tiles.labels[slide][own] for slide, own in self.chosen.items()]
        return torch.cat(values), torch.from_numpy(np.concatenate(labels))

    def count(self, tiles: _Tiles, label: int) -> int:
        """Return how many of them are of `label`."""
        return sum(int((tiles.labels[s][own] == label).sum()) for s, own in self.chosen.items())


def train_tiles(
    stores: Sequence[SlideStore],
    labels: str | Path,
    fractions: Mapping[str, Floats],
    out: str | Path,
    *,
    folds: int = 5,
    seed: int = 0,
    embeddings: str | None = None,
    allow_missing: bool = False,
    options: TileTrainOptions = TileTrainOptions(),
    on_progress: OnRound | None = None,
) -> TrainResult:
    """Train the head `tile` on tiles with patient-level cross-validation; write a model folder.

    The folder is as :func:`mil_models.train`'s: it is loaded, predicts and is evaluated alike.

    Parameters
    ----------
    stores
        Slides with finished embeddings.
    labels
        CSV of labels, two classes, the second one tumour: see
        :func:`mil_models.labels.read_answers`. Where its column exhaustive is false, tumour of the
        slide may be without an outline: none of its tiles counts as normal.
    fractions
        By slide_id the share of each tile of the store that is tumour, shape ``(N,)``. All tiles of
        a normal slide are normal; no tile of a tumour slide that is not in it is trained on.
    folds, seed, embeddings, allow_missing
        As of :func:`mil_models.train`.
    options
        How it is trained.

    Raises
    ------
    LabelTableError
        The table is wrong, outlines contradict it, or a fold's training part lacks tiles of a
        class.
    ModelError
        There is a model at `out` already.
    """
    folder = Path(out)
    check_new(folder)
    slides, question = read_answers(
        labels, stores, "binary", TaskOptions(), allow_missing=allow_missing
    )
    contract = common_contract([slide.store for slide in slides], embeddings)
    check_readable(slides, embeddings)
    positive = list(question.outputs)[-1]
    cache = BagCache(embeddings)
    known = [_labels_of(s, positive, fractions, embeddings, options) for s in slides]
    tiles = _Tiles(slides, cache, known)
    targets = question.targets([slide.readings for slide in slides])
    arguments = {"k": options.k, "hidden": options.hidden, "dropout": options.dropout}
    lessons, learned, taken = [], [], []
    for number, split in enumerate(choose_splits(slides, folds, seed, SplitOptions())):
        fitted = question.fitted(targets[list(split.train)])
        lesson = Lesson(
            f"fold {number}", split, slides, fitted, targets, seed_of(seed, number)
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lesson.seed)
            head = create_head("tile", dim=contract["encoder"]["width"], classes=2, **arguments)
        one, counts = _learn(cast(TileClassifier, head), lesson, tiles, options, on_progress)
        lessons.append(lesson)
        learned.append(one)
        taken.append(counts)
    scores = tested_scores(lessons, learned, cache)
    rows = prediction_rows(slides, question, scores)
    card = {
        "task": question.to_json(),
        "classes": list(question.outputs),
        "head": {"name": "tile", "arguments": arguments},
        "folds": len(lessons),
        "encoder": contract["encoder"],
        "tiles": contract["tiles"],
        **held_out_card(rows, scores, question),
        "training": {
            "supervision": "tiles",
            "slides": len(slides),
            "patients": len({slide.patient_id for slide in slides}),
            "slides_per_class": dict(sorted(Counter(slide.stratum for slide in slides).items())),
            "seed": seed,
            "epochs": [one.epoch for one in learned],
            "early_stopping": [bool(lesson.split.validation) for lesson in lessons],
            "options": {**asdict(options), "bag": "slide"},
            "tiles": taken,
            "tile_auroc": _tile_auroc(lessons, learned, tiles),
        },
        "metrics": fold_metrics(rows, question, seed),
        "versions": {n: importlib.metadata.version(n) for n in ("numpy", "timm", "torch")},
        "intended_use": INTENDED_USE,
    }
    saved = [
        SavedHead(lesson.name.replace(" ", "_"), one.head, one.task.to_json())
        for lesson, one in zip(lessons, learned, strict=True)
    ]
    tables = {
        "epochs.csv": epoch_rows(lessons, learned),
        "splits.csv": split_rows(slides, [lesson.split for lesson in lessons]),
    }
    save_model(folder, saved, card, rows, tables)
    return TrainResult(folder, cast(Json, card["metrics"]))


def _labels_of(
    slide: LabelledSlide,
    positive: str,
    fractions: Mapping[str, Floats],
    embeddings: str | None,
    options: TileTrainOptions,
) -> Ints:
    """Return what each tile of a slide's bag is: normal, tumour, or neither."""
    store = slide.store
    keep = real_rows(store, store.embeddings(embeddings))
    share = fractions.get(store.slide_id)
    if share is not None and share.shape != (len(store),):
        raise ValueError(f"{store.slide_id}: {share.shape} fractions of {len(store)} tiles")
    if slide.label != positive:
        if share is not None and share.any():
            raise LabelTableError(
                f"{store.slide_id}: labelled {slide.label}, but tumour is outlined"
            )
        return np.full(int(keep.sum()), NORMAL, np.int64)
    if share is None:
        return np.full(int(keep.sum()), NEITHER, np.int64)
    found = np.full(len(store), NEITHER, np.int64)
    found[share >= options.positive] = TUMOUR
    if slide.readings[0].values.get("exhaustive", "").strip().lower() != "false":
        found[share == 0] = NORMAL
    return found[keep]


def _learn(
    head: TileClassifier,
    lesson: Lesson,
    tiles: _Tiles,
    options: TileTrainOptions,
    on_progress: OnRound | None,
) -> tuple[Learned, Json]:
    """Train a head in rounds, each on the tiles so far and the worst false positives of them."""
    rng = np.random.default_rng(lesson.seed)
    sample = _drawn(tiles, lesson.split.train, options.per_slide, rng)
    counts = {"tumour": sample.count(tiles, TUMOUR), "normal": sample.count(tiles, NORMAL)}
    for kind, count in counts.items():
        if not count:
            raise LabelTableError(
                f"{lesson.split.name}: no tile of {kind} to train on; are the outlines named "
                f"as the slides, and do they fill {options.positive:g} of a tile (--positive)?"
            )
    device = _device(options)
    values, _ = sample.tensors(tiles)
    spread = values.std(dim=0)
    head.shift = values.mean(dim=0)
    head.spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    head.to(device)
    history: list[Json] = []
    mined: list[int] = []
    for number in range(options.rounds + 1):
        if number:
            added = _false_positives(head, tiles, lesson.split.train, sample, options)
            mined.append(sum(map(len, added.values())))
            if not mined[-1]:
                break
            sample = _Sample({
                s: np.union1d(own, added.get(s, np.zeros(0, np.int64)))
                for s, own in sample.chosen.items()
            })  # fmt: skip
        _round(head, lesson, tiles, sample, options, number, history, on_progress)
    head.cpu().eval()
    card: Json = {**counts, "hard_negatives": mined}
    return Learned(head, lesson.task, len(history), history), card


def _drawn(
    tiles: _Tiles, indices: Sequence[int], per_slide: int, rng: np.random.Generator
) -> _Sample:
    """Return at most `per_slide` tiles of tumour and of normal tissue of each slide."""
    chosen = {}
    for index in indices:
        parts = []
        for label in (NORMAL, TUMOUR):
            own = np.flatnonzero(tiles.labels[index] == label)
            if len(own) > per_slide:
                own = rng.choice(own, per_slide, replace=False)
            parts.append(own)
        chosen[index] = np.sort(np.concatenate(parts))
    return _Sample(chosen)


def _round(
    head: TileClassifier,
    lesson: Lesson,
    tiles: _Tiles,
    sample: _Sample,
    options: TileTrainOptions,
    number: int,
    history: list[Json],
    on_progress: OnRound | None,
) -> None:
    """Train for some epochs; `head` ends with the weights of the lowest validation loss."""
    device = _device(options)
    values, labels = (t.to(device) for t in sample.tensors(tiles))
    weights = _class_weights(labels)
    # Not cross_entropy's own smoothing: it weighs the smoothed part by the other class's weight.
    soft = F.one_hot(labels, 2) * (1 - options.smoothing) + options.smoothing / 2
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    best: dict[str, Tensor] | None = None
    lowest, waited = float("inf"), 0
    for epoch in range(1, options.epochs + 1):
        generator = torch.Generator().manual_seed(seed_of(lesson.seed, number, epoch))
        head.train()
        order = torch.randperm(len(values), generator=generator)
        losses = []
        size = max(min(options.batch_tiles, len(order) // FEWEST_STEPS), SMALLEST_BATCH)
        for chosen in torch.split(order, size):
            logits = head.tile_logits(values[chosen], generator)
            own = weights[labels[chosen]]
            loss = (F.cross_entropy(logits, soft[chosen], reduction="none") * own).sum() / own.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        validation = _validate(head, lesson, tiles)
        history.append(
            {"epoch": len(history) + 1, "learning_rate": options.learning_rate,
             "train_loss": mean, "validation_loss": validation}
        )  # fmt: skip
        if on_progress is not None:
            done = number * options.epochs + epoch
            on_progress(lesson.split.name, done, (options.rounds + 1) * options.epochs, mean)
        if validation is None:
            continue
        if validation < lowest:
            lowest, waited, best = validation, 0, copy.deepcopy(head.state_dict())
            continue
        waited += 1
        if waited >= options.patience:
            break
    if best is not None:
        head.load_state_dict(best)


def _class_weights(labels: Tensor) -> Tensor:
    """Return weights by which both classes count the same."""
    counts = torch.bincount(labels, minlength=2).float()
    return len(labels) / (2 * counts.clamp(min=1))


def _validate(head: TileClassifier, lesson: Lesson, tiles: _Tiles) -> float | None:
    """Return the loss over all labelled tiles of the validation slides, classes equal; or None."""
    sums, counts = np.zeros(2), np.zeros(2)
    for index in lesson.split.validation:
        labels = tiles.labels[index]
        logits = torch.from_numpy(_logits(head, tiles.values(index)))
        for label in (NORMAL, TUMOUR):
            own = torch.from_numpy(np.flatnonzero(labels == label))
            target = torch.full((len(own),), label)
            sums[label] += float(F.cross_entropy(logits[own], target, reduction="sum"))
            counts[label] += len(own)
    if not counts.all():
        return None
    return float((sums / counts).mean())


def _false_positives(
    head: TileClassifier,
    tiles: _Tiles,
    indices: Sequence[int],
    sample: _Sample,
    options: TileTrainOptions,
) -> dict[int, Ints]:
    """Return by slide the normal tiles that are called tumour and are not trained on, worst first.

    At most `per_slide` of each.
    """
    found = {}
    for index in indices:
        logits = _logits(head, tiles.values(index))
        margin = logits[:, TUMOUR] - logits[:, NORMAL]
        wrong = np.flatnonzero((tiles.labels[index] == NORMAL) & (margin > 0))
        fresh = np.setdiff1d(wrong, sample.chosen[index])
        found[index] = fresh[np.argsort(-margin[fresh], kind="stable")][: options.per_slide]
    return found


@torch.inference_mode()
def _logits(head: TileClassifier, values: Tensor) -> Floats:
    """Return the logits ``(N, 2)`` of tiles in evaluation mode."""
    head.eval()
    device = head.classify.weight.device
    parts = [head.tile_logits(v.to(device)).cpu() for v in torch.split(values, EVALUATED_TILES)]
    return np.asarray(torch.cat(parts).double().numpy())


def _tile_auroc(
    lessons: Sequence[Lesson], learned: Sequence[Learned], tiles: _Tiles
) -> float | None:
    """Return the AUROC of tumour over the labelled tiles of slides that no fold had seen."""
    targets, margins = [], []
    for lesson, one in zip(lessons, learned, strict=True):
        for index in lesson.split.test:
            labels = tiles.labels[index]
            logits = _logits(cast(TileClassifier, one.head), tiles.values(index))
            real = labels != NEITHER
            targets.append(labels[real])
            margins.append((logits[:, TUMOUR] - logits[:, NORMAL])[real])
    if not targets:
        return None
    margin = np.concatenate(margins)
    return auroc(np.concatenate(targets), np.stack([-margin, margin], axis=1))


def _device(options: TileTrainOptions) -> torch.device:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': there is none here; pass --device cpu")
    cuda = options.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")
