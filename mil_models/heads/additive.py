"""Additive MIL (Javed et al. 2022, arXiv:2206.01794): a slide's logit is the sum of its tiles'."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import (
    AttentionPool,
    Projection,
    at_least_float32,
    masked_softmax,
    require_instances,
)


class AdditiveMIL(MILHead):
    r"""Classify every attended instance and add up, where ABMIL adds up and classifies.

    .. math:: logits = \sum_n \psi(a_n h_n)

    with the attention a of ABMIL and a small network psi. `instance_logits` are the terms: what
    each tile adds to (or takes from) each class, exactly. psi has no biases: with them every
    tile, even one without attention, would add the same amount, and slides with more tiles would
    get larger logits for that alone.

    References
    ----------
    Javed, Juyal, Padigela, Taylor-Weiner, Yu, Prakash, "Additive MIL: intrinsically interpretable
    multiple instance learning for pathology", 2022, arXiv:2206.01794, section 3.2, equation 5.
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    instance_logits_are: ClassVar[Literal["contributions"]] = "contributions"

    def __init__(
        self, dim: int, classes: int, *, hidden: int = 256, width: int = 128, dropout: float = 0.25
    ) -> None:
        super().__init__(dim, classes)
        self.project = Projection(dim, hidden, dropout)
        self.pool = AttentionPool(hidden, width)
        self.contribute = nn.Sequential(
            nn.Linear(hidden, width, bias=False), nn.ReLU(), nn.Linear(width, classes, bias=False)
        )

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
        attention = masked_softmax(self.pool.logits(instances), mask)  # (B, 1, N)
        attended = attention.to(instances.dtype).transpose(1, 2) * instances  # (B, N, hidden)
        contributions = at_least_float32(self.contribute(attended))  # (B, N, C); 0 in padding
        return MILOutput(contributions.sum(dim=1), attention, contributions)
