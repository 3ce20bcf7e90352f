"""Score slides with a trained model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mil_models.bags import contract_of, read_bag
from mil_models.checkpoint import Model, source_of
from mil_models.errors import EmptyBagError, ModelMismatchError
from mil_models.training import evaluate
from tiling.errors import MissingNodeError
from tiling.nodes import Rows, node_name
from tiling.store import Prediction, SlideStore


@dataclass(frozen=True, slots=True)
class BagPrediction:
    """What a model says of a bag.

    Attributes
    ----------
    scores
        float64, shape ``(C,)``: mean probability of each class over the folds.
    attention
        float32, shape ``(N,)``: mean attention over the folds, sums to 1; uniform for a head
        without attention.
    """

    scores: NDArray[np.float64]
    attention: NDArray[np.float32]


def predict_bag(
    model: Model, embeddings: NDArray[np.float32], coords: NDArray[np.int64] | None = None
) -> BagPrediction:
    """Score one bag by every fold's head and average.

    Parameters
    ----------
    embeddings
        Shape ``(N, D)``, all real.
    coords
        x0, y0 of the tiles at level 0, shape ``(N, 2)``; for heads that use them.

    Raises
    ------
    EmptyBagError
        N is 0.
    """
    if not len(embeddings):
        raise EmptyBagError("the bag is empty")
    bag = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
    scores, attentions = [], []
    for head in model.heads:
        probabilities, attention = evaluate(head, bag)
        scores.append(probabilities.double().numpy())
        if attention is None:
            attentions.append(np.full(len(bag), 1 / len(bag)))
        else:
            branch = int(probabilities.argmax()) if head.attention_of_classes else 0
            attentions.append(attention[branch].double().numpy())
    mean_attention = np.mean(attentions, axis=0)
    return BagPrediction(
        np.mean(scores, axis=0), (mean_attention / mean_attention.sum()).astype(np.float32)
    )


def predict(store: SlideStore, model: Model) -> Prediction:
    """Score a slide and write the prediction into its store; what is there already stays.

    Raises
    ------
    ModelMismatchError
        The store's embeddings were made otherwise than the model's.
    EmptyBagError
        The slide has no tile, or none that could be decoded.
    """
    rows = _fitting_embeddings(store, model)
    identity = {"model_id": model.model_id, "embeddings": rows.name}
    name = node_name(model.name, identity)
    if name in store.prediction_names():
        return store.prediction(name)
    values, keep = read_bag(store, rows)
    found = predict_bag(model, values[keep], store.grid.coords[keep])
    attention = np.full(len(store), np.nan, np.float32)
    attention[keep] = found.attention
    return store.write_prediction(
        name,
        scores=dict(zip(model.classes, found.scores.tolist(), strict=True)),
        attention=attention,
        attrs={
            **identity,
            "head": model.card["head"],
            "folds": len(model.heads),
            "intended_use": model.card["intended_use"],
            "bad_tiles": int((~keep).sum()),
            "seen_in_training": source_of(store) in model.training_slides,
        },
    )


def _fitting_embeddings(store: SlideStore, model: Model) -> Rows:
    """Return the embeddings that were made as the model's were.

    Raises
    ------
    ModelMismatchError, MissingNodeError
        There are others only, or none.
    """
    names = store.embedding_names()
    if not names:
        raise MissingNodeError(f"{store.slide_id}: the store holds no finished embeddings")
    mismatch: ModelMismatchError | None = None
    for name in names:
        rows = store.embeddings(name)
        try:
            model.check_contract(contract_of(rows), store.slide_id)
        except ModelMismatchError as err:
            mismatch = err
        else:
            return rows
    raise mismatch or MissingNodeError(store.slide_id)
