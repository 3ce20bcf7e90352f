"""The score of what is embedded so far is the score of those tiles, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mil_models.checkpoint import Model, load_model
from mil_models.errors import EmptyBagError, ModelMismatchError
from mil_models.growing import GrowingScore
from mil_models.prediction import predict, predict_bag
from mil_models.training import train
from tests.unit.mil_models.conftest import MakeStores
from tiling import SlideStore, open_store
from tiling.nodes import Rows


@pytest.fixture
def model(make_stores: MakeStores, tmp_path: Path) -> Model:
    stores = make_stores(4, folder="training")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide_id,patient_id,label\na,p,no\nb,q,yes\nc,r,no\nd,s,yes\n")
    train(stores, labels, tmp_path / "model", folds=0, epochs=1)
    return load_model(tmp_path / "model")


def unfinished(store: SlideStore) -> Rows:
    """Return a second node of embeddings like the store's own, of blocks of 4, none written."""
    done = store.embeddings()
    attrs = {k: v for k, v in done.attrs.items() if k not in ("complete", "bad_tiles", "block")}
    return store.create_rows(
        "embeddings/zz-growing", row_shape=done.data.shape[1:], dtype=np.float32, block=4,
        fill=np.nan, attrs=attrs,
    )  # fmt: skip


def content(store: SlideStore, prediction: str) -> dict[str, bytes]:
    folder = Path(store.path) / "predictions" / prediction
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_there_is_scored_and_the_finished_score_takes_its_place(
    make_stores: MakeStores, model: Model
) -> None:
    store, other = make_stores(2, folder="growing"), make_stores(2, folder="plain")
    growing_store, plain = store[1], other[1]
    values = growing_store.embeddings().data[:]
    values[9] = np.nan  # could not be read
    rows = unfinished(growing_store)
    growing = GrowingScore(growing_store, model, "zz-growing")
    with pytest.raises(EmptyBagError):
        growing.update()
    assert growing_store.growing_prediction() is None
    for block, tiles in ((2, [8, 10, 11]), (0, [0, 1, 2, 3, 8, 10, 11])):
        part = rows.rows_of(block)
        rows.write(block, values[part], np.isfinite(values[part][:, 0]).astype(np.uint8))
        assert growing.update() == len(tiles)
        said = open_store(growing_store.path).growing_prediction()
        assert said is not None
        expected = predict_bag(model, values[tiles], growing_store.grid.coords[tiles])
        assert list(said.scores.values()) == expected.scores.tolist()
        assert np.flatnonzero(np.isfinite(said.attention)).tolist() == tiles
        assert said.attention[tiles].tolist() == expected.attention.tolist()
        assert said.attrs["tiles"] == len(tiles)
        assert growing_store.prediction_names() == []
    # What is finished is as if that had never been.
    name = predict(plain, model).name
    finished = growing_store.embeddings().name.rpartition("/")[2]
    GrowingScore(growing_store, model, finished).update()
    assert predict(growing_store, model).name == name
    assert content(growing_store, name) == content(plain, name)


def test_embeddings_of_another_encoder_are_not_scored(
    make_stores: MakeStores, model: Model
) -> None:
    store = make_stores(1, folder="other", weights="other")[0]
    with pytest.raises(ModelMismatchError):
        GrowingScore(store, model, store.embeddings().name.rpartition("/")[2])
