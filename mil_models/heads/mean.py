"""The plain baseline: the mean of the embeddings, then a linear classifier."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import mean_pool, require_instances


class MeanPool(MILHead):
    """Mean pooling; every tile counts the same, so there is no attention."""

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = False

    def __init__(self, dim: int, classes: int, *, hidden: int = 256, dropout: float = 0.25) -> None:
        super().__init__(dim, classes)
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
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
        pooled = mean_pool(self.project(bag), mask)  # (B, hidden)
        return MILOutput(self.classify(pooled))
