"""Double-tier feature distillation MIL (Zhang et al. 2022, arXiv:2203.12081)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mil_models.heads.base import Criterion, MILHead, MILOutput
from mil_models.layers import (
    AttentionPool,
    Projection,
    masked_softmax,
    on_device,
    pool,
    require_instances,
)

Distillation = Literal["afs", "maxs", "maxmins"]
_DISTILLATIONS = ("afs", "maxs", "maxmins")


class DTFDMIL(MILHead):
    r"""ABMIL over pseudo-bags, then ABMIL over what was distilled from each.

    A bag is split at random into pseudo-bags of near-equal size. Tier 1 pools and classifies each
    by gated attention. From each it passes on features: ``afs`` the pooled feature, ``maxs`` the
    instance of highest score, ``maxmins`` those of highest and lowest. Tier 2 pools and classifies
    these. An instance's score for class c is its class activation,

    .. math:: L_{nc} = K \sum_d w_{cd} a_n h_{nd}, \quad p_{nc} = softmax_c(L_{nc})

    in a pseudo-bag of K; c is the last class of two (the positive one), of more the one that the
    pseudo-bag is taken for. Loss: the criterion on tier 2 plus its mean over pseudo-bags, which
    inherit the bag's label. Tier 2 does not train tier 1: each loss has its own parameters.

    In evaluation the split is every M-th instance, so that a slide always gets the same score.
    Attention is the product of both tiers': the weight with which each instance enters the slide's
    feature.

    References
    ----------
    Zhang, Meng, Zhao, Qiao, Yang, Coupland, Zheng, "DTFD-MIL: double-tier feature distillation
    multiple instance learning for histopathology whole slide image classification", 2022,
    arXiv:2203.12081, sections 3.2 (equations 5 to 8) and 3.3.
    """

    permutation_equivariant: ClassVar[bool] = False
    has_attention: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        pseudo_bags: int = 8,
        distillation: Distillation = "afs",
        hidden: int = 256,
        width: int = 128,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(dim, classes)
        if pseudo_bags < 1 or distillation not in _DISTILLATIONS:
            raise ValueError(
                f"pseudo_bags={pseudo_bags}, distillation={distillation!r}: at least 1, and one "
                f"of {', '.join(_DISTILLATIONS)}"
            )
        self.pseudo_bags = pseudo_bags
        self.distillation = distillation
        self.project = Projection(dim, hidden, dropout)
        self.pool_1 = AttentionPool(hidden, width)
        self.classify_1 = nn.Linear(hidden, classes)
        self.pool_2 = AttentionPool(hidden, width)
        self.classify_2 = nn.Linear(hidden, classes)

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
        scores = self.pool_1.logits(instances)[:, 0]  # (B, N)
        logits, first_tier, attentions = [], [], []
        for h, score, real in zip(instances, scores, mask, strict=True):
            index, taken = self._split(real, generator)  # (M, S)
            grouped = h[index]  # (M, S, hidden)
            weight = masked_softmax(score[index].unsqueeze(1), taken)  # (M, 1, S)
            pooled = pool(weight, grouped)  # (M, 1, hidden)
            first_tier.append(self.classify_1(pooled[:, 0]))  # (M, C)
            features, origin = pooled.detach(), weight.detach()  # (M, F, hidden), (M, F, S)
            if self.distillation != "afs":
                features, origin = self._pick(grouped, weight[:, 0], taken, first_tier[-1])
            distilled = features.flatten(0, 1).unsqueeze(0)  # (1, M F, hidden)
            second, attention = self.pool_2(distilled, distilled.new_ones(distilled.shape[:2]) > 0)
            logits.append(self.classify_2(second[0]))  # (1, C)
            whole = (attention.view(*features.shape[:2], 1) * origin).sum(dim=1)  # (M, S)
            attentions.append(torch.zeros_like(real, dtype=whole.dtype).index_add(
                0, index[taken], whole[taken]))  # fmt: skip
        aux = {"first_tier": first_tier}
        return MILOutput(torch.cat(logits), torch.stack(attentions).unsqueeze(1), aux=aux)

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        tiers: list[Tensor] = output.aux["first_tier"]  # B of (M, C)
        counts = torch.tensor([len(tier) for tier in tiers], device=target.device)
        each = criterion(torch.cat(tiers), target.repeat_interleave(counts, dim=0))
        first = torch.stack([part.mean() for part in torch.split(each, [len(t) for t in tiers])])
        return criterion(output.logits, target).mean() + first.mean()

    def _split(self, real: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return indices of instances (M, S) by pseudo-bag, and which of them are meant (M, S)."""
        index = real.nonzero().squeeze(1)  # (n,)
        if self.training:
            own = on_device(generator, real)
            index = index[torch.randperm(len(index), generator=own, device=real.device)]
        bags = min(self.pseudo_bags, len(index))
        size = -(-len(index) // bags)
        places = torch.arange(size * bags, device=real.device)
        padded = index[places.clamp(max=len(index) - 1)]
        return padded.view(size, bags).T, (places < len(index)).view(size, bags).T

    @torch.no_grad()
    def _pick(
        self, h: Tensor, weight: Tensor, taken: Tensor, logits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the picked instances (M, F, hidden) and where they are, 0 or 1 (M, F, S)."""
        size = taken.sum(dim=1).view(-1, 1, 1)
        score = size * weight.unsqueeze(2) * (h @ self.classify_1.weight.T)  # (M, S, C)
        if self.classes > 1:
            score = score.softmax(dim=2)
        last = torch.full_like(logits[:, 0], self.classes - 1, dtype=torch.int64)
        which = logits.argmax(dim=1) if self.classes > 2 else last
        score = score.gather(2, which.view(-1, 1, 1).expand(-1, h.shape[1], 1)).squeeze(2)  # (M, S)
        picked = [score.masked_fill(~taken, -torch.inf).argmax(dim=1)]
        if self.distillation == "maxmins":
            picked.append(score.masked_fill(~taken, torch.inf).argmin(dim=1))
        index = torch.stack(picked, dim=1)  # (M, F)
        features = h[torch.arange(len(h), device=h.device).unsqueeze(1), index]
        return features, nn.functional.one_hot(index, h.shape[1]).to(weight.dtype)
