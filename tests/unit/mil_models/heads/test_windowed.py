from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.heads.windowed import FREQUENCY_BASE, tile_steps, windows
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    Array,
    attention_logits,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)
from tests.unit.mil_models.heads.test_transmil import plain_norm

SMALL = {"hidden": 16, "heads": 2, "window": 4}


class TestWindowedTransformer(HeadContract):
    head = "windowed"
    arguments = SMALL


def turned(values: Array, place: Array) -> Array:
    """RoFormer's equation 34 by axis: pairs of neighbours turned by place times theta."""
    found = values.copy()
    quarter = len(values) // 4
    for pair in range(2 * quarter):
        theta = FREQUENCY_BASE ** -((pair % quarter) / quarter)
        angle = place[pair // quarter] * theta
        a, b = values[2 * pair : 2 * pair + 2]
        found[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        found[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return found


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def plain_layer(layer: torch.nn.Module, x: Array, steps: Array, shift: float) -> Array:
    """Each tile attends to the tiles of its own window, one at a time."""
    packed = linear(layer.query_key_value, plain_norm(layer.norm_1, x))
    q, k, v = np.split(packed, 3, axis=1)
    width = x.shape[1] // layer.heads
    window = np.floor((steps + shift) / SMALL["window"])
    attended = np.zeros_like(x)
    for n in range(len(x)):
        near = [m for m in range(len(x)) if (window[m] == window[n]).all()]
        for head in range(layer.heads):
            part = slice(head * width, (head + 1) * width)
            query = turned(q[n, part], steps[n])
            scores = [query @ turned(k[m, part], steps[m]) / math.sqrt(width) for m in near]
            attended[n, part] = softmax(np.array(scores)) @ v[near, part]
    x = x + linear(layer.out, attended)
    return x + linear(layer.narrow, gelu(linear(layer.widen, plain_norm(layer.norm_2, x))))


def test_is_its_equations() -> None:
    """Windows as Swin's, every second layer's half a window on; rotation as RoFormer's."""
    head, bag = head_and_bag("windowed", instances=40, layers=3, **SMALL)
    generator = torch.Generator().manual_seed(0)
    steps = torch.randperm(110, generator=generator)[:40]
    steps = torch.stack([steps % 10, steps // 10], dim=1)
    steps -= steps.amin(dim=0)
    x = relu(linear(head.project, bag[0].numpy()))
    for layer, shift in zip(head.layers, (0.0, 2.0, 0.0), strict=True):
        x = plain_layer(layer, x, steps.double().numpy(), shift)
    x = plain_norm(head.norm, x)
    attention = softmax(attention_logits(head.pool, x))
    found = run(head, bag, coords=steps[None] * 450 + 77)
    assert found["attention"] == pytest.approx(attention, abs=1e-10)
    assert found["logits"] == pytest.approx(linear(head.classify, attention @ x)[0], abs=1e-10)


def test_pixel_size_and_position_of_the_slide_change_nothing() -> None:
    """The same tissue by a scanner with half the pixel size, elsewhere on the glass."""
    torch.manual_seed(0)
    head = create_head("windowed", dim=8, classes=2, **SMALL).eval()
    bag, mask = torch.randn(1, 60, 8), torch.ones(1, 60, dtype=torch.bool)
    index = torch.arange(60)
    coords = torch.stack([index % 9, index // 9], dim=1)[None]
    one = head(bag, mask, coords=coords * 512).logits
    other = head(bag, mask, coords=coords * torch.tensor([1024, 1023]) + 31337).logits
    assert torch.allclose(one, other, atol=1e-6)
    assert not torch.allclose(one, head(bag, mask, coords=coords.flip(1) * 512).logits, atol=1e-4)


@pytest.mark.parametrize(("shift", "window"), [(0.0, 4), (2.0, 4), (0.0, 2), (4.0, 8)])
def test_every_tile_is_in_one_window(shift: float, window: int) -> None:
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(0, 30, (500, 2), generator=generator).double()  # some places twice
    groups = windows(steps, window, shift)
    assert sorted(i for g in groups for i in g[g >= 0].tolist()) == list(range(500))
    for group in groups:
        assert group.shape[1] <= window**2
        assert ((group >= 0).sum(dim=1) * 2 > group.shape[1]).all()  # at most half is padding
        for row in group:
            cell = ((steps[row[row >= 0]] + shift) / window).floor()
            assert (cell == cell[0]).all()


def test_crowded_window_is_cut_up() -> None:
    steps = torch.zeros(1000, 2, dtype=torch.float64)
    groups = windows(steps, 4, 0.0)
    assert sum((group >= 0).sum().item() for group in groups) == 1000
    assert max(group.shape[1] for group in groups) == 16


def test_tile_steps_of_part_of_a_grid_and_of_grids_side_by_side() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(60), np.arange(50)), axis=2).reshape(-1, 2)
    some = grid[rng.random(len(grid)) < 0.3]
    expected = (some - some.min(axis=0)).tolist()
    pixels = torch.from_numpy(some * np.array([451, 449]) + 13)
    assert tile_steps(pixels).tolist() == expected
    beside = np.concatenate([grid * 512, grid * 512 + [60 * 512 + 1, 0]])
    steps = tile_steps(torch.from_numpy(beside))
    assert steps[len(grid)].tolist() == [60 + 1 / 512, 0]


@pytest.mark.parametrize("coords", [[[5, 5]], [[5, 5], [9, 7]], [[5, 5], [5, 5]]])
def test_tile_steps_without_a_row(coords: list[list[int]]) -> None:
    steps = tile_steps(torch.tensor(coords))
    assert steps.tolist() == [[x - 5, y - 5] for x, y in coords]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        create_head("windowed", dim=4, classes=2, hidden=30)
