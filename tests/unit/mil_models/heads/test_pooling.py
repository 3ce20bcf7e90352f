"""Heads that pool without learning how: mean, max, top k."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models import create_head
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import head_and_bag, linear, relu, run


class TestMeanPool(HeadContract):
    head = "mean"


class TestMaxPool(HeadContract):
    head = "max"


class TestTopK(HeadContract):
    head = "topk"
    arguments = {"k": 9}  # one of the contract's bags has 7 instances  # noqa: RUF012


@pytest.mark.parametrize(("name", "operator"), [("mean", np.mean), ("max", np.max)])
def test_mean_and_max_of_every_feature(name: str, operator: np.ufunc) -> None:
    """Ilse et al. 2018, equations 4 and 5."""
    head, bag = head_and_bag(name)
    pooled = operator(relu(linear(head.project, bag[0].numpy())), axis=0)
    assert run(head, bag)["logits"] == pytest.approx(linear(head.classify, pooled), abs=1e-12)


@pytest.mark.parametrize("k", [1, 4, 50])
def test_top_k_is_the_mean_of_each_class_highest_scores(k: int) -> None:
    head, bag = head_and_bag("topk", k=k)
    scores = linear(head.classify, relu(linear(head.project, bag[0].numpy())))
    highest = np.sort(scores, axis=0)[::-1][:k]
    found = run(head, bag)
    assert found["logits"] == pytest.approx(highest.mean(axis=0), abs=1e-12)
    assert found["instance_logits"] == pytest.approx(scores, abs=1e-12)
    taken = scores >= highest[-1]
    assert found["attention"] == pytest.approx((taken / taken.sum(axis=0)).T, abs=1e-12)


def test_k_must_be_positive() -> None:
    with pytest.raises(ValueError, match="k=0"):
        create_head("topk", dim=4, classes=2, k=0)


def test_max_sees_negative_features_beside_padding() -> None:
    """Padding must not win with its zeros: the largest real value may be below 0."""
    head = create_head("max", dim=2, classes=1, hidden=2).eval()
    head.project = torch.nn.Sequential(torch.nn.Identity())
    bag = torch.tensor([[[-3.0, -4.0], [-5.0, -2.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = head.classify(torch.tensor([-3.0, -2.0]))
    assert torch.equal(head(bag, mask).logits[0], expected)
