from __future__ import annotations

import pytest

from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)


class TestGatedABMIL(HeadContract):
    head = "abmil"


class TestPlainABMIL(HeadContract):
    head = "abmil_plain"


@pytest.mark.parametrize("name", ["abmil", "abmil_plain"])
def test_is_the_papers_equation(name: str) -> None:
    """Ilse et al. 2018, equations 7, 8 and 9, with biases in V and U as in the authors' code."""
    head, bag = head_and_bag(name)
    assert (head.pool.gate is None) is (name == "abmil_plain")
    h = relu(linear(head.project, bag[0].numpy()))
    attention = softmax(attention_logits(head.pool, h))
    found = run(head, bag)
    assert found["attention"] == pytest.approx(attention, abs=1e-12)
    assert found["logits"] == pytest.approx(linear(head.classify, attention @ h)[0], abs=1e-12)
