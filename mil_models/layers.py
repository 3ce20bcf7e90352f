"""Parts that heads share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.errors import EmptyBagError


class AttentionPool(nn.Module):
    r"""Attention pooling of a bag by A branches, gated or plain.

    .. math::
        a_{bn} = softmax_n(w_b^T (tanh(V h_n) \odot sigm(U h_n))), \quad z_b = \sum_n a_{bn} h_n

    Plain attention leaves the factor with U out. V and U have biases and w has one too, as in the
    authors' code; the paper prints none. The bias of w changes no attention, since softmax does
    not see a constant, and is left out.

    References
    ----------
    Ilse, Tomczak, Welling, "Attention-based deep multiple instance learning", 2018,
    arXiv:1802.04712, equations 7, 8 (plain) and 9 (gated).
    """

    def __init__(
        self, dim: int, width: int = 128, *, branches: int = 1, gated: bool = True
    ) -> None:
        super().__init__()
        self.value = nn.Linear(dim, width)
        self.gate = nn.Linear(dim, width) if gated else None
        self.score = nn.Linear(width, branches, bias=False)

    def forward(self, bag: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool `bag` (B, N, D), real where `mask` (B, N), to (B, A, D), attention (B, A, N)."""
        attention = masked_softmax(self.logits(bag), mask)
        return pool(attention, bag), attention

    def logits(self, bag: Tensor) -> Tensor:
        """Return the attention logits (B, A, N) of `bag` (B, N, D)."""
        hidden = self.value(bag).tanh_()  # (B, N, K)
        if self.gate is not None:
            hidden = hidden * self.gate(bag).sigmoid_()
        logits: Tensor = self.score(hidden)  # (B, N, A)
        return logits.transpose(1, 2)


def pool(attention: Tensor, bag: Tensor) -> Tensor:
    """Return the sums (B, A, D) of `bag` (B, N, D) weighted by `attention` (B, A, N)."""
    return torch.bmm(attention.to(bag.dtype), bag)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax of `logits` (B, A, N) over the real instances of `mask` (B, N).

    Exactly 0 where there is none. In float32 at least: with bfloat16's 8 bits the weights of
    100,000 instances would not sum to 1.
    """
    return at_least_float32(logits).masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=2)


def at_least_float32(values: Tensor) -> Tensor:
    """Return `values` in float32 if they have fewer bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def mean_pool(bag: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of the real instances of `bag` (B, N, D)."""
    weight = mask.to(bag.dtype)  # (B, N)
    return torch.einsum("bn,bnd->bd", weight, bag) / weight.sum(dim=1, keepdim=True)


def top_k(scores: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the highest real instances of `scores` (B, C, N), highest first.

    Returns
    -------
    Indices, shape ``(B, C, min(k, N))``, and which of them are real ``(B, 1, min(k, N))``: a bag
    may have fewer than k.
    """
    k = min(k, scores.shape[2])
    indices = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).topk(k, dim=2).indices
    found = torch.arange(k, device=mask.device) < mask.sum(dim=1).view(-1, 1, 1)  # (B, 1, k)
    return indices, found


class Projection(nn.Linear):
    """``relu(W h + b)`` with dropout: what most heads do to every instance first."""

    def __init__(self, dim: int, width: int, dropout: float = 0.0) -> None:
        super().__init__(dim, width)
        self.dropout = dropout

    def forward(self, bag: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return `bag` (..., D) projected, shape ``(..., width)``."""
        projected = super().forward(bag)
        if not self.training or self.dropout == 0:
            return projected.relu_()
        found: Tensor = _ReluDropout.apply(projected, self.dropout, generator)
        return found


class _ReluDropout(torch.autograd.Function):
    """ReLU and dropout in place; the gradient needs no more than the result.

    Where the result is 0 either of them cut, so one array is kept of a bag, not three.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
        kept, ctx.scale = _draw_kept(values, rate, generator)
        values.relu_().mul_(kept)
        ctx.mark_dirty(values)
        ctx.save_for_backward(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (result,) = ctx.saved_tensors
        through: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0)
        return through.mul_(ctx.scale), None, None


def dropout(
    values: Tensor, rate: float, *, training: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Set values to 0 at `rate` and scale the others by ``1 / (1 - rate)`` (Srivastava 2014).

    torch's own draws from the process's generator alone; here the caller's decides, so that
    a run is repeated by its seed whatever else draws in the process.
    """
    if not training or rate == 0:
        return values
    kept, _ = _draw_kept(values, rate, generator)
    return values * kept


def _draw_kept(
    values: Tensor, rate: float, generator: torch.Generator | None
) -> tuple[Tensor, float]:
    """Draw which of `values` are kept: the scale where one is, 0 elsewhere; and that scale.

    16 random bits a value, four values of one draw: `rate` to within 1/131072, at a fraction of
    what torch's draw of a float for each costs.
    """
    count, levels = values.numel(), round(rate * 65536)
    draws = torch.empty(-(-count // 4), dtype=torch.int64, device=values.device)
    draws.random_(-(2**63), None, generator=on_device(generator, values))
    kept = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    torch.ge(draws.view(torch.int16)[:count].view(values.shape), levels - 32768, out=kept)
    scale = 65536 / (65536 - levels)
    return kept.mul_(scale), scale


def on_device(generator: torch.Generator | None, values: Tensor) -> torch.Generator | None:
    """Return a generator for the device of `values`, seeded by `generator` if that has another."""
    if generator is None or generator.device.type == values.device.type:
        return generator
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return torch.Generator(values.device).manual_seed(seed)


def smooth_top1_svm(logits: Tensor, target: Tensor) -> Tensor:
    r"""Return the smooth top-1 SVM loss of each row, temperature and margin 1.

    .. math:: \ell = \log \sum_j \exp(s_j + 1[j \ne y]) - s_y

    Parameters
    ----------
    logits
        Shape ``(..., C)``.
    target
        Class indices, int64, shape ``(...)``.

    References
    ----------
    Berrada, Zisserman, Kumar, "Smooth loss functions for deep top-k classification", 2018,
    arXiv:1802.07595, equation 8 with k = 1.
    """
    margin = 1 - F.one_hot(target, logits.shape[-1]).to(logits.dtype)
    own = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits + margin, dim=-1) - own


def require_instances(mask: Tensor) -> None:
    """Raise `EmptyBagError` if a bag of `mask` (B, N) has no real instance."""
    if mask.shape[1] == 0 or not bool(mask.any(dim=1).all()):
        raise EmptyBagError("a bag has no real instance; leave the slide out")
