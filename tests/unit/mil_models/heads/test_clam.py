from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.layers import smooth_top1_svm
from mil_models.tasks import cross_entropy
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    Array,
    array,
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)


class TestCLAMSB(HeadContract):
    head = "clam_sb"


class TestCLAMMB(HeadContract):
    head = "clam_mb"
    arguments = {"subtyping": True, "k": 3}  # noqa: RUF012


def plain_svm(logits: Array, target: int) -> float:
    """Berrada et al. 2018: log-sum-exp of scores plus the margin of wrong ones, less the right."""
    margin = np.ones(2)
    margin[target] = 0
    return float(np.log(np.exp(logits + margin).sum()) - logits[target])


def plain_instance_loss(
    head: torch.nn.Module, h: Array, attention: Array, label: int, *, k: int, subtyping: bool
) -> float:
    """Lu et al. 2021, "Instance-level clustering", class by class."""
    evidence = linear(head.classify_instance, h)  # (N, 2 C)
    total = 0.0
    for c in range(head.classes):
        order = np.argsort(attention[c if len(attention) > 1 else 0])
        logits = evidence[:, 2 * c : 2 * c + 2]
        if c == label:
            losses = [plain_svm(logits[n], 1) for n in order[-k:]]
            total += np.mean(losses + [plain_svm(logits[n], 0) for n in order[:k]])
        elif subtyping:
            total += np.mean([plain_svm(logits[n], 0) for n in order[-k:]])
    return total / head.classes if subtyping else total


@pytest.mark.parametrize("name", ["clam_sb", "clam_mb"])
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("label", [0, 2])
def test_is_the_papers_equations(name: str, subtyping: bool, label: int) -> None:
    head, bag = head_and_bag(name, k=3, subtyping=subtyping)
    h = relu(linear(head.project, bag[0].numpy()))
    attention = softmax(attention_logits(head.pool, h))
    pooled = attention @ h  # (A, H)
    logits = (array(head.classify.weight) * pooled).sum(axis=1) + array(head.classify.bias)
    found = run(head, bag)
    assert found["attention"] == pytest.approx(attention, abs=1e-12)
    assert found["logits"] == pytest.approx(logits, abs=1e-12)

    output = head(bag, torch.ones(1, 11, dtype=torch.bool))
    target = torch.tensor([label])
    expected = plain_instance_loss(head, h, attention, label, k=3, subtyping=subtyping)
    assert head.instance_loss(output, target).item() == pytest.approx(expected, abs=1e-12)
    bag_loss = -np.log(softmax(logits)[label])
    whole = head.loss(output, target, cross_entropy).item()
    assert whole == pytest.approx(0.7 * bag_loss + 0.3 * expected, abs=1e-12)


def test_no_instance_counts_for_and_against() -> None:
    """Five instances and k=8: two pairs, as plain NumPy with k=2 gives; one: no pair at all."""
    head, bag = head_and_bag("clam_sb", instances=5)
    h = relu(linear(head.project, bag[0].numpy()))
    attention = softmax(attention_logits(head.pool, h))
    output = head(bag, torch.ones(1, 5, dtype=torch.bool))
    expected = plain_instance_loss(head, h, attention, 1, k=2, subtyping=False)
    loss = head.instance_loss(output, torch.tensor([1])).item()
    assert loss == pytest.approx(expected, abs=1e-12)
    lone = head(bag[:, :1], torch.ones(1, 1, dtype=torch.bool))
    assert head.instance_loss(lone, torch.tensor([1])).item() == 0


def test_smooth_svm_by_hand() -> None:
    """Two classes: log(1 + exp(1 + other - own))."""
    loss = smooth_top1_svm(torch.tensor([[0.5, 2.0], [0.5, 2.0]]), torch.tensor([1, 0]))
    assert loss.tolist() == pytest.approx([np.log1p(np.exp(-0.5)), np.log1p(np.exp(2.5))], abs=1e-6)


def test_the_bag_alone_counts_where_its_weight_is_1() -> None:
    head, bag = head_and_bag("clam_sb", bag_weight=1.0)
    output = head(bag, torch.ones(1, 11, dtype=torch.bool))
    loss = head.loss(output, torch.tensor([1]), cross_entropy).item()
    assert loss == pytest.approx(-np.log(softmax(output.logits[0].detach().numpy())[1]), abs=1e-12)


@pytest.mark.parametrize("arguments", [{"k": 0}, {"bag_weight": 0.0}, {"bag_weight": 1.1}])
def test_arguments_out_of_range_are_named(arguments: dict[str, float]) -> None:
    [(name, value)] = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        create_head("clam_sb", dim=4, classes=2, **arguments)
