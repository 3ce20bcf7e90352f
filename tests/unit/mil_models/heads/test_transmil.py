from __future__ import annotations

import numpy as np
import pytest
import torch

from mil_models import create_head
from mil_models.heads.transmil import NystromAttention, pseudo_inverse
from tests.contracts.head_contract import HeadContract
from tests.unit.mil_models.heads.plain import (
    Array,
    array,
    head_and_bag,
    linear,
    relu,
    run,
    softmax,
)

SMALL = {"hidden": 16, "heads": 2, "landmarks": 4, "kernel": 5}


class TestTransMIL(HeadContract):
    head = "transmil"
    arguments = SMALL


def plain_pseudo_inverse(a: Array, iterations: int) -> Array:
    """Xiong et al. 2021, equation 11, of one matrix."""
    z = a.T / (np.abs(a).sum(axis=0).max() * np.abs(a).sum(axis=1).max())
    i = np.eye(len(a))
    for _ in range(iterations):
        z = 0.25 * z @ (13 * i - a @ z @ (15 * i - a @ z @ (7 * i - a @ z)))
    return z


def segments(count: int, landmarks: int) -> list[slice]:
    """Segments of equal length from the end; the first is what is left."""
    length = -(-count // landmarks)
    ends = list(range(count, 0, -length))[::-1]
    return [slice(max(end - length, 0), end) for end in ends]


def plain_attention(layer: NystromAttention, x: Array) -> tuple[Array, Array]:
    """Xiong et al. 2021, equation 15 with whole matrices; output (T, D) and S (heads, T, T)."""
    width = x.shape[1] // layer.heads
    outputs, rows = [], []
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        q, k, v = (linear(f, x)[:, part] for f in (layer.query, layer.key, layer.value))
        cuts = segments(len(x), layer.landmarks)
        q_marks = np.stack([q[cut].mean(axis=0) for cut in cuts])
        k_marks = np.stack([k[cut].mean(axis=0) for cut in cuts])
        middle = softmax(q_marks @ k_marks.T / np.sqrt(width))
        s = softmax(q @ k_marks.T / np.sqrt(width))
        s = s @ plain_pseudo_inverse(middle, layer.iterations)
        s = s @ softmax(q_marks @ k.T / np.sqrt(width))
        kernel = array(layer.skip.weight)[head, 0, :, 0]
        reach = len(kernel) // 2
        padded = np.pad(v, ((reach, reach), (0, 0)))
        skip = sum(kernel[j] * padded[j : j + len(v)] for j in range(len(kernel)))
        outputs.append(s @ v + skip)
        rows.append(s)
    return linear(layer.out, np.concatenate(outputs, axis=1)), np.stack(rows)


def plain_norm(layer: torch.nn.LayerNorm, x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(x.var(axis=-1, keepdims=True) + layer.eps)
    return centred / deviation * array(layer.weight) + array(layer.bias)


def plain_convolution(layer: torch.nn.Conv2d, square: Array) -> Array:
    weight, reach = array(layer.weight)[:, 0], layer.kernel_size[0] // 2
    padded = np.pad(square, ((reach, reach), (reach, reach), (0, 0)))
    found = np.zeros_like(square) + array(layer.bias)
    for i in range(2 * reach + 1):
        for j in range(2 * reach + 1):
            shifted = padded[i : i + square.shape[0], j : j + square.shape[1]]
            found += weight[:, i, j] * shifted
    return found


@pytest.mark.parametrize(("instances", "cut"), [(1, False), (2, False), (9, True), (37, False)])
def test_is_the_papers_equations(instances: int, cut: bool) -> None:
    """Shao et al. 2021, algorithm 2 and "PPEG", all tokens through both layers."""
    head, bag = head_and_bag("transmil", instances=instances, relu=cut, **SMALL)
    h = linear(head.embed, bag[0].numpy())
    h = relu(h) if cut else h
    side = int(np.ceil(np.sqrt(instances)))
    repeated = side**2 - instances
    x = np.concatenate([array(head.class_token), h, h[:repeated]])
    x = x + plain_attention(head.attend_1, plain_norm(head.norm_1, x))[0]
    square = x[1:].reshape(side, side, -1)
    convolutions = (head.positions.by_7, head.positions.by_5, head.positions.by_3)
    placed = square + sum(plain_convolution(layer, square) for layer in convolutions)
    x = np.concatenate([x[:1], placed.reshape(side**2, -1)])
    attended, matrix = plain_attention(head.attend_2, plain_norm(head.norm_2, x))
    logits = linear(head.classify, plain_norm(head.norm, (x + attended)[0]))
    row = matrix.mean(axis=0)[0, 1:]
    row[:repeated] += row[instances:]
    weights = np.maximum(row[:instances], 0)
    found = run(head, bag)
    assert found["logits"] == pytest.approx(logits, abs=1e-10)
    assert found["attention"][0] == pytest.approx(weights / weights.sum(), abs=1e-10)


def test_pseudo_inverse_converges_to_numpys() -> None:
    matrix = softmax(np.random.default_rng(0).normal(size=(2, 3, 6, 6)) * 2)
    found = pseudo_inverse(torch.from_numpy(matrix), 30).numpy()
    assert found == pytest.approx(np.linalg.pinv(matrix), abs=1e-8)


def test_many_landmarks_are_full_attention() -> None:
    """With a landmark a token, Nyström's product is softmax attention itself."""
    torch.manual_seed(0)
    layer = NystromAttention(8, heads=2, landmarks=10, iterations=40).double()
    torch.nn.init.zeros_(layer.skip.weight)
    x = torch.randn(10, 8, dtype=torch.float64)
    query, key, value = (layer._split(f(x)) for f in (layer.query, layer.key, layer.value))
    full = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(layer(x), layer._merge(full), atol=1e-7)


def test_attention_is_not_made_in_training() -> None:
    head = create_head("transmil", dim=8, classes=2, **SMALL).train()
    assert head(torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)).attention is None


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiple"):
        create_head("transmil", dim=8, classes=2, hidden=10, heads=4)
