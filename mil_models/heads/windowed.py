"""A transformer over tiles where they lie: attention in windows, positions by rotation."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from mil_models.errors import MissingCoordsError
from mil_models.heads.base import MILHead, MILOutput
from mil_models.layers import AttentionPool, Projection, dropout, require_instances

FREQUENCY_BASE = 100.0
"""Slowest rotation: distances are a few tiles, not thousands of words."""


class WindowedTransformer(MILHead):
    """Layers of attention among the tiles of a window, then gated attention over the slide.

    Every layer lays windows of `window` x `window` tiles over the slide, every second one half a
    window further, so that what a tile knows spreads. Where two tiles lie to each other enters by
    rotating queries and keys. Cost grows with the number of tiles: a window with more than
    ``window²`` of them (tiles that overlap) is cut up, and short windows share no padding with
    long ones.

    Distances are counted in tile steps, which are found in the coordinates as the most common
    gap between neighbours of a row. A model's slides have tiles of one size in micrometres, so
    steps are micrometres but for one constant, whatever the scanner's pixel size. Instances moved
    together (with their coordinates) change nothing, nor does their order.

    References
    ----------
    Windows: Liu et al., "Swin transformer", 2021, arXiv:2103.14030, section 3.2 (shifted windows).
    Rotation: Su et al., "RoFormer", 2021, arXiv:2104.09864, equation 34; by axis, and its base:
    Heo et al., "Rotary position embedding for vision transformer", 2024, arXiv:2403.13298,
    section 3.2. Pooling: Ilse et al. 2018, arXiv:1802.04712.
    """

    permutation_equivariant: ClassVar[bool] = True
    has_attention: ClassVar[bool] = True
    needs_coords: ClassVar[bool] = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 256,
        layers: int = 2,
        heads: int = 4,
        window: int = 8,
        width: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dim, classes)
        if layers < 1 or window < 2 or hidden % (4 * heads):
            raise ValueError(
                f"layers={layers}, window={window}, hidden={hidden}, heads={heads}: at least one "
                "layer, a window of 2 tiles or more, and hidden a multiple of 4 x heads"
            )
        self.window = window
        self.heads = heads
        self.project = Projection(dim, hidden, dropout)
        self.layers = nn.ModuleList(WindowLayer(hidden, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.pool = AttentionPool(hidden, width)
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
        if coords is None:
            raise MissingCoordsError(
                "the head `windowed` looks at where tiles lie: pass coords, x0 and y0 of every "
                "tile at level 0, shape (B, N, 2)"
            )
        instances = self.project(bag, generator)  # (B, N, hidden)
        seen = [self._read(instances[b], mask[b], coords[b], generator) for b in range(len(mask))]
        pooled, attention = self.pool(torch.stack(seen), mask)  # (B, 1, hidden), (B, 1, N)
        return MILOutput(self.classify(pooled[:, 0]), attention)

    def _read(
        self, instances: Tensor, real: Tensor, coords: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Return the instances (N, hidden) of one bag after all layers; 0 where none is."""
        whole = bool(real.all())
        tokens, places = (instances, coords) if whole else (instances[real], coords[real])
        steps = tile_steps(places)
        rotation = rotations(steps, tokens.shape[1] // self.heads)
        for number, layer in enumerate(self.layers):
            shift = self.window / 2 * (number % 2)
            groups = windows(steps, self.window, shift)
            tokens = layer(tokens, groups, rotation, generator)
        read: Tensor = self.norm(tokens)
        if not whole:
            empty = read.new_zeros(len(real), read.shape[1])
            read = empty.index_put((real.nonzero().squeeze(1),), read)
        return read


class WindowLayer(nn.Module):
    """One layer: attention within windows and a small network, each with norm and skip."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_1 = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.norm_2 = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * dim)
        self.narrow = nn.Linear(2 * dim, dim)

    def forward(
        self,
        tokens: Tensor,
        groups: list[Tensor],
        rotation: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Return `tokens` (n, D) after attention in `groups`, (W, S) of indices, -1 for none."""
        packed = self.query_key_value(self.norm_1(tokens))  # (n, 3 D)
        packed = packed.view(len(tokens), 3, self.heads, -1)
        query = rotate(packed[:, 0], rotation)  # (n, heads, D / heads)
        key, value = rotate(packed[:, 1], rotation), packed[:, 2]
        parts, order = [], []
        for index in groups:
            there = index >= 0  # (W, S)
            places = index.clamp(min=0)
            attended = F.scaled_dot_product_attention(
                query[places].transpose(1, 2),  # (W, heads, S, D / heads)
                key[places].transpose(1, 2),
                value[places].transpose(1, 2),
                attn_mask=None if bool(there.all()) else there[:, None, None, :],
            )
            parts.append(attended.transpose(1, 2)[there].flatten(1))
            order.append(index[there])
        attended = torch.cat(parts)[torch.cat(order).argsort()]  # (n, D)
        tokens = tokens + self._drop(self.out(attended), generator)
        inner = F.gelu(self.widen(self.norm_2(tokens)))
        narrow: Tensor = tokens + self._drop(self.narrow(inner), generator)
        return narrow

    def _drop(self, values: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(values, self.dropout, training=self.training, generator=generator)


def tile_steps(coords: Tensor) -> Tensor:
    """Return places (n, 2) in tile steps from the first row and column, float64.

    The step of an axis is the most common gap between neighbours of one row (or column), the
    smallest of equals: right for a whole grid, for a random part of one, and for several grids
    side by side. Without two tiles in a row the other axis' step is taken; without any, 1.

    Parameters
    ----------
    coords
        x0, y0 at level 0, shape ``(n, 2)``.

    Examples
    --------
    >>> tile_steps(torch.tensor([[100, 40], [612, 40], [1636, 552], [100, 552]])).tolist()
    [[0.0, 0.0], [1.0, 0.0], [3.0, 1.0], [0.0, 1.0]]
    """
    steps = [_common_gap(coords[:, axis], coords[:, 1 - axis]) for axis in (0, 1)]
    known = [step for step in steps if step > 0] or [1.0]
    scale = [step if step > 0 else known[0] for step in steps]
    origin = coords.amin(dim=0)
    return (coords - origin).double() / torch.tensor(
        scale, dtype=torch.float64, device=coords.device
    )


def windows(steps: Tensor, window: int, shift: float) -> list[Tensor]:
    """Sort tiles into windows.

    Parameters
    ----------
    steps
        Places in tile steps, shape ``(n, 2)``, none negative.
    window
        Edge of a window in tiles.
    shift
        By how much windows begin before the first tile, in tiles.

    Returns
    -------
    Index arrays ``(W, S)``, each of windows of near-equal size S (powers of two), -1 where a
    window has fewer. No window has more than ``window²``; every tile is in exactly one.
    """
    cell = ((steps + shift) / window).floor().long()  # (n, 2)
    number = cell[:, 1] * (int(cell[:, 0].max()) + 1) + cell[:, 0]
    order = steps[:, 0].argsort(stable=True)  # by window, then y, then x: never by input order
    for key in (steps[:, 1], number):
        order = order[key[order].argsort(stable=True)]
    counts = _run_lengths(number[order])
    within = torch.arange(len(order), device=steps.device) - (
        counts.cumsum(0) - counts
    ).repeat_interleave(counts)
    piece = number[order] * len(order) + within // window**2  # crowded windows are cut up
    counts = _run_lengths(piece)
    starts = counts.cumsum(0) - counts
    size_class = (2 ** counts.double().log2().ceil()).long().clamp(max=window**2)
    groups = []
    for size in sorted(set(size_class.tolist())):
        chosen = size_class == size
        place = torch.arange(size, device=steps.device)
        index = order[(starts[chosen, None] + place).clamp(max=len(order) - 1)]
        groups.append(index.masked_fill(place >= counts[chosen, None], -1))
    return groups


def rotations(steps: Tensor, width: int) -> Tensor:
    """Return unit complex numbers (n, 1, width / 2): the first half turns with x, the rest with y.

    RoFormer's equation 34 in complex form, ``exp(i p theta)``, theta from 1 down to
    ``1 / FREQUENCY_BASE``.
    """
    quarter = width // 4
    power = torch.arange(quarter, dtype=torch.float64, device=steps.device) / quarter
    angle = steps.unsqueeze(2) * FREQUENCY_BASE**-power  # (n, 2, width / 4)
    flat = angle.flatten(1)
    return torch.polar(torch.ones_like(flat), flat).unsqueeze(1)


def rotate(values: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of neighbours in `values` (n, heads, width) by `rotation`; in float32 at least."""
    wide = values if values.dtype == torch.float64 else values.float()
    pairs = torch.view_as_complex(wide.reshape(*values.shape[:2], -1, 2))
    turned = torch.view_as_real(pairs * rotation.to(pairs.dtype))
    return turned.flatten(2).to(values.dtype)


def _run_lengths(values: Tensor) -> Tensor:
    """Return the lengths of runs of equal `values` (n,)."""
    edges = torch.nonzero(values.diff()).squeeze(1) + 1
    ends = torch.cat([edges, edges.new_tensor([len(values)])])
    return ends.diff(prepend=ends.new_tensor([0]))


def _common_gap(along: Tensor, across: Tensor) -> float:
    """Return the most common gap between neighbours of equal `across`; 0 if there is none."""
    order = along.argsort(stable=True)
    order = order[across[order].argsort(stable=True)]
    gaps = along[order].diff()
    gaps = gaps[(across[order].diff() == 0) & (gaps > 0)]
    if not len(gaps):
        return 0.0
    gaps = gaps.sort().values
    counts = _run_lengths(gaps)
    values = gaps[counts.cumsum(0) - 1]
    step = float(values[counts == counts.max()].min())
    return step if math.isfinite(step) else 0.0
