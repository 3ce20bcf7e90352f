"""Several questions at once, each with an answer for some of the slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models.errors import LabelTableError
from mil_models.heads import Criterion
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task
from tiling.nodes import Json


@dataclass(frozen=True)
class Several(Task):
    """Tasks by name; the loss is their weighted sum, 0 where an answer is missing.

    Targets are all tasks' side by side, NaN where missing, shape ``(B, sum of T)``.
    """

    kind: ClassVar[str] = "several"

    tasks: dict[str, Task]
    shares: dict[str, float]

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        """Return the tasks in `more`: functions from the known answers to a task, by name."""
        made: dict[str, Callable[[Sequence[Answer]], Task]] = more["tasks"]
        wanted: dict[str, tuple[str, ...]] = more["columns_of"]
        tasks = {}
        for name, make in made.items():
            known = [a for a in answers if is_known(a, wanted[name])]
            try:
                tasks[name] = make(known)
            except LabelTableError as err:
                raise LabelTableError(f"task {name}: {err}") from err
        task = cls(tasks, more["shares"])
        for answer in answers:
            if not any(is_known(answer, t.columns) for t in tasks.values()):
                raise answer[0].error(f"no answer to any of {', '.join(tasks)}")
        return task

    @classmethod
    def from_json(cls, settings: Json) -> Self:
        from mil_models.tasks import task_from_json  # the registry knows this module

        tasks = {name: task_from_json(one) for name, one in settings["tasks"].items()}
        return cls(tasks, dict(settings["shares"]))

    def to_json(self) -> Json:
        tasks = {name: task.to_json() for name, task in self.tasks.items()}
        return {"kind": self.kind, "tasks": tasks, "shares": dict(self.shares)}

    @property
    def risk_set(self) -> bool:  # type: ignore[override]
        """Whether one task's loss compares bags."""
        return any(task.risk_set for task in self.tasks.values())

    @property
    def batch(self) -> int:  # type: ignore[override]
        """The largest any task wants."""
        return max(task.batch for task in self.tasks.values())

    @property
    def logits(self) -> int:
        return sum(task.logits for task in self.tasks.values())

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for task in self.tasks.values() for column in task.columns)

    @property
    def outputs(self) -> dict[str, str]:
        return {
            f"{name}.{output}": f"{name}.{column}"
            for name, task in self.tasks.items()
            for output, column in task.outputs.items()
        }

    @property
    def positive(self) -> str:
        name, task = next(iter(self.tasks.items()))
        return f"{name}.{task.positive}"

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        parts = []
        for task in self.tasks.values():
            known = torch.tensor([is_known(answer, task.columns) for answer in answers])
            packed = task.pack(
                task.targets([a for a, k in zip(answers, known, strict=True) if k])
            )  # fmt: skip
            width = packed.shape[1] if len(packed) else self._width(task)
            part = torch.full((len(answers), width), torch.nan)
            part[known] = packed.reshape(-1, width)
            parts.append(part)
        return torch.cat(parts, dim=1)

    def truth(self, answer: Answer) -> dict[str, str]:
        return {
            f"{name}.{column}": value
            for name, task in self.tasks.items()
            if is_known(answer, task.columns)
            for column, value in task.truth(answer).items()
        }

    def stratum(self, answer: Answer) -> str:
        """Return the stratum of the first task that has an answer for this bag."""
        for name, task in self.tasks.items():
            if is_known(answer, task.columns):
                return f"{name} {task.stratum(answer)}"
        return "none"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        total = logits.sum(dim=1) * 0
        for name, task, own, packed in self._parts(logits, target):
            known = _known_rows(packed)
            if bool(known.any()):
                loss = task.loss(own[known], task.unpack(packed[known]))
                total = total.index_put((known,), total[known] + self.shares[name] * loss)
        return total

    def within(self, logits: Tensor, targets: Tensor, position: int) -> Criterion:
        def criterion(own: Tensor, target: Tensor) -> Tensor:
            total = own.sum(dim=1) * 0
            pairs = zip(self._parts(own, target), self._parts(logits, targets), strict=True)
            for (name, task, mine, packed), (_, _, held, all_packed) in pairs:
                if not bool(_known_rows(packed).all()):
                    continue
                known = _known_rows(all_packed)
                inner = task.within(
                    held[known], task.unpack(all_packed[known]), int(known[:position].sum())
                )
                loss = inner(mine, task.unpack(packed))
                if task.risk_set:  # its gradient is a share of the bags that have this answer
                    scale = len(known) / int(known.sum())
                    loss = loss.detach() + scale * (loss - loss.detach())
                total = total + self.shares[name] * loss
            return total

        return criterion if self.risk_set else self.loss

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        found = []
        for name, task, own, packed in self._parts(logits, targets):
            known = _known_rows(packed)
            if bool(known.any()):
                loss = task.mean_loss(own[known], task.unpack(packed[known]))
                found.append(self.shares[name] * loss)
        sure = [loss for loss in found if np.isfinite(loss)]
        return float(sum(sure)) if sure else float("nan")

    def predict(self, logits: Tensor) -> Tensor:
        parts = self._split(logits, [task.logits for task in self.tasks.values()])
        found = [t.predict(part) for t, part in zip(self.tasks.values(), parts, strict=True)]
        return torch.cat([part.cpu().float() for part in found], dim=1)

    def label(self, values: NDArray[np.float64]) -> str:
        texts, start = [], 0
        for name, task in self.tasks.items():
            end = start + len(task.outputs)
            texts.append(f"{name} {task.label(values[start:end])}")
            start = end
        return " · ".join(texts)

    def fitted(self, targets: Tensor) -> Self:
        return self._each(lambda task, packed, _: task.fitted(task.unpack(packed)), targets)

    def finished(self, logits: Tensor, targets: Tensor) -> Self:
        return self._each(
            lambda task, packed, own: task.finished(own, task.unpack(packed)), targets, logits
        )

    def _each(
        self,
        change: Callable[[Task, Tensor, Tensor], Task],
        targets: Tensor,
        logits: Tensor | None = None,
    ) -> Self:
        tasks = {}
        given = torch.zeros(len(targets), self.logits) if logits is None else logits
        for name, task, own, packed in self._parts(given, targets):
            known = _known_rows(packed)
            try:
                tasks[name] = change(task, packed[known], own[known])
            except LabelTableError as err:
                raise LabelTableError(f"task {name}: {err}") from err
        return replace(self, tasks=tasks)

    def _parts(self, logits: Tensor, targets: Tensor) -> list[tuple[str, Task, Tensor, Tensor]]:
        own = self._split(logits, [task.logits for task in self.tasks.values()])
        packed = self._split(targets, [self._width(task) for task in self.tasks.values()])
        return [
            (name, task, own[number], packed[number])
            for number, (name, task) in enumerate(self.tasks.items())
        ]

    @staticmethod
    def _split(values: Tensor, widths: Sequence[int]) -> list[Tensor]:
        return list(torch.split(values, list(widths), dim=1))

    @staticmethod
    def _width(task: Task) -> int:
        """Return how many numbers a target of `task` packs into."""
        return {"multilabel": task.logits, "survival": 2}.get(
            task.kind, task.logits if getattr(task, "soft", False) else 1
        )


def is_known(answer: Answer, columns: Sequence[str]) -> bool:
    """Whether any of the columns holds something in any of the readings."""
    return any(reading.known(column) is not None for reading in answer for column in columns)


def _known_rows(packed: Tensor) -> Tensor:
    return torch.isfinite(packed).any(dim=1)
