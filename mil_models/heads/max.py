"""Max pooling: of every feature the largest value in the bag, then a linear classifier."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import Projection, dropout, require_instances


class MaxPool(MILHead):
    r"""Max pooling of embeddings.

    .. math:: z_d = \max_n h_{nd}

    Each feature may come from another tile, so there is no attention; for the largest tile score
    use `topk` with ``k=1``.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", 2018,
    arXiv:1802.04712, section 2.3 ("the maximum operator", equation 4).
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = False

    def __init__(self, dim: int, classes: int, *, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(dim, classes)
        self.dropout = dropout
        self.project = Projection(dim, hidden)
        self.classify = nn.Linear(hidden, classes)

    def forward(
        self,
        bag: Tensor,
        mask: Tensor,
        *,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MILOutput:
        require_instances(mask)
        instances = self.project(bag).masked_fill(~mask.unsqueeze(2), -torch.inf)  # (B, N, hidden)
        pooled = dropout(
            instances.amax(dim=1), self.dropout, training=self.training, generator=generator
        )  # (B, hidden); after the maximum, which would otherwise prefer what dropout scales up
        return MILOutput(self.classify(pooled))
