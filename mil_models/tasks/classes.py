"""One of two classes, or one of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models import losses
from mil_models.errors import LabelTableError
from mil_models.options import TaskOptions
from mil_models.readings import Answer, majority, natural_order
from mil_models.tasks.base import Task, one_column, refuse

LOSSES = {
    "cross-entropy": losses.cross_entropy,
    "focal": losses.focal,
    "gce": losses.generalized_cross_entropy,
    "sce": losses.symmetric_cross_entropy,
}


@dataclass(frozen=True)
class Multiclass(Task):
    """One of several classes.

    With `soft` the target is the share of readers that chose each class.
    """

    kind: ClassVar[str] = "multiclass"

    column: str
    classes: tuple[str, ...]
    loss_name: str = "cross-entropy"
    balance: str = "weights"
    soft: bool = False
    weights: tuple[float, ...] | None = None

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        refuse(asked, cls.kind, loss=(None, *LOSSES))
        column = one_column(columns, cls.kind)
        classes = class_names(answers, column, asked)
        if cls.kind == "binary" and len(classes) > 2:
            readings = [reading for answer in answers for reading in answer]
            count = Counter(reading.text(column) for reading in readings)
            rarest = min(readings, key=lambda reading: count[reading.text(column)])
            raise rarest.error(
                f"{column} is {rarest.text(column)!r}, one of {len(classes)} classes "
                f"({', '.join(classes)}); correct the table, or use --task multiclass"
            )
        balance = "weights" if asked.balance == "auto" else asked.balance
        task = cls(column, classes, asked.loss or "cross-entropy", balance,
                   asked.consensus == "soft")  # fmt: skip
        task.targets(answers)
        return task

    @property
    def has_classes(self) -> bool:  # type: ignore[override]
        """Soft labels are no indices."""
        return not self.soft

    @property
    def logits(self) -> int:
        return len(self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def outputs(self) -> dict[str, str]:
        return {name: f"score_{name}" for name in self.classes}

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        if not self.soft:
            return torch.tensor([self.classes.index(self._agreed(a)) for a in answers])
        rows = [[Counter(self._votes(a))[c] / len(a) for c in self.classes] for a in answers]
        return torch.tensor(rows, dtype=torch.float32)

    def truth(self, answer: Answer) -> dict[str, str]:
        return {"label": self._agreed(answer)}

    def stratum(self, answer: Answer) -> str:
        return self._agreed(answer)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.loss_name](
            logits, target, class_weights=self._tensor_on(logits.device)
        )  # fmt: skip

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        if self.weights is None:
            return super().mean_loss(logits, targets)
        weights = torch.tensor(self.weights, device=logits.device)
        shares = targets @ weights if targets.is_floating_point() else weights[targets]
        return float(self.loss(logits, targets).sum() / shares.sum())

    def predict(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def label(self, values: NDArray[np.float64]) -> str:
        return self.classes[int(values.argmax())]

    def fitted(self, targets: Tensor) -> Self:
        """Return the task with weights that make every class count the same."""
        counts = targets.sum(0) if self.soft else torch.bincount(targets, minlength=self.logits)
        if float(counts.min()) == 0:
            shown = ", ".join(f"{c}: {n:g}" for c, n in zip(self.classes, counts, strict=True))
            raise LabelTableError(f"a fold's training part lacks a class ({shown} slides)")
        if self.balance != "weights":
            return self
        weights = len(targets) / (self.logits * counts.float())  # a mean of 1 over the slides
        return replace(self, weights=tuple(weights.tolist()))

    def unpack(self, packed: Tensor) -> Tensor:
        return packed if self.soft else packed[:, 0].long()

    def _votes(self, answer: Answer) -> list[str]:
        votes = [reading.text(self.column) for reading in answer]
        for reading, vote in zip(answer, votes, strict=True):
            if vote not in self.classes:
                raise reading.error(
                    f"{self.column} is {vote!r}, none of the classes {', '.join(self.classes)}"
                )
        return votes

    def _agreed(self, answer: Answer) -> str:
        votes = self._votes(answer)
        if not self.soft:
            return majority(answer, votes)
        # A tie has no winner; the table shows the class that stands later in the order.
        return max(self.classes[::-1], key=votes.count)

    @cached_property
    def _weights(self) -> Tensor | None:
        return None if self.weights is None else torch.tensor(self.weights)

    def _tensor_on(self, device: torch.device) -> Tensor | None:
        return None if self._weights is None else self._weights.to(device)

    def to_json(self) -> dict[str, Any]:
        found = super().to_json()
        found.pop("_weights", None)
        return found


@dataclass(frozen=True)
class Binary(Multiclass):
    """One of two classes; the last is the positive one."""

    kind: ClassVar[str] = "binary"


def class_names(answers: Sequence[Answer], column: str, asked: TaskOptions) -> tuple[str, ...]:
    """Return the classes: those asked for, or those of the table in natural order.

    Raises
    ------
    LabelTableError
        There are fewer than two in the table, or one that was asked for is in no row.
    """
    found = natural_order([reading.text(column) for answer in answers for reading in answer])
    if len(found) < 2:
        raise LabelTableError(
            f"{column}: one class only ({', '.join(found) or 'no slide'}); training needs two"
        )
    if asked.classes is None:
        return tuple(found)
    absent = [name for name in asked.classes if name not in found]
    if absent or len(set(asked.classes)) < len(asked.classes):
        raise LabelTableError(
            f"{column}: of the classes {', '.join(asked.classes)}, "
            + (f"no slide has {', '.join(absent)}" if absent else "one is named twice")
        )
    return tuple(asked.classes)
