"""Grades in an order, such as ISUP's: to be off by one is better than to be off by three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models import losses
from mil_models.errors import LabelTableError
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task, one_column, refuse
from mil_models.tasks.classes import class_names


@dataclass(frozen=True)
class Ordinal(Task):
    """A grade by CORN: a logit for each step up, given that the grade below was reached.

    The grade predicted is the number of steps whose probability is above a half; several readers
    agree on their (upper) median.

    References
    ----------
    Shi, Cao, Raschka 2021, arXiv:2111.08851.
    """

    kind: ClassVar[str] = "ordinal"

    column: str
    classes: tuple[str, ...]
    balance: str = "none"

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        refuse(asked, cls.kind, loss=(None,), balance=("auto", "none", "sampling"),
               consensus=("majority",))  # fmt: skip
        column = one_column(columns, cls.kind)
        balance = "none" if asked.balance == "auto" else asked.balance
        task = cls(column, class_names(answers, column, asked), balance)
        task.targets(answers)
        return task

    @property
    def logits(self) -> int:
        return len(self.classes) - 1

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def outputs(self) -> dict[str, str]:
        return {name: f"score_{name}" for name in self.classes}

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([self._grade(answer) for answer in answers])

    def truth(self, answer: Answer) -> dict[str, str]:
        return {"label": self.classes[self._grade(answer)]}

    def stratum(self, answer: Answer) -> str:
        return self.classes[self._grade(answer)]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return losses.corn(logits, target)

    def predict(self, logits: Tensor) -> Tensor:
        return losses.corn_probabilities(logits)

    def label(self, values: NDArray[np.float64]) -> str:
        above = 1 - np.cumsum(values)[:-1]
        return self.classes[int((above > 0.5).sum())]

    def fitted(self, targets: Tensor) -> Self:
        counts = torch.bincount(targets, minlength=len(self.classes))
        if int(counts.min()) == 0:
            lacking = self.classes[int(counts.argmin())]
            raise LabelTableError(f"a fold's training part lacks grade {lacking}")
        return self

    def unpack(self, packed: Tensor) -> Tensor:
        return packed[:, 0].long()

    def _grade(self, answer: Answer) -> int:
        grades = []
        for reading in answer:
            text = reading.text(self.column)
            if text not in self.classes:
                raise reading.error(
                    f"{self.column} is {text!r}, none of the grades {', '.join(self.classes)}"
                )
            grades.append(self.classes.index(text))
        return sorted(grades)[len(grades) // 2]
