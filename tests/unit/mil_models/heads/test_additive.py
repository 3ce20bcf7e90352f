from __future__ import annotations

import pytest
import torch

from mil_models import create_head
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)


class TestAdditiveMIL(HeadContract):
    head = "additive"


def test_is_the_papers_equation() -> None:
    """Javed et al. 2022, equation 5."""
    head, bag = head_and_bag("additive")
    h = relu(linear(head.project, bag[0].numpy()))
    attention = softmax(attention_logits(head.pool, h))[0]
    hidden = relu(linear(head.contribute[0], attention[:, None] * h))
    contributions = linear(head.contribute[2], hidden)
    found = run(head, bag)
    assert found["attention"][0] == pytest.approx(attention, abs=1e-12)
    assert found["instance_logits"] == pytest.approx(contributions, abs=1e-12)
    assert found["logits"] == pytest.approx(contributions.sum(axis=0), abs=1e-12)


def test_contributions_sum_exactly_to_the_slides_logits() -> None:
    """Bit for bit, and padding contributes nothing."""
    torch.manual_seed(0)
    head = create_head("additive", dim=8, classes=3).eval()
    mask = torch.rand(2, 500) < 0.8
    output = head(torch.randn(2, 500, 8), mask)
    assert torch.equal(output.instance_logits.sum(dim=1), output.logits)
    assert (output.instance_logits[~mask] == 0).all()
