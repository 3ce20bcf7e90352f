"""Parts that heads share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mil_models.errors import EmptyBagError


class AttentionPool(nn.Module):
    r"""Gated attention pooling of a bag.

    .. math:: a_n = softmax_n(w^T (tanh(V h_n) \odot sigm(U h_n))), \quad z = \sum_n a_n h_n

    V and U have biases and w has one too, as in the authors' code; the paper prints none. The
    bias of w changes no attention, since softmax does not see a constant, and is left out.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", 2018,
    arXiv:1802.04712, equations 7 and 9.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        self.value = nn.Linear(dim, width)
        self.gate = nn.Linear(dim, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, bag: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool `bag` (B, N, D), real where `mask` (B, N); return (B, D), attention (B, N)."""
        hidden = self.value(bag).tanh() * self.gate(bag).sigmoid()  # (B, N, K)
        logits = self.score(hidden).squeeze(-1)  # (B, N)
        attention = logits.masked_fill(~mask, -torch.inf).softmax(dim=1)  # (B, N)
        return torch.einsum("bn,bnd->bd", attention, bag), attention


def mean_pool(bag: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of the real instances of `bag` (B, N, D)."""
    weight = mask.to(bag.dtype)  # (B, N)
    return torch.einsum("bn,bnd->bd", weight, bag) / weight.sum(dim=1, keepdim=True)


def require_instances(mask: Tensor) -> None:
    """Raise `EmptyBagError` if a bag of `mask` (B, N) has no real instance."""
    if mask.shape[1] == 0 or not bool(mask.any(dim=1).all()):
        raise EmptyBagError("a bag has no real instance; leave the slide out")
