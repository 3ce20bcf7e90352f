"""A slide's score while the slide is still being embedded."""

from __future__ import annotations

import numpy as np

from mil_models.bags import contract_of
from mil_models.checkpoint import Model
from mil_models.prediction import over_tiles, predict_bag, prediction_name
from tiling.store import SlideStore


class GrowingScore:
    """Scores what is embedded so far, again and again; every block is read once.

    What it writes is no prediction yet: :meth:`tiling.store.SlideStore.growing_prediction` has it,
    and the finished prediction takes its place.

    Parameters
    ----------
    embeddings
        Name of the embeddings that are being written, ``<slug>-<hash>``.
    """

    def __init__(self, store: SlideStore, model: Model, embeddings: str) -> None:
        self._store = store
        self._model = model
        self._rows = store.rows(f"embeddings/{embeddings}")
        model.check_contract(contract_of(self._rows), store.slide_id)
        self._name, self._identity = prediction_name(model, self._rows)
        self._values = np.full(self._rows.data.shape, np.nan, np.float32)
        self._missing = set(range(-(-len(self._rows) // self._rows.block)))

    def update(self) -> int:
        """Score the tiles that are there and write it; return how many.

        Raises
        ------
        EmptyBagError
            There is none yet.
        """
        missing = set(self._rows.missing_blocks())
        for block in sorted(self._missing - missing):
            rows = self._rows.rows_of(block)
            self._values[rows] = self._rows.data[rows]
        self._missing = missing
        keep = np.asarray(np.isfinite(self._values).all(axis=1))
        found = predict_bag(self._model, self._values[keep], self._store.grid.coords[keep])
        tiles = int(keep.sum())
        self._store.write_growing_prediction(
            self._name,
            scores=dict(zip(self._model.classes, found.scores.tolist(), strict=True)),
            attention=over_tiles(found.attention, keep),
            attrs={**self._identity, "label": found.label, "tiles": tiles},
        )
        return tiles
