"""A number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from mil_models.errors import LabelTableError
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task, one_column, refuse


@dataclass(frozen=True)
class Regression(Task):
    """A number, standardised by mean and deviation of the training part; readers' mean."""

    kind: ClassVar[str] = "regression"

    column: str
    loss_name: str = "mse"
    quartiles: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        refuse(asked, cls.kind, loss=(None, "mse", "huber"), balance=("auto", "none"),
               classes=(None,))  # fmt: skip
        task = cls(one_column(columns, cls.kind), asked.loss or "mse")
        values = task.targets(answers)[:, 0].double().numpy()
        if not len(values) or values.min() == values.max():
            raise LabelTableError(f"{task.column}: every slide has the same value")
        return replace(task, quartiles=tuple(np.quantile(values, [0.25, 0.5, 0.75]).tolist()))

    @property
    def logits(self) -> int:
        return 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def outputs(self) -> dict[str, str]:
        return {"predicted": "predicted"}

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([[self._value(answer)] for answer in answers])

    def truth(self, answer: Answer) -> dict[str, str]:
        return {"value": f"{self._value(answer):.6f}"}

    def stratum(self, answer: Answer) -> str:
        """Return the quarter of the table's values that this one is in."""
        return f"quarter {np.searchsorted(self.quartiles, self._value(answer)) + 1}"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        wanted = (target - self.mean) / self.deviation
        measure = F.mse_loss if self.loss_name == "mse" else F.huber_loss
        return measure(logits, wanted.to(logits.dtype), reduction="none")[:, 0]

    def predict(self, logits: Tensor) -> Tensor:
        return logits * self.deviation + self.mean

    def fitted(self, targets: Tensor) -> Self:
        deviation = float(targets.double().std(correction=0))
        if deviation == 0:
            raise LabelTableError(f"{self.column}: a fold's training part has one value only")
        return replace(self, mean=float(targets.double().mean()), deviation=deviation)

    def _value(self, answer: Answer) -> float:
        return sum(reading.number(self.column) for reading in answer) / len(answer)
