"""TransMIL (Shao et al. 2021, arXiv:2106.00908): a transformer over the bag at linear cost."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import dropout, require_instances


class NystromAttention(nn.Module):
    r"""Self-attention through m landmarks, the means of as many segments of the tokens.

    .. math::
        S = softmax(Q \tilde K^T)\, softmax(\tilde Q \tilde K^T)^+\, softmax(\tilde Q K^T), \quad
        Y = S V + conv(V)

    (scaled by the root of a head's width), the pseudo-inverse by the paper's iteration. The two
    large factors are never made: each is an ordinary attention, with landmarks as queries or as
    keys. Segments have ``ceil(T / m)`` tokens; the first is shorter where that leaves a rest.

    References
    ----------
    Xiong et al., "Nyströmformer: a Nyström-based algorithm for approximating self-attention",
    2021, arXiv:2102.03902, equations 13 to 15 and "Nyströmformer" (skip by convolution).
    """

    def __init__(
        self, dim: int, *, heads: int, landmarks: int, iterations: int = 6, kernel: int = 33
    ) -> None:
        super().__init__()
        if dim % heads or landmarks < 1 or kernel % 2 == 0:
            raise ValueError(
                f"dim={dim}, heads={heads}, landmarks={landmarks}, kernel={kernel}: dim must be a "
                "multiple of heads, landmarks at least 1 and kernel odd"
            )
        self.heads, self.landmarks, self.iterations = heads, landmarks, iterations
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.skip = nn.Conv2d(
            heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the attended `tokens` (T, D), all of them."""
        query, key, value = (self._split(f(tokens)) for f in (self.query, self.key, self.value))
        query_marks, key_marks = self._landmarks(query), self._landmarks(key)
        carried = self._carried(query_marks, key_marks, key, value)  # (1, heads, m, D / heads)
        attended = F.scaled_dot_product_attention(query, key_marks, carried)
        return self._merge(attended + self.skip(value))

    def first(self, tokens: Tensor) -> Tensor:
        """Return the attended first token (1, D) alone; of the others only what it needs."""
        key, value = self._split(self.key(tokens)), self._split(self.value(tokens))
        query, query_marks, key_marks = self._first_parts(tokens, key)
        carried = self._carried(query_marks, key_marks, key, value)
        attended = F.scaled_dot_product_attention(query, key_marks, carried)
        reach = self.skip.kernel_size[0] // 2 + 1
        return self._merge(attended + self.skip(value[:, :, :reach])[:, :, :1])

    @torch.no_grad()
    def first_row(self, tokens: Tensor) -> Tensor:
        """Return the first token's row of S, mean over heads, shape ``(T,)``."""
        key = self._split(self.key(tokens))
        parts = self._first_parts(tokens, key)
        inverse = self._inverse(*parts[1:])
        with torch.autocast(tokens.device.type, enabled=False):
            key, query, query_marks, key_marks = (x.to(inverse.dtype) for x in (key, *parts))
            weights = _scores(query, key_marks) @ inverse  # (1, heads, 1, m)
            row = torch.zeros_like(key[0, 0, :, 0])
            for head in range(self.heads):  # one at a time: m x T numbers each
                row += (weights[0, head] @ _scores(query_marks[0, head], key[0, head]))[0]
        return row / self.heads

    def _first_parts(self, tokens: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first token's query, and the landmarks; the mean of queries is a query."""
        query = self._split(self.query(tokens[:1]))
        query_marks = self._split(self.query(self._landmarks(tokens)))
        return query, query_marks, self._landmarks(key)

    def _carried(
        self, query_marks: Tensor, key_marks: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        gathered = F.scaled_dot_product_attention(query_marks, key, value)
        return (self._inverse(query_marks, key_marks) @ gathered.to(self.out.weight.dtype)).to(
            value.dtype
        )

    def _inverse(self, query_marks: Tensor, key_marks: Tensor) -> Tensor:
        dtype = self.out.weight.dtype  # the iteration needs every bit, autocast or not
        with torch.autocast(query_marks.device.type, enabled=False):
            return pseudo_inverse(
                _scores(query_marks.to(dtype), key_marks.to(dtype)), self.iterations
            )

    def _landmarks(self, values: Tensor) -> Tensor:
        """Return the means of segments of `values` (..., T, D), shape ``(..., <= m, D)``."""
        length = math.ceil(values.shape[-2] / self.landmarks)
        rest = values.shape[-2] % length
        segments = values[..., rest:, :]
        means = segments.reshape(*values.shape[:-2], -1, length, values.shape[-1]).mean(dim=-2)
        if rest:
            means = torch.cat([values[..., :rest, :].mean(dim=-2, keepdim=True), means], dim=-2)
        return means

    def _split(self, values: Tensor) -> Tensor:
        """Return `values` (T, D) by head, shape ``(1, heads, T, D / heads)``."""
        return values.view(len(values), self.heads, -1).transpose(0, 1).unsqueeze(0)

    def _merge(self, values: Tensor) -> Tensor:
        merged: Tensor = self.out(values[0].transpose(0, 1).flatten(1))
        return merged


class PyramidPositions(nn.Module):
    """Positions by depth-wise convolutions of 7, 5 and 3 over the tokens laid out as a square.

    Their sum and the token itself are one convolution of 7, which is what is computed.

    References
    ----------
    Shao et al. 2021, arXiv:2106.00908, section 3.3, "PPEG".
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.by_7 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.by_5 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.by_3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """Return `tokens` (1 + side², D) with positions in all but the first."""
        weight = self.by_7.weight + F.pad(self.by_5.weight, (1,) * 4)
        weight = weight + F.pad(self.by_3.weight, (2,) * 4)
        weight = weight + F.pad(torch.ones_like(weight[..., :1, :1]), (3,) * 4)
        bias = self.by_7.bias + self.by_5.bias + self.by_3.bias  # type: ignore[operator]
        square = tokens[1:].view(side, side, -1).permute(2, 0, 1).unsqueeze(0)
        placed = F.conv2d(square, weight, bias, padding=3, groups=len(weight))  # (1, D, side, side)
        return torch.cat([tokens[:1].to(placed.dtype), placed[0].permute(1, 2, 0).flatten(0, 1)])


class TransMIL(MILHead):
    """Two layers of Nyström attention around a layer of positions, read off at a class token.

    The instances, in their order, are laid out as a square that is filled up by the first ones
    (the paper's "squaring"), so that the order matters. Bags go through one by one, without
    their padding. Of the last layer only the class token is computed, which is all that the
    classifier sees.

    Attention is the class token's row in the last layer, mean over heads, repeated instances
    added up. The approximation may give small negative values there: they count as 0.

    Parameters
    ----------
    relu
        Cut the embedded instances at 0, as the authors' code does; the paper names a linear layer
        alone. With few slides the linear layer learns better (`benchmarks/glas_heads.py`).

    References
    ----------
    Shao, Bian, Chen, Wang, Zhang, Ji, Zhang, "TransMIL: transformer based correlated multiple
    instance learning for whole slide image classification", 2021, arXiv:2106.00908, section 3.3
    and algorithm 2.
    """

    permutation_equivariant: ClassVar[bool] = False
    has_attention: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        iterations: int = 6,
        kernel: int = 33,
        dropout: float = 0.1,
        relu: bool = False,
    ) -> None:
        super().__init__(dim, classes)
        self.dropout, self.relu = dropout, relu
        self.embed = nn.Linear(dim, hidden)
        self.class_token = nn.Parameter(torch.randn(1, hidden))
        self.norm_1 = nn.LayerNorm(hidden)
        self.attend_1 = NystromAttention(
            hidden, heads=heads, landmarks=landmarks, iterations=iterations, kernel=kernel
        )
        self.positions = PyramidPositions(hidden)
        self.norm_2 = nn.LayerNorm(hidden)
        self.attend_2 = NystromAttention(
            hidden, heads=heads, landmarks=landmarks, iterations=iterations, kernel=kernel
        )
        self.norm = nn.LayerNorm(hidden)
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
        logits, rows = [], []
        for instances, real in zip(bag, mask, strict=True):
            token, row = self._read(instances if bool(real.all()) else instances[real], generator)
            logits.append(self.classify(self.norm(token)))  # (1, C)
            if row is not None:
                rows.append(row.new_zeros(len(real)).masked_scatter(real, row))
        attention = torch.stack(rows).unsqueeze(1) if rows else None  # (B, 1, N)
        return MILOutput(torch.cat(logits), attention)

    def _read(
        self, instances: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the class token (1, hidden) and, in evaluation, the attention (n,) of a bag."""
        count = len(instances)
        side = math.ceil(math.sqrt(count))
        tokens = self.embed(instances)
        if self.relu:
            tokens = tokens.relu_()
        tokens = torch.cat(
            [self.class_token.to(tokens.dtype), tokens, tokens[: side**2 - count]]
        )  # (1 + side², hidden)
        tokens = tokens + self._drop(self.attend_1(self.norm_1(tokens)), generator)
        normed = self.norm_2(self.positions(tokens, side))
        # The skip connection of the class token goes around positions too: they leave it as it is.
        token = tokens[:1] + self._drop(self.attend_2.first(normed), generator)
        if self.training:
            return token, None
        row = self.attend_2.first_row(normed)[1:]
        row[: side**2 - count] += row[count:]
        weights = row[:count].clamp_min(0)
        if not bool(weights.any()):
            weights = torch.ones_like(weights)
        return token, weights / weights.sum()

    def _drop(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(values, self.dropout, training=self.training, generator=generator)


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Return the Moore-Penrose inverse of square matrices (..., m, m), to third order a step.

    Each matrix starts from its own norms, as in the paper. (Code in use takes the largest norm
    among all heads and bags, so that a bag's result hangs on what it shares a batch with.)

    References
    ----------
    Xiong et al. 2021, arXiv:2102.03902, equation 11 and "Initialization" below.
    """
    columns = matrix.abs().sum(dim=-2, keepdim=True).amax(dim=-1, keepdim=True)
    rows = matrix.abs().sum(dim=-1, keepdim=True).amax(dim=-2, keepdim=True)
    inverse = matrix.transpose(-1, -2) / (columns * rows)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        product = matrix @ inverse
        inner = 7 * identity - product
        inner = 15 * identity - product @ inner
        inverse = inverse @ (13 * identity - product @ inner) / 4
    return inverse


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Return the softmax of scaled products of `query` (..., T, D) with `key` (..., S, D)."""
    scale: float = query.shape[-1] ** -0.5
    return (query * scale @ key.transpose(-1, -2)).softmax(dim=-1)
