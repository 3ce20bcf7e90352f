"""Encoders made small, and a vision transformer in plain NumPy to hold them against."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf
from torch import nn

from mil_models.encoder_spec import EncoderSpec
from mil_models.network import build_network
from mil_models.registry import specs

WIDTH, DEPTH, HEADS = 48, 2, 3
Array = NDArray[np.float64]


def small_spec(name: str) -> EncoderSpec:
    """Return a ViT of ours with two narrow blocks, or a narrow Swin, and all else as it is."""
    spec = specs()[name]
    if spec.architecture.startswith("swin"):
        small = {"depths": [2, 2, 2, 2], "embed_dim": 24, "num_heads": [1, 2, 4, 8]}
        return dataclasses.replace(spec, arguments={**spec.arguments, **small}, width=8 * 24)
    small = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS}
    return dataclasses.replace(
        spec,
        arguments={**spec.arguments, **small},
        projection=(WIDTH, WIDTH) if spec.projection else (),
        width=2 * WIDTH if spec.pooling == "cls+mean" else WIDTH,
    )


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return the network with all its parameters random: none is zero or one, as at the start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def small_network(name: str) -> nn.Module:
    return shaken(build_network(small_spec(name)))


def plain_tokens(
    state: dict[str, Array], pixels: Array, *, heads: int = HEADS, eps: float, swiglu: bool
) -> Array:
    """Return the tokens (B, prefix + N, D) of a vision transformer after its last norm.

    Dosovitskiy et al. 2021 (arXiv:2010.11929), equations 1 to 4; registers of Darcet et al. 2024
    (arXiv:2309.16588); layer scale of Touvron et al. 2021 (arXiv:2103.17239); SwiGLU of Shazeer
    2020 (arXiv:2002.05202). `state` has timm's names, `pixels` is (B, 3, H, W).
    """
    kernel = state["patch_embed.proj.weight"]  # (D, 3, P, P)
    edge, batch, side = kernel.shape[-1], len(pixels), pixels.shape[-1] // kernel.shape[-1]
    cut = pixels.reshape(batch, 3, side, edge, side, edge).transpose(0, 2, 4, 1, 3, 5)
    patches = cut.reshape(batch, side * side, -1) @ kernel.reshape(len(kernel), -1).T
    patches = patches + state["patch_embed.proj.bias"]
    prefix = [state["cls_token"]]
    if "reg_token" in state:
        prefix.append(state["reg_token"])
    first = np.repeat(np.concatenate(prefix, axis=1), batch, axis=0)
    if state["pos_embed"].shape[1] == patches.shape[1]:
        x = np.concatenate([first, patches + state["pos_embed"]], axis=1)
    else:
        x = np.concatenate([first, patches], axis=1) + state["pos_embed"]
    for block in range(DEPTH):
        own = {
            k.removeprefix(f"blocks.{block}."): v
            for k, v in state.items()
            if k.startswith(f"blocks.{block}.")
        }
        x = x + own.get("ls1.gamma", 1.0) * _attention(own, _norm(own, "norm1", x, eps), heads)
        x = x + own.get("ls2.gamma", 1.0) * _mlp(own, _norm(own, "norm2", x, eps), swiglu)
    return _norm(state, "norm", x, eps)


def _linear(state: dict[str, Array], name: str, x: Array) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state: dict[str, Array], name: str, x: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attention(state: dict[str, Array], x: Array, heads: int) -> Array:
    batch, count, width = x.shape
    parts = _linear(state, "attn.qkv", x).reshape(batch, count, 3, heads, width // heads)
    query, key, value = parts.transpose(2, 0, 3, 1, 4)
    logits = query @ key.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ value
    return _linear(state, "attn.proj", mixed.transpose(0, 2, 1, 3).reshape(batch, count, width))


def _mlp(state: dict[str, Array], x: Array, swiglu: bool) -> Array:
    hidden = _linear(state, "mlp.fc1", x)
    if swiglu:
        gate, content = np.split(hidden, 2, axis=-1)
        hidden = gate / (1 + np.exp(-gate)) * content
    else:
        hidden = hidden / 2 * (1 + erf(hidden / np.sqrt(2)))
    return _linear(state, "mlp.fc2", hidden)
