"""A classifier of single tiles, whose slide is as its most suspicious tiles are."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import Projection, at_least_float32, require_instances, top_k


class TileClassifier(MILHead):
    r"""Classify every tile by itself; a slide's logits are the mean over its k highest tiles.

    Highest by the margin of the last class (tumour) over the best other:

    .. math:: s = \frac{1}{k} \sum_{n \in top_k(m)} f(h_n), \quad
        m_n = f_C(h_n) - \max_{c < C} f_c(h_n)

    It can be trained on slides' labels (with k = 1: the standard assumption of MIL), and is what
    `wsi camelyon train --annotations` trains on tiles' labels. Embeddings are standardised by
    `shift` and `spread`, which that training takes from its tiles; `hidden` 0 is logistic
    regression. Attention: 1/k on the tiles taken.

    References
    ----------
    Campanella et al., "Clinical-grade computational pathology using weakly supervised deep
    learning on whole slide images", 2019, doi:10.1038/s41591-019-0508-1, "MIL training"; Wang et
    al., "Deep learning for identifying metastatic breast cancer", 2016, arXiv:1606.05718, sections
    3.2 and 3.3 (tiles' labels).
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    instance_logits_are: ClassVar[Literal["scores"]] = "scores"

    def __init__(
        self, dim: int, classes: int, *, k: int = 1, hidden: int = 256, dropout: float = 0.25
    ) -> None:
        super().__init__(dim, classes)
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if hidden < 0:
            raise ValueError(f"hidden={hidden}: must be 0 or more")
        self.k = k
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.project = Projection(dim, hidden, dropout) if hidden else None
        self.classify = nn.Linear(hidden or dim, classes)

    def tile_logits(self, tiles: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the logits ``(..., C)`` of tiles' embeddings ``(..., D)``."""
        values = (tiles - self.shift) / self.spread  # type: ignore[operator]
        if self.project is not None:
            values = self.project(values, generator)
        return at_least_float32(self.classify(values))

    def forward(
        self,
        bag: Tensor,
        mask: Tensor,
        *,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MILOutput:
        require_instances(mask)
        scores = self.tile_logits(bag, generator)  # (B, N, C)
        margin = scores[..., -1:]  # (B, N, 1)
        if self.classes > 1:
            margin = margin - scores[..., :-1].amax(dim=2, keepdim=True)
        indices, found = top_k(margin.transpose(1, 2), mask, self.k)  # (B, 1, k) both
        weight = found.to(scores.dtype) / found.sum(dim=2, keepdim=True)
        attention = torch.zeros_like(margin.transpose(1, 2)).scatter(2, indices, weight)
        return MILOutput(torch.bmm(attention, scores)[:, 0], attention, scores)
