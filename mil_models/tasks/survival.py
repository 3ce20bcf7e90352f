"""Time to an event that some slides' patients never had while they were watched."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models import losses
from mil_models.errors import LabelTableError
from mil_models.heads import Criterion
from mil_models.options import TaskOptions
from mil_models.readings import Answer
from mil_models.tasks.base import Task, refuse

EVENTS = {"1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "true": 1.0, "false": 0.0}
COX_BATCH = 32


class Survival(Task):
    """What Cox and discrete survival share: columns, targets ``(B, 2)`` of time and event."""

    kind: ClassVar[str] = "survival"
    time: str
    event: str
    times: tuple[float, ...]

    @classmethod
    def from_table(
        cls, answers: Sequence[Answer], columns: Sequence[str], asked: TaskOptions, **more: Any
    ) -> Self:
        refuse(asked, cls.kind, loss=(None,), balance=("auto", "none"), classes=(None,),
               consensus=("majority",))  # fmt: skip
        if len(columns) != 2:
            raise LabelTableError(
                f"survival takes two columns, time and event, not {', '.join(columns)}"
            )
        task = cls._plain(columns[0], columns[1], asked)
        seen = task.targets(answers)
        if not bool((seen[:, 1] == 1).any()):
            raise LabelTableError(
                f"{task.event}: is 0 for every slide; survival is learned from events"
            )
        if asked.times is None:
            quartiles = np.quantile(seen[:, 0].double().numpy(), [0.25, 0.5, 0.75])
            task = task._with(times=tuple(float(f"{t:.4g}") for t in sorted(set(quartiles))))
        return task

    @classmethod
    @abstractmethod
    def _plain(cls, time: str, event: str, asked: TaskOptions) -> Self: ...

    @abstractmethod
    def _with(self, **changes: Any) -> Self: ...

    @property
    def columns(self) -> tuple[str, ...]:
        return self.time, self.event

    @property
    def outputs(self) -> dict[str, str]:
        names = ["risk", *(f"survival_{time:g}" for time in self.times)]
        return {name: name for name in names}

    @property
    def positive(self) -> str:
        return "risk"

    def targets(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([self._seen(answer) for answer in answers], dtype=torch.float32)

    def truth(self, answer: Answer) -> dict[str, str]:
        time, event = self._seen(answer)
        return {"time": f"{time:.6f}", "event": f"{event:.0f}"}

    def stratum(self, answer: Answer) -> str:
        return f"event {self._seen(answer)[1]:.0f}"

    def label(self, values: NDArray[np.float64]) -> str:
        return f"risk {values[0]:+.2f}"

    def fitted(self, targets: Tensor) -> Self:
        if not bool((targets[:, 1] == 1).any()):
            raise LabelTableError(f"{self.event}: a fold's training part has no event")
        return self

    def _seen(self, answer: Answer) -> tuple[float, float]:
        if len(answer) > 1:
            raise answer[1].error("survival takes one row a slide, not several readers")
        [reading] = answer
        time, text = reading.number(self.time), reading.text(self.event).lower()
        if time <= 0:
            raise reading.error(f"{self.time} is {time:g}; must be positive")
        if text not in EVENTS:
            raise reading.error(f"{self.event} is {text!r}; use 1 (seen) or 0 (censored)")
        return time, EVENTS[text]


@dataclass(frozen=True)
class Cox(Survival):
    """Proportional hazards: one logit, the logarithm of a bag's hazard ratio.

    The partial likelihood compares the bags of a step (32 by default): each bag's gradient is
    taken with the others' logits held, so that the memory is that of one bag and the sum is the
    gradient of the whole. Probabilities come from Breslow's estimate of the baseline hazard in the
    training part; the risk is relative to that part's mean.

    References
    ----------
    Katzman et al. 2018, arXiv:1606.00931 (a network in Cox's likelihood); Breslow 1972.
    """

    risk_set: ClassVar[bool] = True  # type: ignore[misc]
    batch: ClassVar[int] = COX_BATCH  # type: ignore[misc]

    time: str
    event: str
    times: tuple[float, ...] = ()
    centre: float = 0.0
    baseline: tuple[float, ...] | None = None
    survival: str = "cox"

    @classmethod
    def _plain(cls, time: str, event: str, asked: TaskOptions) -> Self:
        return cls(time, event, asked.times or ())

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)

    @property
    def logits(self) -> int:
        return 1

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        whole = losses.cox(logits[:, 0], target[:, 0], target[:, 1] == 1)
        return whole.expand(len(logits))

    def within(self, logits: Tensor, targets: Tensor, position: int) -> Criterion:
        held = logits.float()

        def in_place(own: Tensor) -> Tensor:
            mixed = torch.cat([held[:position], own, held[position + 1 :]])
            loss = self.loss(mixed, targets)[:1]
            # The mean over bags is to have the gradient of the whole, which is the sum of theirs.
            return loss.detach() + len(logits) * (loss - loss.detach())

        def criterion(own: Tensor, target: Tensor) -> Tensor:
            """Put each of the logits, one or those of parts of the bag, in the bag's place."""
            return torch.cat([in_place(row) for row in torch.split(own.float(), 1)])

        return criterion

    def mean_loss(self, logits: Tensor, targets: Tensor) -> float:
        if not bool((targets[:, 1] == 1).any()):
            return float("nan")
        return super().mean_loss(logits, targets)

    def finished(self, logits: Tensor, targets: Tensor) -> Self:
        risk = logits[:, 0].double().numpy()
        seen = targets.double().numpy()
        centre = float(risk.mean())
        hazard = cumulative_hazard(risk - centre, seen[:, 0], seen[:, 1] == 1, self.times)
        return replace(self, centre=centre, baseline=tuple(hazard.tolist()))

    def predict(self, logits: Tensor) -> Tensor:
        risk = logits - self.centre
        if self.baseline is None:
            return torch.cat([risk, torch.full((len(risk), len(self.times)), torch.nan)], dim=1)
        hazard = torch.tensor(self.baseline, dtype=risk.dtype, device=risk.device)
        return torch.cat([risk, (-hazard * risk.exp()).exp()], dim=1)


@dataclass(frozen=True)
class DiscreteSurvival(Survival):
    """A hazard for each interval of time; no hazards need to be proportional.

    The intervals hold equal shares of the training part's events. Censored bags count as having
    survived the intervals they were watched for more than half of. The risk is the expected number
    of events over all intervals: the sum of the hazards.

    References
    ----------
    Gensheimer and Narasimhan 2019, doi:10.7717/peerj.6257.
    """

    time: str
    event: str
    times: tuple[float, ...] = ()
    bins: int = 6
    edges: tuple[float, ...] = ()
    survival: str = "discrete"

    @classmethod
    def _plain(cls, time: str, event: str, asked: TaskOptions) -> Self:
        return cls(time, event, asked.times or (), asked.bins)

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)

    @property
    def logits(self) -> int:
        return self.bins

    def fitted(self, targets: Tensor) -> Self:
        task = super().fitted(targets)
        time = targets[:, 0].double().numpy()
        edges = interval_edges(time, targets[:, 1].numpy() == 1, self.bins)
        return replace(task, edges=tuple(edges.tolist()))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        edges = torch.tensor(self.edges, dtype=target.dtype, device=target.device)
        event = target[:, 1] == 1
        # An event at an edge belongs to the interval that ends there.
        with_event = torch.searchsorted(edges[1:-1].contiguous(), target[:, 0].contiguous())
        censored = torch.searchsorted(
            ((edges[1:] + edges[:-1]) / 2).contiguous(), target[:, 0].contiguous(), right=True
        )
        return losses.discrete_hazard(logits, torch.where(event, with_event, censored), event)

    def predict(self, logits: Tensor) -> Tensor:
        hazard = logits.sigmoid()
        survived = torch.cat([torch.ones_like(hazard[:, :1]), (1 - hazard).cumprod(dim=1)], dim=1)
        curves = survived.detach().double().cpu().numpy()
        at = [np.interp(self.times, self.edges, curve) for curve in curves]
        risk = hazard.sum(dim=1, keepdim=True).cpu()
        points = torch.from_numpy(np.array(at).reshape(len(curves), len(self.times)))
        return torch.cat([risk, points.to(risk.dtype)], dim=1)


