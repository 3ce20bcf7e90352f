"""Dual-stream MIL (Li et al. 2021, arXiv:2011.08939)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil_models.heads.base import Criterion, MILHead, MILOutput
from mil_models.layers import (
    at_least_float32,
    dropout,
    masked_softmax,
    pool,
    require_instances,
    top_k,
)


class DSMIL(MILHead):
    r"""An instance classifier finds the critical instance; attention to it pools the bag.

    .. math::
        c_m = \max_n W_0 h_n, \quad q_n = W_q h_n, \quad v_n = W_v h_n, \\
        U_n = softmax_n(\langle q_n, q_m \rangle / \sqrt{K}), \quad
        c_b = W_b \sum_n U_n v_n, \quad c = (c_m + c_b) / 2

    for every class its own critical instance m; W_b sees the pooled bags of all classes. The scale
    by the root of the query's width K is the authors' code's. The loss is the criterion's mean
    over both streams.

    Queries and values are never made for all instances: with
    :math:`\langle q_n, q_m \rangle = \langle h_n, W_q^T q_m \rangle + const` and
    :math:`\sum U_n v_n = W_v \sum U_n h_n` (U sums to 1) each class reads the bag twice.

    References
    ----------
    Li, Li, Eliceiri, "Dual-stream multiple instance learning network for whole slide image
    classification with self-supervised contrastive learning", 2021, arXiv:2011.08939, section
    3.2, equations 3 to 7.
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    attention_of_classes: ClassVar[bool] = True
    instance_logits_are: ClassVar[Literal["scores"]] = "scores"

    def __init__(self, dim: int, classes: int, *, width: int = 128, dropout: float = 0.25) -> None:
        super().__init__(dim, classes)
        self.dropout = dropout
        self.classify_instance = nn.Linear(dim, classes)
        self.query = nn.Linear(dim, width)
        self.value = nn.Linear(dim, dim)
        self.classify_bag = nn.Linear(classes * dim, classes)

    def forward(
        self,
        bag: Tensor,
        mask: Tensor,
        *,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MILOutput:
        require_instances(mask)
        scores = at_least_float32(self.classify_instance(bag))  # (B, N, C)
        critical, _ = top_k(scores.detach().transpose(1, 2), mask, 1)  # (B, C, 1)
        first = scores.transpose(1, 2).gather(2, critical).squeeze(2)  # (B, C)
        bags = torch.arange(len(bag), device=bag.device).unsqueeze(1)
        queries = self.query(bag[bags, critical.squeeze(2)])  # (B, C, K)
        directions = queries @ self.query.weight / queries.shape[2] ** 0.5  # (B, C, D)
        attention = masked_softmax(directions @ bag.transpose(1, 2), mask)  # (B, C, N)
        pooled = dropout(
            self.value(pool(attention, bag)), self.dropout, training=self.training,
            generator=generator,
        )  # (B, C, D)  # fmt: skip
        second = self.classify_bag(pooled.flatten(1))  # (B, C)
        aux = {"instance": first, "bag": second}
        return MILOutput((first + second) / 2, attention, scores, aux)

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        first = criterion(output.aux["instance"], target).mean()
        return (first + criterion(output.aux["bag"], target).mean()) / 2
