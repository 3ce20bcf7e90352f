"""What a slide's model says of each of its tiles: from a bag's answer to a map of tumour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mil_models.bags import slide_bag
from mil_models.checkpoint import Model, read_predictions, source_of
from mil_models.errors import ModelMismatchError
from mil_models.heads import MILHead, MILOutput
from mil_models.prediction import fitting_embeddings
from mil_models.scoring import bag_output
from tiling.store import SlideStore

Source = Literal["auto", "instances", "attention"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TileScores:
    """What a model says of a slide and of its tiles.

    Attributes
    ----------
    values
        ``(N,)``, 0 to 1, of every tile of the store; NaN where it could not be decoded.
    score
        The slide's probability of the positive class, calibrated as the model's card says.
    source
        Where the values come from, in a word.
    heads
        Which of the model's heads spoke.
    seen_in_training
        Whether each of them was trained on this slide.
    """

    values: Floats
    score: float
    source: str
    heads: tuple[int, ...]
    seen_in_training: bool


def held_out_heads(model: Model, folder: str) -> dict[str, tuple[int, ...]]:
    """Return the heads that did not see each slide of a cross-validation, by the slide's source.

    `folder` is the model's; slides of a bag of several count alike.
    """
    folds = int(model.card["folds"])
    each = len(model.heads) // folds
    return {
        source: tuple(range(int(row["fold"]) * each, (int(row["fold"]) + 1) * each))
        for row in read_predictions(folder)
        if row["fold"]
        for source in row["source"].split(";")
    }


def tile_scores(
    model: Model,
    store: SlideStore,
    *,
    source: Source = "auto",
    held_out: dict[str, tuple[int, ...]] | None = None,
) -> TileScores:
    """Score every tile of a slide by a model of two classes, the last of which is sought.

    Of a head whose instance logits are scores of tiles, the probability of a tile by itself. Of
    contributions (additive MIL), what a tile adds to the margin of the class, as a share of the
    largest such share of the slide, times the slide's own score; of evidence (CLAM), the tile's
    probability times the slide's score; of attention, its share of the largest times that score. A
    mean over the heads.

    The slide's score is in these because nothing else makes tiles of two slides comparable:
    attention and contributions are shares of what a slide has.

    Parameters
    ----------
    source
        auto takes instance logits where the head has some, else attention.
    held_out
        From :func:`held_out_heads`: a slide of it is scored by the heads that did not see it.

    Raises
    ------
    ModelMismatchError
        The model has not two classes, the head has neither, or not what `source` asks for; or the
        store's embeddings were made otherwise.
    EmptyBagError
        No tile could be decoded.
    """
    if model.card["task"].get("kind") != "binary":
        raise ModelMismatchError(
            f"the model's task is {model.card['task'].get('kind')}: maps need one of two classes "
            "(--task binary)"
        )
    kind = _kind(model.heads[0], source)
    rows = fitting_embeddings(store, model)
    bag, keep = slide_bag(store, rows)
    own = source_of(store)
    chosen = (held_out or {}).get(own, tuple(range(len(model.heads))))
    is_held_out = held_out is not None and own in held_out
    found, scores = [], []
    for index in chosen:
        output = bag_output(model.heads[index], bag)
        scores.append(model.tasks[index].predict(output.logits)[0].double().numpy())
        found.append(_relative(output, kind, model.heads[index]))
    score = float(model.calibrated(np.mean(scores, axis=0)[None])[0, -1])
    values = np.full(len(store), np.nan)
    mean = np.mean(found, axis=0)
    values[keep] = mean if kind == "scores" else mean * score
    return TileScores(
        values, score, kind, tuple(chosen), not is_held_out and own in model.training_slides
    )


def _kind(head: MILHead, source: Source) -> str:
    """Return what the values are made of."""
    if source != "attention" and head.instance_logits_are:
        return head.instance_logits_are
    if source == "instances":
        raise ModelMismatchError(
            f"{type(head).__name__} gives no instance logits; use a head that does (additive, "
            "clam_sb, clam_mb, dsmil, tile, topk), or --source attention"
        )
    if not head.has_attention:
        raise ModelMismatchError(
            f"{type(head).__name__} says nothing of single tiles: neither instance logits nor "
            "attention; train another --head"
        )
    return "attention"


def _relative(output: MILOutput, kind: str, head: MILHead) -> Floats:
    """Return ``(N,)`` from 0 to 1: a probability, or a share of the slide's largest."""
    if kind == "attention":
        branch = head.classes - 1 if head.attention_of_classes else 0
        attention = _numpy(output.attention[0, branch])  # type: ignore[index]
        return np.asarray(attention / attention.max())
    logits = _numpy(output.instance_logits[0])  # type: ignore[index]
    if kind == "scores":
        return _sigmoid(logits[:, -1] - logits[:, 0])
    if kind == "evidence":
        return _sigmoid(logits[:, -1])
    margin = np.maximum(logits[:, -1] - logits[:, 0], 0.0)
    highest = margin.max()
    return margin / highest if highest > 0 else margin


def _numpy(values: torch.Tensor) -> Floats:
    return np.asarray(values.double().numpy(), np.float64)


def _sigmoid(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-values)), np.float64)


def used_heads(heads: Sequence[int], of: int) -> str:
    """Return in a word which heads spoke.

    Examples
    --------
    >>> used_heads((0, 1), 2), used_heads((1,), 5)
    ('all', '1')
    """
    return "all" if len(heads) == of else " ".join(map(str, heads))
