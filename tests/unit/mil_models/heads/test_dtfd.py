from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.tasks import cross_entropy
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    Array,
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)


class TestAFS(HeadContract):
    head = "dtfd"


class TestMaxS(HeadContract):
    head = "dtfd"
    arguments = {"distillation": "maxs", "pseudo_bags": 4}  # noqa: RUF012
    bf16_tolerance = 0.2  # another instance may be picked


class TestMaxMinS(HeadContract):
    head = "dtfd"
    arguments = {"distillation": "maxmins", "pseudo_bags": 4}  # noqa: RUF012
    bf16_tolerance = 0.2


def plain_dtfd(head: torch.nn.Module, x: Array) -> tuple[Array, Array, list[Array]]:
    """Zhang et al. 2022, section 3: logits, attention, logits of pseudo-bags."""
    h = relu(linear(head.project, x))
    parts = [np.arange(len(h))[m :: head.pseudo_bags] for m in range(head.pseudo_bags)]
    features, origins, tier = [], [], []
    for part in (part for part in parts if len(part)):
        attention = softmax(attention_logits(head.pool_1, h[part])[0])
        pooled = attention @ h[part]
        tier.append(linear(head.classify_1, pooled))
        weight = head.classify_1.weight.detach().numpy()
        activation = len(part) * attention[:, None] * (h[part] @ weight.T)  # (K, C)
        score = softmax(activation) if head.classes > 1 else activation
        score = score[:, int(tier[-1].argmax()) if head.classes > 2 else -1]
        picks = {
            "afs": [attention],
            "maxs": [np.eye(len(part))[score.argmax()]],
            "maxmins": [np.eye(len(part))[score.argmax()], np.eye(len(part))[score.argmin()]],
        }
        for weights in picks[head.distillation]:
            origin = np.zeros(len(h))
            origin[part] = weights
            origins.append(origin)
            features.append(origin @ h)
    second = softmax(attention_logits(head.pool_2, np.stack(features))[0])
    logits = linear(head.classify_2, second @ np.stack(features))
    return logits, second @ np.stack(origins), tier


@pytest.mark.parametrize("distillation", ["afs", "maxs", "maxmins"])
@pytest.mark.parametrize(("instances", "classes"), [(1, 2), (3, 2), (11, 1), (11, 2), (22, 3)])
def test_is_the_papers_equations(distillation: str, instances: int, classes: int) -> None:
    head, bag = head_and_bag(
        "dtfd", instances=instances, classes=classes, distillation=distillation, pseudo_bags=4
    )
    logits, attention, tier = plain_dtfd(head, bag[0].numpy())
    found = run(head, bag)
    assert found["logits"] == pytest.approx(logits, abs=1e-12)
    assert found["attention"][0] == pytest.approx(attention, abs=1e-12)

    output = head(bag, torch.ones(1, instances, dtype=torch.bool))
    loss = head.loss(output, torch.tensor([0]), cross_entropy).item()
    first = np.mean([-np.log(softmax(t)[0]) for t in tier])
    assert loss == pytest.approx(first - np.log(softmax(logits)[0]), abs=1e-12)


def test_pseudo_bags_are_drawn_and_hold_every_instance_once() -> None:
    head = create_head("dtfd", dim=4, classes=2, pseudo_bags=4).train()
    real = torch.ones(14, dtype=torch.bool)
    real[[2, 5, 6]] = False
    index, taken = head._split(real, torch.Generator().manual_seed(0))
    assert index.shape == (4, 3)
    assert sorted(index[taken].tolist()) == real.nonzero().squeeze(1).tolist()
    assert sorted(taken.sum(dim=1).tolist()) == [2, 3, 3, 3]
    other, _ = head._split(real, torch.Generator().manual_seed(1))
    assert not torch.equal(index, other)


def test_tier_two_does_not_train_tier_one() -> None:
    """Zhang et al. 2022: each tier's loss is minimised over its own parameters."""
    head = create_head("dtfd", dim=4, classes=2).eval()
    head(torch.randn(1, 20, 4), torch.ones(1, 20, dtype=torch.bool)).logits.sum().backward()
    trained = {name for name, p in head.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in trained} == {"pool_2", "classify_2"}


@pytest.mark.parametrize("wrong", [{"pseudo_bags": 0}, {"distillation": "minmax"}])
def test_wrong_arguments(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="afs"):
        create_head("dtfd", dim=4, classes=2, **wrong)
