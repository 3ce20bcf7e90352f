"""What every task is: columns of the table to targets, logits to a loss and to an answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mil_models.errors import LabelTableError
from mil_models.heads import Criterion
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from tiling.nodes import Json


class Task(ABC):
    """A question put to slides.

    Made from the table by `from_table`, `fitted` to the targets of a training part, and finished
    with the logits that the trained head gives it. `has_classes`: targets are class indices
    ``(B,)``, as heads with a term for each class need. `risk_set`: a bag's loss depends on the
    other bags of a step. `batch`: bags per step, where the user does not say.
    """

    kind: ClassVar[str]
    has_classes: bool = False
    risk_set: bool = False
    batch: int = 1
    balance: str = "none"

    @classmethod
    @abstractmethod
    def from_table(cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions,
                   **more: Any) -> Self:  # fmt: skip
        """Return the task, every answer of the table checked.

        Raises
        ------
        LabelTableError
            An answer is missing or wrong, or there is nothing to learn; the message says which
            slide's.
        """

    @classmethod
    def from_json(cls, settings: Json) -> Self:
        """Return the task that :meth:`to_json` describes."""
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        plain.pop("kind", None)
        return cls(**plain)

    def to_json(self) -> Json:
        """Return the kind and the settings, for the model's card."""
        found = {k: v for k, v in vars(self).items() if v is not None}
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v
                                      for k, v in found.items()}}  # fmt: skip

    @property
    @abstractmethod
    def logits(self) -> int:
        """Numbers that a head is to give."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that hold the answer."""

    @property
    @abstractmethod
    def outputs(self) -> dict[str, str]:
        """Names of the predicted values, in order, and the column of each in a CSV."""

    @property
    def positive(self) -> str:
        """The output that a page of slides is sorted by."""
        return list(self.outputs)[-1]

    @abstractmethod
    def targets(self, answers: Sequence[Answer]) -> Tensor:
        """Return the targets of bags, first axis B."""

    @abstractmethod
    def truth(self, answer: Answer) -> dict[str, str]:
        """Return the columns of the answer as a table of predictions shows them."""

    @abstractmethod
    def stratum(self, answer: Answer) -> str:
        """Return what the folds are to hold in equal shares."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each bag, shape ``(B,)``, from its logits and target."""

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Return the values of :attr:`outputs`, shape ``(B, P)``, from logits ``(B, C)``."""

    def label(self, values: NDArray[np.float64]) -> str:
        """Return the answer in a word, from predicted values ``(P,)``."""
        return f"{values[0]:.4g}"

    def within(self, logits: Tensor, targets: Tensor, position: int) -> Criterion:
        """Return the loss of the bag at `position` of a step with these (detached) `logits`."""
        return self.loss

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        """Return the loss of a set of bags, to stop by; NaN where it says nothing."""
        return float(self.loss(logits, targets).mean())

    def fitted(self, targets: Tensor) -> Self:
        """Return the task with what it takes from the targets of a training part."""
        return self

    def finished(self, logits: Tensor, targets: Tensor) -> Self:
        """Return the task with what it takes from the logits of the training part."""
        return self

    def pack(self, targets: Tensor) -> Tensor:
        """Return targets as floats, shape ``(B, T)``, so that several tasks' fit in one tensor."""
        return targets.reshape(len(targets), -1).float()

    def unpack(self, packed: Tensor) -> Tensor:
        """Undo :meth:`pack`."""
        return packed


def one_column(columns: Sequence[str], kind: str) -> str:
    """Return the only column.

    Raises
    ------
    LabelTableError
        There are several.
    """
    if len(columns) != 1:
        raise LabelTableError(f"{kind} takes one column, not {', '.join(columns)}")
    return columns[0]


def refuse(asked: TaskOptions, kind: str, **allowed: Sequence[str | None]) -> None:
    """Make sure that options have values that a task knows.

    Raises
    ------
    ValueError
        One has not.
    """
    for name, values in allowed.items():
        if getattr(asked, name) not in values:
            known = ", ".join(str(v) for v in values if v is not None)
            raise ValueError(
                f"{name}={getattr(asked, name)!r}: {kind} takes {known or 'no such option'}"
            )


def class_counts(values: Mapping[str, int]) -> str:
    """Return counts in words, e.g. ``"A: 3, B: 0"``."""
    return ", ".join(f"{name}: {count}" for name, count in values.items())
