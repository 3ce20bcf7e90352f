from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest
import torch

from mil_models import create_head
from mil_models.heads import HEADS, MILOutput, head_class
from mil_models.tasks import cross_entropy


@pytest.mark.parametrize("name", HEADS)
def test_every_head_cites_its_paper(name: str) -> None:
    docs = [base.__doc__ or "" for base in head_class(name).__mro__[:2]]
    assert any("References" in doc for doc in docs)
    assert HEADS[name].summary


def test_listing_heads_brings_no_torch() -> None:
    """A command line lists them in its help."""
    code = "import sys; from mil_models.heads import HEADS; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


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


@pytest.mark.parametrize(("name", "arguments"), [("clamp", {}), ("abmil", {"depth": 3})])
def test_unknown_heads_and_arguments(name: str, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="clamp|depth"):
        create_head(name, dim=4, classes=2, **arguments)
