"""What every head is: a bag of embeddings in, a slide's logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits ``(B, C)`` and the targets of B bags to the loss of each bag ``(B,)``."""


@dataclass(frozen=True, slots=True)
class MILOutput:
    """What a head says of a batch of bags.

    Attributes
    ----------
    logits
        Shape ``(B, C)``.
    attention
        Shape ``(B, A, N)``, sums to 1 over the real instances of each of A branches; None for a
        head that has none.
    instance_logits
        Shape ``(B, N, C)``, or None.
    aux
        What the head's own loss needs.
    """

    logits: Tensor
    attention: Tensor | None = None
    instance_logits: Tensor | None = None
    aux: dict[str, Any] = field(default_factory=dict)


class MILHead(nn.Module, ABC):
    """A multiple-instance head.

    `permutation_equivariant`: the order of instances changes nothing but the attention's order.
    `has_attention`: the output holds attention.
    """

    permutation_equivariant: ClassVar[bool]
    has_attention: ClassVar[bool]

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.dim = dim
        self.classes = classes

    @abstractmethod
    def forward(
        self,
        bag: Tensor,
        mask: Tensor,
        *,
        coords: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MILOutput:
        """Score bags.

        Parameters
        ----------
        bag
            Embeddings, shape ``(B, N, D)``.
        mask
            bool, shape ``(B, N)``, True for real instances.
        coords
            x0, y0 of the tiles at level 0, shape ``(B, N, 2)``, for heads that use them.
        generator
            Source of randomness, for heads that have any.

        Raises
        ------
        EmptyBagError
            A bag has no real instance.
        """

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the loss of `output`: the mean of the task's `criterion` over bags.

        A head whose paper adds terms of its own adds them here, with the same criterion where
        they are of the same kind.
        """
        return criterion(output.logits, target).mean()
