"""Clustering-constrained attention MIL (Lu et al. 2021, arXiv:2004.09666)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.heads.base import Criterion, MILHead, MILOutput
from mil_models.layers import (
    AttentionPool,
    Projection,
    at_least_float32,
    require_instances,
    smooth_top1_svm,
    top_k,
)


class CLAMSB(MILHead):
    r"""CLAM with a single attention branch.

    Gated attention pooling as in ABMIL, and in training one more task: the k instances of highest
    attention count as evidence for the slide's class y, the k of lowest as evidence against it,
    and a classifier of instances for each class learns to tell them apart.

    .. math::
        L = c L_{bag} + (1 - c) L_{instance}, \quad
        L_{instance} = \frac{1}{2k} \Big(\sum_{n \in top_k} \ell(W_y h_n, 1)
        + \sum_{n \in bottom_k} \ell(W_y h_n, 0)\Big)

    with the smooth top-1 SVM loss and c = 0.7 (`bag_weight`), as in the paper. With `subtyping`
    (classes exclude each other) every other class learns that its top k are no evidence for it,
    and the sum is divided by the number of classes. A bag with fewer than 2k instances takes half
    of them, so that none counts both ways.

    References
    ----------
    Lu, Williamson, Chen, Chen, Barbieri, Mahmood, "Data-efficient and weakly supervised
    computational pathology on whole-slide images", 2021, arXiv:2004.09666, Methods, "Attention-
    based pooling", "Instance-level clustering" and "Smooth SVM loss".
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    needs_classes: ClassVar[bool] = True
    instance_logits_are: ClassVar[Literal["evidence"]] = "evidence"

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        width: int = 256,
        k: int = 8,
        subtyping: bool = False,
        bag_weight: float = 0.7,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(dim, classes)
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if not 0 < bag_weight <= 1:
            raise ValueError(f"bag_weight={bag_weight}: must be above 0 and at most 1")
        self.k = k
        self.bag_weight = bag_weight
        self.subtyping = subtyping
        self.project = Projection(dim, hidden, dropout)
        self.pool = AttentionPool(
            hidden, width, branches=classes if self.attention_of_classes else 1
        )
        self.classify = nn.Linear(hidden, classes)
        self.classify_instance = nn.Linear(hidden, 2 * classes)  # against, for; class by class

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
        pooled, attention = self.pool(instances, mask)  # (B, A, hidden), (B, A, N)
        aux = {
            "top": self._evidence(instances, attention, mask),
            "bottom": self._evidence(instances, -attention, mask),
            "pairs": (mask.sum(dim=1) // 2).clamp(max=self.k),  # (B,)
        }
        margins = None if self.training else self._margins(instances)
        return MILOutput(self._slide_logits(pooled), attention, margins, aux)

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        bag_loss = criterion(output.logits, target).mean()
        instance_loss = self.instance_loss(output, target).mean()
        return self.bag_weight * bag_loss + (1 - self.bag_weight) * instance_loss

    def instance_loss(self, output: MILOutput, target: Tensor) -> Tensor:
        """Return the clustering loss of each bag, shape ``(B,)``; 0 for a lone instance."""
        top, bottom, pairs = (output.aux[key] for key in ("top", "bottom", "pairs"))
        own = F.one_hot(target, self.classes)  # (B, C)
        taken = torch.arange(top.shape[2], device=top.device) < pairs.view(-1, 1, 1)  # (B, 1, k)
        k = pairs.clamp(min=1).unsqueeze(1)  # (B, 1)
        is_evidence = own.unsqueeze(2).expand(top.shape[:3])  # (B, C, k)
        top_loss = (smooth_top1_svm(top, is_evidence) * taken).sum(dim=2)  # (B, C)
        bottom_loss = (smooth_top1_svm(bottom, torch.zeros_like(is_evidence)) * taken).sum(dim=2)
        loss: Tensor = (own * (top_loss + bottom_loss) / (2 * k)).sum(dim=1)
        if self.subtyping:
            loss = (loss + ((1 - own) * top_loss / k).sum(dim=1)) / self.classes
        return loss

    def _slide_logits(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classify(pooled[:, 0])
        return logits

    def _margins(self, instances: Tensor) -> Tensor:
        """Return how much more each instance speaks for each class than against, (B, N, C)."""
        against, for_ = self.classify_instance(instances).unflatten(2, (self.classes, 2)).unbind(3)
        return at_least_float32(for_ - against)

    def _evidence(self, instances: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return what the instance classifiers say of the highest `scores`, (B, C, k, 2)."""
        indices, _ = top_k(scores.detach(), mask, self.k)  # (B, A, k)
        bags = torch.arange(len(instances), device=instances.device).view(-1, 1, 1)
        logits = self.classify_instance(instances[bags, indices])  # (B, A, k, 2 C)
        logits = logits.view(*logits.shape[:3], self.classes, 2)
        if self.attention_of_classes:
            found = logits.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        else:
            found = logits[:, 0].transpose(1, 2)
        return at_least_float32(found)


class CLAMMB(CLAMSB):
    """CLAM with an attention branch and a classifier for each class (the paper's CLAM-MB)."""

    attention_of_classes: ClassVar[bool] = True

    def _slide_logits(self, pooled: Tensor) -> Tensor:
        """Class c sees its own branch alone: ``w_c z_c + b_c``."""
        return torch.einsum("bch,ch->bc", pooled, self.classify.weight) + self.classify.bias
