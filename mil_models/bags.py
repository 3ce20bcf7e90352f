"""Bags of embeddings, read from the stores when they are needed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models.errors import EmptyBagError, ModelMismatchError
from tiling.nodes import Json, Rows
from tiling.store import SlideStore

CACHE_BYTES = 1 << 30
"""Embeddings kept in memory between epochs; what does not fit is read again."""
CONTRACT_KEYS = ("encoder", "tiles")


class BagCache:
    """The bags of a training set by slide."""

    def __init__(self, embeddings: str | None = None, *, limit_bytes: int = CACHE_BYTES) -> None:
        self._name = embeddings
        self._room = limit_bytes
        self._bags: dict[str, NDArray[np.float32]] = {}

    def bag(self, store: SlideStore) -> Tensor:
        """Return the slide's embeddings, float32, shape ``(N, D)``, unreadable tiles left out."""
        if store.slide_id not in self._bags:
            values, keep = read_bag(store, store.embeddings(self._name))
            bag = np.ascontiguousarray(values[keep])
            if bag.nbytes > self._room:
                return torch.from_numpy(bag)
            self._bags[store.slide_id] = bag
            self._room -= bag.nbytes
        return torch.from_numpy(self._bags[store.slide_id])


def read_bag(store: SlideStore, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return all embeddings ``(N, D)`` of a slide and which of them are real ``(N,)``.

    Raises
    ------
    EmptyBagError
        Not one is.
    """
    values = np.asarray(rows.data[:], np.float32)
    keep: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=1))
    if not keep.any():
        reason = store.grid.reason or "no tile could be decoded"
        raise EmptyBagError(f"{store.slide_id}: no embedding ({reason}); leave the slide out")
    return values, keep


def sample(bag: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Return at most `limit` instances of `bag` (N, D), drawn by `generator` without repeats."""
    if len(bag) <= limit:
        return bag
    return bag[torch.randperm(len(bag), generator=generator)[:limit]]


def contract_of(rows: Rows) -> Json:
    """Return what embeddings were made with: the encoder's and the tiles' contract."""
    return {key: rows.attrs[key] for key in CONTRACT_KEYS}


def common_contract(stores: list[SlideStore], embeddings: str | None) -> Json:
    """Return what all stores' embeddings were made with.

    Raises
    ------
    ModelMismatchError
        They differ; features of different contracts never meet in one data set.
    """
    first = contract_of(stores[0].embeddings(embeddings))
    for store in stores[1:]:
        differing = differences(first, contract_of(store.embeddings(embeddings)))
        if differing:
            raise ModelMismatchError(
                f"{store.slide_id}: embeddings made otherwise than {stores[0].slide_id}'s "
                f"({'; '.join(differing)}); embed all slides alike"
            )
    return first


def differences(wanted: Json, found: Json) -> list[str]:
    """Return the fields in which two contracts differ, with both values.

    A field that only one of them has differs too.
    """
    return [
        f"{section} {key}: {found[section].get(key)!r}, not {wanted[section].get(key)!r}"
        for section in CONTRACT_KEYS
        for key in {**wanted[section], **found[section]}
        if key not in wanted[section]
        or key not in found[section]
        or found[section][key] != wanted[section][key]
    ]
