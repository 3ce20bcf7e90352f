"""The plain baseline: the mean of the embeddings, then a linear classifier."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import Projection, mean_pool, require_instances


class MeanPool(MILHead):
    """Mean pooling; every tile counts the same, so there is no attention.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", 2018,
    arXiv:1802.04712, section 2.3 ("the mean operator", equation 5).
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = False

    def __init__(self, dim: int, classes: int, *, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(dim, classes)
        self.project = Projection(dim, hidden, dropout)
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
        instances = self.project(bag, generator)  # (B, N, hidden)
        return MILOutput(self.classify(mean_pool(instances, mask)))
