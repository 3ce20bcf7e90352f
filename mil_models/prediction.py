"""Score slides with a trained model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models.bags import Bag, contract_of, joined_bag, read_bag
from mil_models.checkpoint import Model, source_of
from mil_models.errors import EmptyBagError, MissingCoordsError, ModelMismatchError
from mil_models.heads import MILHead
from mil_models.scoring import bag_output
from tiling.errors import MissingNodeError
from tiling.nodes import Json, Rows, node_name
from tiling.store import Prediction, SlideStore


@dataclass(frozen=True, slots=True)
class BagPrediction:
    """What a model says of a bag.

    Attributes
    ----------
    scores
        float64, shape ``(P,)``: the task's values, such as the probability of each class; the
        mean over the heads, calibrated where the model's card says how.
    label
        The answer in a word.
    is_positive
        Whether the score reaches the model's operating point; None where it has none.
    attention
        float32, shape ``(N,)``: mean attention over the folds, sums to 1; uniform for a head
        without attention.
    contribution
        float32, shape ``(N,)``: what each tile adds to the log odds of the second of two classes,
        or to the logit of the predicted one of several; the mean over the folds. None where the
        heads do not say.
    """

    scores: NDArray[np.float64]
    attention: NDArray[np.float32]
    label: str
    is_positive: bool | None
    contribution: NDArray[np.float32] | None = None


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
    MissingCoordsError
        A head needs coordinates.
    """
    if not len(embeddings):
        raise EmptyBagError("the bag is empty")
    if coords is None:
        if any(head.needs_coords for head in model.heads):
            raise MissingCoordsError(f"head {model.name} needs the tiles' places: pass coords")
        coords = np.zeros((len(embeddings), 2), np.int64)
    return _answer(
        model,
        Bag(
            torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)),
            torch.from_numpy(np.ascontiguousarray(coords, np.int64)),
        ),
    )


def predict_patient(stores: Sequence[SlideStore], model: Model) -> BagPrediction:
    """Score all slides of a patient as one bag, as a model that was trained so wants it.

    Slides without a tile are left out; attention is over all tiles, slide after slide. Nothing is
    written.

    Raises
    ------
    ModelMismatchError
        A store's embeddings were made otherwise than the model's.
    EmptyBagError
        No slide has a tile that could be decoded.
    """
    full = [(store, fitting_embeddings(store, model)) for store in stores if len(store)]
    if not full:
        raise EmptyBagError("no slide of the patient has a tile")
    return _answer(model, joined_bag(full))


def _answer(model: Model, bag: Bag) -> BagPrediction:
    scores, attentions, terms = [], [], []
    for head, task in zip(model.heads, model.tasks, strict=True):
        output = bag_output(head, bag)
        logits = output.logits[0]
        scores.append(task.predict(logits.unsqueeze(0))[0].double().numpy())
        attention = None if output.attention is None else output.attention[0]
        attentions.append(_attention_of(head, attention, logits, len(bag)))
        if output.instance_logits is not None:
            terms.append(output.instance_logits[0].double().numpy())
    mean = model.calibrated(np.mean(scores, axis=0)[None])[0]
    mean_attention = np.mean(attentions, axis=0)
    point = model.operating_point
    return BagPrediction(
        mean,
        (mean_attention / mean_attention.sum()).astype(np.float32),
        model.tasks[0].label(mean),
        None if point is None else bool(point.is_positive(mean[-1:])[0]),
        _contribution(terms, mean) if len(terms) == len(model.heads) else None,
    )


def _contribution(
    terms: list[NDArray[np.float64]], scores: NDArray[np.float64]
) -> NDArray[np.float32] | None:
    """Return each instance's part in the answer ``(N,)``, of each fold's parts ``(N, C)``."""
    parts = np.mean(terms, axis=0)
    if parts.shape[1] == 2:
        return np.asarray(parts[:, 1] - parts[:, 0], np.float32)
    if parts.shape[1] == 1:
        return np.asarray(parts[:, 0], np.float32)
    if parts.shape[1] != len(scores):
        return None
    return np.asarray(parts[:, int(scores.argmax())], np.float32)


def _attention_of(
    head: MILHead, attention: Tensor | None, logits: Tensor, instances: int
) -> NDArray[np.float64]:
    """Return one number per instance: the only branch, or the predicted class's."""
    if attention is None:
        return np.full(instances, 1 / instances)
    branch = int(logits.argmax()) if head.attention_of_classes else 0
    return np.asarray(attention[branch].double().numpy(), np.float64)


def over_tiles(values: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return values ``(instances,)`` in the places of their tiles ``(N,)``, the others NaN."""
    found = np.full(len(keep), np.nan, np.float32)
    found[keep] = values
    return found


def predict(
    store: SlideStore, model: Model, *, inside: NDArray[np.bool_] | None = None
) -> Prediction:
    """Score a slide and write the prediction into its store; what is there already stays.

    Parameters
    ----------
    inside
        Which tiles are looked at, shape ``(N,)``: a part of the slide is scored by itself, beside
        the score of the whole; all of them if not given.

    Raises
    ------
    ModelMismatchError
        The store's embeddings were made otherwise than the model's.
    EmptyBagError
        The slide has no tile, none that could be decoded, or none inside.
    """
    rows = fitting_embeddings(store, model)
    name, identity = prediction_name(model, rows, inside)
    if name in store.prediction_names():
        return store.prediction(name)
    values, keep = read_bag(store, rows)
    bad = int((~keep).sum())
    if inside is not None:
        keep &= inside
        if not keep.any():
            raise EmptyBagError(
                f"{store.slide_id}: no readable tile inside the outlines, of {len(store)}; draw "
                "them around tissue"
            )
    found = predict_bag(model, values[keep], store.grid.coords[keep])
    point = model.operating_point
    others = {}
    if found.contribution is not None:
        others["contribution"] = over_tiles(found.contribution, keep)
    return store.write_prediction(
        name,
        scores=dict(zip(model.classes, found.scores.tolist(), strict=True)),
        attention=over_tiles(found.attention, keep),
        others=others,
        attrs={
            **identity,
            "label": found.label,
            "calibrated": model.calibration is not None,
            "is_positive": found.is_positive,
            "positive": model.positive,
            "operating_point": None if point is None else point.threshold,
            "head": model.card["head"],
            "folds": model.card["folds"],
            "heads": len(model.heads),
            "intended_use": model.card["intended_use"],
            "bad_tiles": bad,
            "seen_in_training": source_of(store) in model.training_slides,
        },
    )


def prediction_name(
    model: Model, rows: Rows, inside: NDArray[np.bool_] | None = None
) -> tuple[str, Json]:
    """Return a prediction's name in a store, and what decides it, which is recorded with it."""
    identity: Json = {"model_id": model.model_id, "embeddings": rows.name}
    if inside is not None:
        identity["within"] = {"tiles": int(inside.sum()), "sha256": mask_hash(inside)}
    return node_name(model.name, identity), identity


def mask_hash(inside: NDArray[np.bool_]) -> str:
    """Return what tells one choice of tiles ``(N,)`` from another."""
    return hashlib.sha256(np.packbits(inside).tobytes()).hexdigest()[:16]


def fitting_embeddings(store: SlideStore, model: Model) -> Rows:
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
