"""Parts of the papers' equations in plain NumPy, float64, one bag without padding."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mil_models import MILHead, create_head
from mil_models.layers import AttentionPool

Array = NDArray[np.float64]


def head_and_bag(
    name: str, *, instances: int = 11, dim: int = 6, classes: int = 3, **arguments: object
) -> tuple[MILHead, torch.Tensor]:
    """Return a head in evaluation mode and one bag, both float64."""
    torch.manual_seed(3)
    head = create_head(name, dim=dim, classes=classes, **arguments).double().eval()
    return head, torch.randn(1, instances, dim, dtype=torch.float64)


def run(head: MILHead, bag: torch.Tensor, **arguments: object) -> dict[str, Array]:
    """Return what a head says of a bag as arrays, without the batch's axis."""
    with torch.no_grad():
        output = head(bag, torch.ones(bag.shape[:2], dtype=torch.bool), **arguments)
    parts = {"logits": output.logits, "attention": output.attention}
    parts["instance_logits"] = output.instance_logits
    return {name: part[0].numpy() for name, part in parts.items() if part is not None}


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().numpy()


def linear(layer: nn.Linear, x: Array) -> Array:
    product = x @ array(layer.weight).T
    return product if layer.bias is None else product + array(layer.bias)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    weights = np.exp(x - x.max(axis=axis, keepdims=True))
    return weights / weights.sum(axis=axis, keepdims=True)


def attention_logits(pool: AttentionPool, h: Array) -> Array:
    """Ilse et al. 2018, equations 8 and 9; shape (A, N)."""
    hidden = np.tanh(linear(pool.value, h))
    if pool.gate is not None:
        hidden = hidden * sigmoid(linear(pool.gate, h))
    return linear(pool.score, hidden).T
