"""Attention-based deep MIL (Ilse et al. 2018, arXiv:1802.04712)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import AttentionPool, Projection, require_instances


class GatedABMIL(MILHead):
    """Embedding-level MIL: project each instance, pool by gated attention, classify.

    The projection takes the place of the paper's convolutional instance network, since instances
    arrive as embeddings.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", 2018,
    arXiv:1802.04712, sections 2.3 and 2.4.
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    def __init__(
        self, dim: int, classes: int, *, hidden: int = 256, width: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__(dim, classes)
        self.project = Projection(dim, hidden, dropout)
        self.pool = AttentionPool(hidden, width, gated=self.gated)
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
        pooled, attention = self.pool(instances, mask)  # (B, 1, hidden), (B, 1, N)
        return MILOutput(self.classify(pooled[:, 0]), attention)


class PlainABMIL(GatedABMIL):
    """The same with the paper's attention without a gate (equation 8)."""

    gated: ClassVar[bool] = False
