"""Several findings at once, each present, absent, uncertain or not known."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models import losses
from mil_models.errors import LabelTableError
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task, refuse

PREFIX = "label_"
VALUES = {"1": 1.0, "0": 0.0, "-1": -1.0, "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0}
SOFT_LOW, SOFT_HIGH = 0.55, 0.85


@dataclass(frozen=True)
class Multilabel(Task):
    """Each label by itself: 1, 0, -1 for uncertain, empty for not known.

    What -1 means is CheXpert's question: left out of the loss, 0, 1, or ("soft") a number between
    0.55 and 0.85 that depends on slide and label alone.

    References
    ----------
    Irvin et al. 2019, arXiv:1901.07031, section 3 (ignore, zeros, ones); Pham et al. 2021,
    arXiv:1911.06475, section 3.2 (uncertain as 1, smoothed to U(0.55, 0.85)).
    """

    kind: ClassVar[str] = "multilabel"

    label_columns: tuple[str, ...]
    names: tuple[str, ...]
    uncertain: str = "ignore"
    balance: str = "weights"
    soft: bool = False
    weights: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        refuse(asked, cls.kind, loss=(None,), classes=(None,),
               balance=("auto", "weights", "none"))  # fmt: skip
        names = tuple(c.removeprefix(more.get("prefix", PREFIX)) for c in columns)
        balance = "weights" if asked.balance == "auto" else asked.balance
        task = cls(tuple(columns), names, asked.uncertain, balance, asked.consensus == "soft")
        said = task._said(answers)
        for column, values in zip(columns, said.T, strict=True):
            if not {0.0, 1.0} <= set(values[np.isfinite(values)].tolist()):
                raise LabelTableError(
                    f"{column}: training needs slides with 0 and slides with 1; leave it out with "
                    "--columns"
                )
        return task

    @classmethod
    def from_json(cls, settings: dict[str, Any]) -> Self:
        task = super().from_json(settings)
        if task.weights is None:
            return task
        return replace(task, weights=tuple(tuple(row) for row in task.weights))

    @property
    def logits(self) -> int:
        return len(self.names)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.label_columns

    @property
    def outputs(self) -> dict[str, str]:
        return {name: f"score_{name}" for name in self.names}

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        said = self._said(answers)
        unsure = said == -1
        if self.uncertain == "soft":
            said[unsure] = [
                _soft(answers[row][0].slide, self.names[column])
                for row, column in np.argwhere(unsure)
            ]
        else:
            said[unsure] = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[self.uncertain]
        return torch.from_numpy(said).float()

    def truth(self, answer: Answer) -> dict[str, str]:
        said = self._said([answer])[0]  # a table says 0, 1 or -1 also where readers differ
        said = np.where(said == 0.5, -1, np.round(said))
        return {
            f"{PREFIX}{name}": "" if np.isnan(value) else f"{value:g}"
            for name, value in zip(self.names, said, strict=True)
        }

    def stratum(self, answer: Answer) -> str:
        """Return how many labels are present: what single labels have in common."""
        return str(int((self._said([answer])[0] > 0.5).sum()))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        weights = None
        if self.weights is not None:
            weights = torch.tensor(self.weights, device=logits.device)
        return losses.binary_cross_entropy(logits, target, weights)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def label(self, values: NDArray[np.float64]) -> str:
        found = [n for n, v in zip(self.names, values, strict=True) if v > 0.5]
        return " + ".join(found) or "none"

    def fitted(self, targets: Tensor) -> Self:
        known = torch.isfinite(targets)
        positive = torch.where(known, targets, torch.zeros_like(targets)).sum(0)
        counts = torch.stack([known.sum(0) - positive, positive])  # (2, L)
        if float(counts.min()) <= 0:
            lacking = self.names[int((counts.min(0).values <= 0).nonzero()[0])]
            raise LabelTableError(
                f"a fold's training part has only 0 or only 1 for {lacking}; fewer folds, or leave "
                "the label out with --columns"
            )
        if self.balance != "weights":
            return self
        weights = counts.sum(0) / (2 * counts)
        return replace(self, weights=tuple(tuple(row) for row in weights.tolist()))

    def _said(self, answers: Sequence[Answer]) -> NDArray[np.float64]:
        """Return 1, 0, -1 and NaN, shape ``(B, L)``; between 0 and 1 where readers differ."""
        return np.array([[self._agreed(answer, c) for c in self.label_columns]
                         for answer in answers])  # fmt: skip

    def _agreed(self, answer: Answer, column: str) -> float:
        votes = []
        for reading in answer:
            text = reading.known(column)
            if text is not None and text not in VALUES:
                raise reading.error(f"{column} is {text!r}; use 1, 0, -1 (uncertain) or nothing")
            if text is not None:
                votes.append(VALUES[text])
        sure = [vote for vote in votes if vote >= 0]
        if not sure:
            return -1.0 if votes else np.nan
        share = sum(sure) / len(sure)
        if self.soft:
            return share
        return -1.0 if share == 0.5 else float(share > 0.5)


def _soft(slide: str, label: str) -> float:
    """Return a number between 0.55 and 0.85 that slide and label alone decide."""
    digest = hashlib.sha256(f"{slide}\0{label}".encode()).digest()
    return SOFT_LOW + (SOFT_HIGH - SOFT_LOW) * int.from_bytes(digest[:4], "big") / 2**32
