from __future__ import annotations

import pytest
import torch

from mil_models.layers import Projection, dropout, masked_softmax, top_k


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    """A million draws: four standard errors. Each of the four lanes of a draw must be fair."""
    found = dropout(torch.ones(1_000_000), rate, training=True, generator=seeded())
    for lane in range(4):
        part = found[lane::4]
        error = 4 * (rate * (1 - rate) / len(part)) ** 0.5
        assert (part == 0).float().mean().item() == pytest.approx(rate, abs=error)
    kept = found[found != 0].unique()
    assert kept.tolist() == pytest.approx([1 / (1 - rate)], rel=1e-4)


def test_lanes_of_a_draw_are_independent() -> None:
    dropped = dropout(torch.ones(400_000), 0.5, training=True, generator=seeded()) == 0
    lanes = dropped.view(-1, 4).double()
    correlation = torch.corrcoef(lanes.T) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 4 / 100_000**0.5


def test_dropout_is_nothing_in_evaluation() -> None:
    values = torch.randn(5)
    assert dropout(values, 0.5, training=False) is values


def test_projection_is_relu_of_linear_with_dropout_and_so_is_its_gradient() -> None:
    """Against autograd's own, with what the projection dropped read from its result."""
    torch.manual_seed(0)
    layer = Projection(6, 50, 0.25).double()
    bag = torch.randn(4, 7, 6, dtype=torch.float64, requires_grad=True)
    found = layer(bag, seeded())
    plain = torch.nn.functional.linear(bag, layer.weight, layer.bias).relu()
    keep = torch.where((plain > 0) & (found == 0), 0.0, 4 / 3)
    assert 0.2 < (keep[plain > 0] == 0).double().mean() < 0.3
    assert torch.allclose(found, plain * keep, atol=1e-12)
    weight = torch.randn_like(plain)
    inputs = (bag, layer.weight, layer.bias)
    expected = torch.autograd.grad((plain * keep * weight).sum(), inputs)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), inputs), expected, strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)
    assert torch.equal(layer.eval()(bag), plain)


def test_masked_softmax_by_hand() -> None:
    logits = torch.tensor([[[0.0, 1.0, 50.0]]])
    mask = torch.tensor([[True, True, False]])
    e = torch.e
    expected = [1 / (1 + e), e / (1 + e), 0]
    assert masked_softmax(logits, mask)[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert masked_softmax(logits.bfloat16(), mask).dtype == torch.float32


def test_top_k_says_which_are_real() -> None:
    scores = torch.tensor([[[3.0, 9.0, 1.0, 2.0]], [[3.0, 9.0, 1.0, 2.0]]])
    mask = torch.tensor([[True, False, True, True], [True, False, False, False]])
    indices, found = top_k(scores, mask, 3)
    assert indices[0].tolist() == [[0, 3, 2]]
    assert found.tolist() == [[[True, True, True]], [[True, False, False]]]
    assert indices[1, 0, 0] == 0
