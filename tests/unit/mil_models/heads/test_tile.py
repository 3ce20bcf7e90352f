"""The classifier of tiles: logits by hand, the slide as its most suspicious tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models import create_head
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import head_and_bag, linear, relu, run


class TestTileClassifier(HeadContract):
    head = "tile"
    arguments = {"k": 9}  # one of the contract's bags has 7 instances  # noqa: RUF012


@pytest.mark.parametrize(("k", "hidden"), [(1, 256), (4, 0), (50, 8)])
def test_the_slide_is_the_mean_of_its_highest_tiles(k: int, hidden: int) -> None:
    """Highest by the last class's margin over the best other, of standardised embeddings."""
    head, bag = head_and_bag("tile", k=k, hidden=hidden)
    rng = np.random.default_rng(0)
    shift, spread = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    head.load_state_dict(
        {**head.state_dict(), "shift": torch.tensor(shift), "spread": torch.tensor(spread)}
    )
    values = (bag[0].numpy() - shift) / spread
    if hidden:
        values = relu(linear(head.project, values))
    scores = linear(head.classify, values)
    margin = scores[:, 2] - scores[:, :2].max(axis=1)
    taken = np.argsort(-margin)[:k]
    found = run(head, bag)
    assert found["logits"] == pytest.approx(scores[taken].mean(axis=0), abs=1e-12)
    assert found["instance_logits"] == pytest.approx(scores, abs=1e-12)
    expected = np.zeros(11)
    expected[taken] = 1 / len(taken)
    assert found["attention"][0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("arguments", "message"), [({"k": 0}, "k=0"), ({"hidden": -1}, "hidden=")])
def test_what_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_head("tile", dim=4, classes=2, **arguments)
