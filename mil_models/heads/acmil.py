"""Attention-challenging MIL (Zhang et al. 2024, arXiv:2311.07125): several branches that differ."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.heads.base import Criterion, MILHead, MILOutput
from mil_models.layers import (
    AttentionPool,
    Projection,
    masked_softmax,
    on_device,
    pool,
    require_instances,
    top_k,
)


class ACMIL(MILHead):
    r"""Gated attention by several branches that are kept apart and may not lean on few instances.

    Each branch pools the bag and is classified by itself; the slide is classified from the mean
    of their attention, which is the attention that is returned. In training

    - of the k instances that a branch attends to most, a random part (`rate`) is hidden from it
      (STKIM, stochastic top-k instance masking),
    - the mean cosine of pairs of branches' attention is a loss:

    .. math::
        L = \ell(slide) + \frac{1}{A} \sum_i \ell(branch_i)
        + \frac{2}{A (A - 1)} \sum_{i < j} \cos(a_i, a_j)

    References
    ----------
    Zhang, Li, Sun, Zheng, Zhu, Yang, "Attention-challenging multiple instance learning for whole
    slide image classification", 2024, arXiv:2311.07125, sections 3.2 (multiple branch attention,
    diversity loss) and 3.3 (STKIM).
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        branches: int = 5,
        k: int = 10,
        rate: float = 0.6,
        hidden: int = 256,
        width: int = 128,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(dim, classes)
        if branches < 2 or k < 0 or not 0 <= rate < 1:
            raise ValueError(
                f"branches={branches}, k={k}, rate={rate}: at least 2 branches, k not negative, "
                "rate from 0 to under 1"
            )
        self.branches, self.k, self.rate = branches, k, rate
        self.project = Projection(dim, hidden, dropout)
        self.pool = AttentionPool(hidden, width, branches=branches)
        self.classify_branch = nn.ModuleList(nn.Linear(hidden, classes) for _ in range(branches))
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
        logits = self.pool.logits(instances)  # (B, A, N)
        if self.training and self.k:
            hidden = self._hidden(logits.detach(), mask, generator)
            logits = logits.masked_fill(hidden, -torch.inf)
        attention = masked_softmax(logits, mask)  # (B, A, N)
        pooled = pool(attention, instances)  # (B, A, hidden)
        branch_logits = [f(pooled[:, i]) for i, f in enumerate(self.classify_branch)]
        aux = {"branches": branch_logits, "similarity": _mean_cosine(attention)}
        slide_logits = self.classify(pooled.mean(dim=1))  # pooling is linear: by mean attention
        return MILOutput(slide_logits, attention.mean(dim=1, keepdim=True), aux=aux)

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        branches = [criterion(logits, target).mean() for logits in output.aux["branches"]]
        diversity: Tensor = output.aux["similarity"].mean()
        slide = criterion(output.logits, target).mean()
        return slide + torch.stack(branches).mean() + diversity

    def _hidden(self, logits: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw which instances each branch does not see in this step, bool (B, A, N)."""
        indices, found = top_k(logits, mask, self.k)  # (B, A, k), (B, 1, k)
        own = on_device(generator, logits)
        draw = torch.rand(indices.shape, generator=own, device=logits.device)
        rank = draw.masked_fill(~found, torch.inf).argsort(dim=2).argsort(dim=2)
        count = (found.sum(dim=2, keepdim=True) * self.rate).long()  # under the number of real ones
        return torch.zeros_like(logits, dtype=torch.bool).scatter(2, indices, rank < count)


def _mean_cosine(attention: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of branches of `attention` (B, A, N), shape ``(B,)``."""
    unit = F.normalize(attention, dim=2)
    cosine = unit @ unit.transpose(1, 2)  # (B, A, A)
    branches = attention.shape[1]
    first, second = torch.triu_indices(branches, branches, offset=1, device=cosine.device)
    return cosine[:, first, second].mean(dim=1)
