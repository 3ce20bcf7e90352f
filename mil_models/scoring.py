"""Score a bag by a head, always in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor

from mil_models.bags import Bag
from mil_models.heads import MILHead, MILOutput


@torch.inference_mode()
def bag_output(head: MILHead, bag: Bag) -> MILOutput:
    """Return what a head says of one bag, a batch of one, in evaluation mode."""
    was_training = head.training
    head.eval()
    values, coords = bag.values.unsqueeze(0), bag.coords.unsqueeze(0)
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    output: MILOutput = head(values, mask, coords=coords)
    head.train(was_training)
    return output


def score_bag(head: MILHead, bag: Bag) -> tuple[Tensor, Tensor | None]:
    """Return logits ``(C,)`` and attention ``(A, N)`` of a bag, in evaluation mode, float32."""
    output = bag_output(head, bag)
    attention = None if output.attention is None else output.attention[0]
    return output.logits[0], attention
