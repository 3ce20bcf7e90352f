from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models.tasks import cross_entropy
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import head_and_bag, linear, run, softmax


class TestDSMIL(HeadContract):
    head = "dsmil"


@pytest.mark.parametrize("classes", [1, 3])
def test_is_the_papers_equations(classes: int) -> None:
    """Li et al. 2021, equations 3 to 7, with queries and values of every instance."""
    head, bag = head_and_bag("dsmil", classes=classes)
    h = bag[0].numpy()
    scores = linear(head.classify_instance, h)  # (N, C)
    q, v = linear(head.query, h), linear(head.value, h)
    attention = np.stack([softmax(q @ q[m] / np.sqrt(q.shape[1])) for m in scores.argmax(axis=0)])
    bag_scores = linear(head.classify_bag, (attention @ v).reshape(-1))
    found = run(head, bag)
    assert found["instance_logits"] == pytest.approx(scores, abs=1e-12)
    assert found["attention"] == pytest.approx(attention, abs=1e-12)
    expected = (scores.max(axis=0) + bag_scores) / 2
    assert found["logits"] == pytest.approx(expected, abs=1e-12)

    output = head(bag, torch.ones(1, 11, dtype=torch.bool))
    target = torch.tensor([0])
    losses = [-np.log(softmax(s)[0]) for s in (scores.max(axis=0), bag_scores)]
    loss = head.loss(output, target, cross_entropy).item()
    assert loss == pytest.approx(np.mean(losses), abs=1e-12)
