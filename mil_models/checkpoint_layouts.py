"""Names that `transformers` gives a vision transformer's weights, turned into timm's."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

State = dict[str, Tensor]

MARK = "embeddings.patch_embeddings.projection.weight"

PREFIXES = re.compile(r"^(vit|dinov2|dinov2_with_registers)\.")
NAMES = [
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.(norm1|layernorm_before)\.", ".norm1."),
    (r"\.(norm2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
]
UNUSED = ("embeddings.mask_token", "pooler.", "classifier.")


def is_transformers(state: State) -> bool:
    """Whether the names are those of a ViT or DINOv2 of `transformers`, as it publishes them."""
    return any(PREFIXES.sub("", key) == MARK for key in state)


def from_transformers(state: State, backbone: Any) -> State:
    """Return the weights of a ViT or DINOv2 (with or without registers) under timm's names.

    Query, key and value become one tensor. In a model with registers, the class token's position
    is added to the token, since timm gives positions to patches alone. Positions of another grid
    are resampled as `transformers` does it at run time: bicubic, antialiased only in the models
    with registers.

    Parameters
    ----------
    backbone
        timm's model: says the grid of patches.

    References
    ----------
    `Dinov2Embeddings`, `Dinov2WithRegistersEmbeddings`, `ViTEmbeddings` of `transformers` 5.
    """
    plain = {PREFIXES.sub("", key): value for key, value in state.items()}
    found: State = {}
    for key, value in plain.items():
        if key.startswith(UNUSED) or ".attention.attention." in key:
            continue
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        found[key] = value
    for key, query in plain.items():
        if match := re.match(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(\w+)$", key):
            parts = [query, *(plain[key.replace("query", n)] for n in ("key", "value"))]
            found[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat(parts)
    has_registers = "reg_token" in found
    first, patches = found["pos_embed"][:, :1], found["pos_embed"][:, 1:]
    patches = _resampled(patches, tuple(backbone.patch_embed.grid_size), antialias=has_registers)
    if has_registers:
        found["cls_token"] = found["cls_token"] + first
        found["pos_embed"] = patches
    else:
        found["pos_embed"] = torch.cat([first, patches], dim=1)
    return found


def _resampled(positions: Tensor, grid: tuple[int, int], *, antialias: bool) -> Tensor:
    """Return `positions` (1, N, D) of a square grid on another `grid` (rows, columns)."""
    side = round(positions.shape[1] ** 0.5)
    if (side, side) == grid:
        return positions
    image = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = interpolate(image, grid, mode="bicubic", align_corners=False, antialias=antialias)
    return image.permute(0, 2, 3, 1).flatten(1, 2)
