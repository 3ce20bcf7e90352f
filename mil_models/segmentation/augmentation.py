"""What is varied of a training tile: how it lies, and how strongly it is stained."""

from __future__ import annotations

import torch
from torch import Tensor

STAIN_SPREAD = 0.15
"""Optical density of each colour is multiplied by 1 less to 1 more than this."""


def augment(pixels: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return tiles turned and mirrored at random, stain varied, and their masks alike.

    Parameters
    ----------
    pixels
        RGB (B, 3, H, W), 0 to 1; H = W.
    masks
        (B, H, W).
    generator
        On the CPU; the same generator gives the same.
    """
    found = [
        (_turned(one, turn), _turned(mask, turn))
        for one, mask, turn in zip(
            pixels, masks, torch.randint(8, (len(pixels),), generator=generator).tolist(),
            strict=True,
        )
    ]  # fmt: skip
    strength = 1 + STAIN_SPREAD * (2 * torch.rand(len(pixels), 3, 1, 1, generator=generator) - 1)
    turned = torch.stack([one for one, _ in found])
    # Light falls off as exp(-density): a power of the transmitted share.
    stained = turned.clamp_min(1 / 255) ** strength.to(turned.device)
    return stained, torch.stack([mask for _, mask in found])


def _turned(picture: Tensor, turn: int) -> Tensor:
    """Return one of the eight ways in which a square (..., H, W) can lie."""
    turned = torch.rot90(picture, turn % 4, (-2, -1))
    return turned.flip(-1) if turn >= 4 else turned
