"""What a slide is asked: the loss of an answer."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor


def cross_entropy(logits: Tensor, target: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Return each bag's cross-entropy times the weight of its class, shape ``(B,)``.

    (The weighted mean of torch would let the weight of a lone bag cancel out.)

    Parameters
    ----------
    logits
        Shape ``(B, C)``.
    target
        Class indices, int64, shape ``(B,)``.
    class_weights
        Shape ``(C,)``.
    """
    return F.cross_entropy(logits, target, weight=class_weights, reduction="none")
