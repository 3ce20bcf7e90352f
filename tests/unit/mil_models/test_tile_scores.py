"""What a model says of tiles: the rule of each kind of head, and which heads may speak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models import Model, load_model, train
from mil_models.bags import Bag, read_bag
from mil_models.errors import ModelMismatchError
from mil_models.scoring import bag_output
from mil_models.tile_scores import tile_scores
from tests.unit.mil_models.conftest import MakeStores
from tiling import SlideStore

pytestmark = pytest.mark.filterwarnings("ignore:class .* patients")


@pytest.fixture
def learn(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> Callable[..., tuple[list[SlideStore], Model, Path]]:
    stores = make_stores(6)
    lines = [f"{s.slide_id},p{s.slide_id},{'tumor' if i % 2 else 'normal'}"
             for i, s in enumerate(stores)]  # fmt: skip
    labels = write_labels("\n".join(["slide_id,patient_id,label", *lines]) + "\n")

    def make(head: str, **options: object) -> tuple[list[SlideStore], Model, Path]:
        folder = tmp_path / f"model_{head}"
        arguments = {"hidden": 8} if head != "dsmil" else {}
        train(stores, labels, folder, head=head, folds=2, epochs=1, head_arguments=arguments,
              device="cpu", **options)  # fmt: skip
        return stores, load_model(folder), folder

    return make


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_each_kind_of_head_by_its_rule(learn: Callable[..., tuple]) -> None:
    """Mean over the two heads of what the docstring says, from the heads' own outputs."""
    for name in ("additive", "clam_mb", "topk", "tile", "dsmil", "abmil"):
        stores, model, _ = learn(name)
        embeddings, keep = read_bag(stores[1], stores[1].embeddings())
        bag = Bag(torch.from_numpy(embeddings[keep]), torch.from_numpy(stores[1].grid.coords[keep]))
        found = tile_scores(model, stores[1])
        parts, scores = [], []
        for head in model.heads:
            output = bag_output(head, bag)
            scores.append(output.logits.softmax(1)[0].double().numpy())
            logits = output.instance_logits
            if name == "abmil":
                a = output.attention[0, 0].double().numpy()
                parts.append(a / a.max())
            elif name == "additive":
                margin = (logits[0, :, 1] - logits[0, :, 0]).double().numpy()
                parts.append(np.maximum(margin, 0) / max(margin.max(), 1e-300))
            elif name == "clam_mb":
                hidden = torch.relu(head.project(bag.values))
                both = head.classify_instance(hidden).view(-1, 2, 2)
                parts.append(sigmoid((both[:, 1, 1] - both[:, 1, 0]).detach().double().numpy()))
            else:
                parts.append(logits[0].softmax(1)[:, 1].double().numpy())
        score = model.calibrated(np.mean(scores, axis=0)[None])[0, 1]
        expected = np.mean(parts, axis=0) * (1 if name in ("topk", "tile", "dsmil") else score)
        assert found.values == pytest.approx(expected, abs=1e-6), name
        assert found.score == pytest.approx(score, abs=1e-6)
        assert found.seen_in_training
        if name == "additive":
            by_attention = tile_scores(model, stores[1], source="attention")
            assert by_attention.source == "attention"
            assert by_attention.values.max() == pytest.approx(score, rel=0.3)
        if name == "abmil":
            with pytest.raises(ModelMismatchError, match="gives no instance logits"):
                tile_scores(model, stores[1], source="instances")


def test_tiles_that_could_not_be_decoded_have_no_score(learn: Callable[..., tuple]) -> None:
    stores, model, _ = learn("tile")
    rows = stores[0].embeddings()
    values, status = np.asarray(rows.data[:]), np.asarray(rows.status[:])
    values[2], status[2] = np.nan, 2
    rows.write(0, values, status)
    found = tile_scores(model, stores[0]).values
    assert np.flatnonzero(np.isnan(found)).tolist() == [2]


def test_what_says_nothing_of_tiles_is_refused(learn: Callable[..., tuple]) -> None:
    stores, model, _ = learn("mean")
    with pytest.raises(ModelMismatchError, match="says nothing of single tiles"):
        tile_scores(model, stores[0])
    stores, model, _ = learn("abmil", task="ordinal")
    with pytest.raises(ModelMismatchError, match="task is ordinal"):
        tile_scores(model, stores[0])