def cumulative_hazard(
    risk: NDArray[np.float64],
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    times: Sequence[float],
) -> NDArray[np.float64]:
    """Return Breslow's cumulative baseline hazard at `times`.

    Examples
    --------
    Without covariates it is Nelson and Aalen's: 1/3, then 1/3 + 1/2, then no event.

    >>> seen = np.array([True, True, False])
    >>> cumulative_hazard(np.zeros(3), np.array([1.0, 2.0, 3.0]), seen, [1, 2, 9]).round(4).tolist()
    [0.3333, 0.8333, 0.8333]
    """
    moments = np.unique(time[event])
    at_risk = np.array([np.exp(risk[time >= moment]).sum() for moment in moments])
    failed = np.array([(time[event] == moment).sum() for moment in moments])
    steps = np.concatenate([[0.0], np.cumsum(failed / at_risk)])
    return np.asarray(steps[np.searchsorted(moments, times, side="right")], np.float64)


def interval_edges(
    time: NDArray[np.float64], event: NDArray[np.bool_], bins: int
) -> NDArray[np.float64]:
    """Return ``bins + 1`` ascending edges, from 0, that share the events out equally.

    Where events tie, the interval between is cut evenly, so that there are always so many.

    Examples
    --------
    >>> interval_edges(np.array([1.0, 2, 3, 4, 9]), np.array([1, 1, 1, 1, 0]) == 1, 2).tolist()
    [0.0, 2.5, 9.0]
    """
    inner = np.quantile(time[event], np.arange(1, bins) / bins)
    edges = np.unique(np.concatenate([[0.0], inner, [time.max()]]))
    while len(edges) < bins + 1:
        widest = int(np.diff(edges).argmax())
        edges = np.insert(edges, widest + 1, (edges[widest] + edges[widest + 1]) / 2)
    return edges
