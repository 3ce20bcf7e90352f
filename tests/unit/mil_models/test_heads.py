from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.heads import MILOutput
from mil_models.layers import AttentionPool
from mil_models.tasks import cross_entropy
from tests.contracts.head_contract import HeadContract


class TestGatedABMIL(HeadContract):
    head = "abmil"


class TestMeanPool(HeadContract):
    head = "mean"


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def test_attention_pooling_is_the_papers_equation() -> None:
    """Ilse et al. 2018, equations 7 and 9, with biases in V and U as in the authors' code."""
    torch.manual_seed(3)
    pool = AttentionPool(dim=7, width=5).double()
    bag = torch.randn(1, 11, 7, dtype=torch.float64)
    mask = torch.ones(1, 11, dtype=torch.bool)
    mask[0, 8:] = False
    pooled, attention = pool(bag, mask)

    h = bag[0, :8].numpy()
    v, v_bias = pool.value.weight.detach().numpy(), pool.value.bias.detach().numpy()
    u, u_bias = pool.gate.weight.detach().numpy(), pool.gate.bias.detach().numpy()
    w = pool.score.weight.detach().numpy()[0]
    gated = np.tanh(h @ v.T + v_bias) * (1 / (1 + np.exp(-(h @ u.T + u_bias))))
    a = softmax(gated @ w)
    assert attention[0, :8].detach().numpy() == pytest.approx(a, abs=1e-6)
    assert (attention[0, 8:] == 0).all()
    assert pooled[0].detach().numpy() == pytest.approx(a @ h, abs=1e-6)


def test_mean_head_is_the_mean() -> None:
    torch.manual_seed(0)
    head = create_head("mean", dim=4, classes=2).eval()
    bag = torch.randn(1, 6, 4)
    mask = torch.tensor([[True, True, True, False, False, True]])
    expected = head.classify(head.project(bag[0][mask[0]]).mean(dim=0))
    assert torch.allclose(head(bag, mask).logits[0], expected, atol=1e-6)


def test_class_weights_weigh_the_loss_of_a_lone_bag_too() -> None:
    """Training steps over one bag at a time: a weight must not be divided out by itself."""
    head = create_head("mean", dim=4, classes=2).eval()
    output = head(torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    target = torch.tensor([0, 1])
    weighted = partial(cross_entropy, class_weights=torch.tensor([1.0, 3.0]))
    each = -output.logits.log_softmax(dim=1)[[0, 1], target]
    assert torch.allclose(head.loss(output, target, weighted), (each[0] + 3 * each[1]) / 2)
    lone = MILOutput(output.logits[1:])
    assert torch.allclose(head.loss(lone, target[1:], weighted), 3 * each[1])


@pytest.mark.parametrize(("name", "arguments"), [("clam", {}), ("abmil", {"depth": 3})])
def test_unknown_heads_and_arguments(name: str, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="clam|depth"):
        create_head(name, dim=4, classes=2, **arguments)
