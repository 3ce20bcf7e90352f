"""Instance-level MIL: the mean of the k highest instance scores of each class."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import Projection, at_least_float32, require_instances, top_k


class TopK(MILHead):
    r"""Score every instance; a class's logit is the mean of its k highest scores.

    .. math:: s_c = \frac{1}{k} \sum_{n \in top_k(s_{\cdot c})} s_{nc}

    With k = 1 the standard assumption of MIL (a slide is as its worst tile). A bag with fewer
    than k instances takes all it has. Attention of a class: 1/k on the instances taken.

    References
    ----------
    Campanella et al., "Clinical-grade computational pathology using weakly supervised deep
    learning on whole slide images", 2019, doi:10.1038/s41591-019-0508-1, "MIL training" (k = 1);
    Durand, Thome, Cord, "WELDON", 2016, doi:10.1109/CVPR.2016.513, section 3 (top instances).
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    attention_of_classes: ClassVar[bool] = True
    instance_logits_are: ClassVar[Literal["scores"]] = "scores"

    def __init__(
        self, dim: int, classes: int, *, k: int = 10, hidden: int = 256, dropout: float = 0.25
    ) -> None:
        super().__init__(dim, classes)
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        self.k = k
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
        scores = at_least_float32(self.classify(instances))  # (B, N, C)
        indices, found = top_k(scores.transpose(1, 2), mask, self.k)  # (B, C, k), (B, 1, k)
        weight = found.to(scores.dtype) / found.sum(dim=2, keepdim=True)  # (B, 1, k)
        logits = (scores.transpose(1, 2).gather(2, indices) * weight).sum(dim=2)  # (B, C)
        attention = torch.zeros_like(scores.transpose(1, 2)).scatter(
            2, indices, weight.expand_as(indices)
        )  # (B, C, N)
        return MILOutput(logits, attention, scores)
