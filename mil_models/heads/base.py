"""What every head is: a bag of embeddings in, a slide's logits out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

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
        Shape ``(B, A, N)``, sums to 1 over the real instances of each of A branches: the classes
        where the head says `attention_of_classes`, else one. None for a head that has none, and
        in training where the loss has no use for it and it costs.
    instance_logits
        What each instance says of each class, shape ``(B, N, C)``; None for a head that does not
        score instances. Padding holds anything.
    aux
        What the head's own loss needs.
    """

    logits: Tensor
    attention: Tensor | None = None
    instance_logits: Tensor | None = None
    aux: dict[str, Any] = field(default_factory=dict)


class MILHead(nn.Module, ABC):
    """A multiple-instance head.

    Attributes
    ----------
    permutation_equivariant
        The order of instances (with their coordinates) changes nothing but the attention's order.
    has_attention
        The output holds attention.
    attention_of_classes
        Attention has one branch for each class, in their order; otherwise it has one branch.
    needs_classes
        The loss has a term that takes class indices as targets.
    needs_coords
        It refuses bags without the tiles' coordinates.
    instance_logits_are
        What the output's instance logits mean, "" where it has none: scores (logits of a tile by
        itself, as the slide's), evidence (how much more a tile speaks for a class than against
        it, learned within slides of that class alone), contributions (they add up to the slide's).
    """

    permutation_equivariant: ClassVar[bool]
    has_attention: ClassVar[bool]
    attention_of_classes: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    needs_coords: ClassVar[bool] = False
    instance_logits_are: ClassVar[Literal["", "scores", "evidence", "contributions"]] = ""

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
            Source of all randomness in training: dropout, masking, pseudo-bags. In evaluation
            there is none.

        Raises
        ------
        EmptyBagError
            A bag has no real instance.
        MissingCoordsError
            The head needs coordinates and has none.
        """

    def loss(self, output: MILOutput, target: Tensor, criterion: Criterion) -> Tensor:
        """Return the loss of `output`: the mean of the task's `criterion` over bags.

        A head whose paper adds terms of its own adds them here, with the same criterion where
        they are of the same kind.
        """
        return criterion(output.logits, target).mean()
