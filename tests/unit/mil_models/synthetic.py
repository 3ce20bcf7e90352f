"""Bags whose truth is known, and a head trained on them without stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mil_models.bags import Bag, BagCache
from mil_models.heads import create_head
from mil_models.labels import LabelledSlide
from mil_models.loop import Lesson, create_fabric, score_slides, train_head
from mil_models.options import TaskOptions, TrainOptions
from mil_models.readings import Reading
from mil_models.splits import Split
from mil_models.tasks import Task, create_task
from tiling.store import SlideStore

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoStore:
    """What stands in for a store: its name."""

    slide_id: str


class MemoryBags(BagCache):
    """Bags that are in memory already."""

    def __init__(self, bags: Mapping[str, Array]) -> None:
        super().__init__()
        for name, values in bags.items():
            instances = torch.from_numpy(values).float()
            self._bags[name] = Bag(instances, torch.zeros(len(values), 2, dtype=torch.int64))


def reading(slide: str = "s", line: int = 2, **values: str) -> Reading:
    return Reading(f"labels.csv, line {line}", slide, values)


def answers_of(rows: Sequence[Mapping[str, str]]) -> list[tuple[Reading, ...]]:
    return [(reading(f"s{i}", i + 2, **row),) for i, row in enumerate(rows)]


def task_of(name: str, rows: Sequence[Mapping[str, str]], **asked: Any) -> Task:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return create_task(name, answers_of(rows), columns, TaskOptions(**asked))


@dataclass(frozen=True)
class Tested:
    """What a head said of the slides it did not see, and which these are."""

    task: Task
    values: Array
    indices: list[int]


def learn(
    task: Task,
    rows: Sequence[Mapping[str, str]],
    bags: Sequence[Array],
    *,
    head: str = "mean",
    arguments: Mapping[str, Any] | None = None,
    fold: int = 0,
    folds: int = 3,
    **options: Any,
) -> Tested:
    """Train on all but every third slide (or another fold), a sixth of them to stop by."""
    answers = answers_of(rows)
    slides = [
        LabelledSlide(cast(SlideStore, NoStore(f"s{i}")), "", f"p{i}", readings=a,
                      group=task.stratum(a))
        for i, a in enumerate(answers)
    ]  # fmt: skip
    everyone = np.arange(len(slides))
    test = everyone[everyone % folds == fold]
    rest = everyone[everyone % folds != fold]
    split = Split("fold", tuple(rest[rest % 6 != 5]), tuple(rest[rest % 6 == 5]), tuple(test))
    targets = task.targets(answers)
    lesson = Lesson("fold", split, slides, task.fitted(targets[list(split.train)]), targets, 7)
    cache = MemoryBags({f"s{i}": bag for i, bag in enumerate(bags)})
    settings = TrainOptions(**{"device": "cpu", "learning_rate": 2e-3, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = create_head(
            head, dim=bags[0].shape[1], classes=task.logits, **(arguments or {"hidden": 16})
        )
        learned = train_head(made, lesson, cache, settings, create_fabric(settings))
    logits = score_slides(learned.head, [slides[i] for i in test], cache)
    values = learned.task.predict(logits).double().numpy()
    return Tested(learned.task, values, [int(i) for i in test])


def shifted_bags(latent: Array, *, dim: int = 8, instances: int = 20, seed: int = 0) -> list[Array]:
    """Return bags whose first feature is around `latent`, all others noise."""
    rng = np.random.default_rng(seed)
    bags = rng.normal(size=(len(latent), instances, dim))
    bags[:, :, 0] += np.asarray(latent)[:, None]
    return list(bags)
