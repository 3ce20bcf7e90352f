from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.tasks import cross_entropy
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)


class TestACMIL(HeadContract):
    head = "acmil"


def test_is_the_papers_equations() -> None:
    """Zhang et al. 2024, section 3.2, without masking as in evaluation."""
    head, bag = head_and_bag("acmil", branches=3)
    h = relu(linear(head.project, bag[0].numpy()))
    attention = softmax(attention_logits(head.pool, h))  # (3, N)
    logits = linear(head.classify, attention.mean(axis=0) @ h)
    branches = [linear(f, a @ h) for f, a in zip(head.classify_branch, attention, strict=True)]
    found = run(head, bag)
    assert found["attention"][0] == pytest.approx(attention.mean(axis=0), abs=1e-12)
    assert found["logits"] == pytest.approx(logits, abs=1e-12)

    output = head(bag, torch.ones(1, 11, dtype=torch.bool))
    loss = head.loss(output, torch.tensor([1]), cross_entropy).item()
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(attention, 2)]
    expected = -np.log(softmax(logits)[1]) + np.mean(cosines)
    expected += np.mean([-np.log(softmax(b)[1]) for b in branches])
    assert loss == pytest.approx(expected, abs=1e-12)


def test_masking_hides_a_part_of_each_branchs_top_instances() -> None:
    """STKIM: int(k * rate) of the k highest, drawn anew by the generator; never all of a bag."""
    head = create_head("acmil", dim=4, classes=2, branches=2, k=10, rate=0.6)
    logits = torch.randn(2, 2, 30, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, 3:] = False  # three instances: int(3 * 0.6) = 1 is hidden
    hidden = head._hidden(logits, mask, torch.Generator().manual_seed(1))
    assert hidden.sum(dim=2).tolist() == [[6, 6], [1, 1]]
    assert not hidden[1, :, 3:].any()
    for branch in range(2):
        top = set(logits[0, branch].topk(10).indices.tolist())
        assert set(hidden[0, branch].nonzero().squeeze(1).tolist()) <= top
    assert not torch.equal(hidden, head._hidden(logits, mask, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("wrong", [{"branches": 1}, {"k": -1}, {"rate": 1.0}])
def test_wrong_arguments(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="branches"):
        create_head("acmil", dim=4, classes=2, **wrong)
