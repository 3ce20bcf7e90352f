"""The training loop of one head, on whatever devices and in whatever precision Fabric gives."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mil_models.bags import Bag, BagCache, Draw
from mil_models.heads import Criterion, MILHead, MILOutput
from mil_models.labels import LabelledSlide
from mil_models.options import TrainOptions
from mil_models.resume import ResumeFolder, packed, unpack
from mil_models.scoring import score_bag
from mil_models.splits import Split
from mil_models.tasks import Task
from tiling.nodes import Json

OnEpoch = Callable[[str, int, int, float | None], None]
"""Called with (split, epoch, epochs, validation loss or None)."""
PRECISIONS = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What one head learns: which slides, their targets ``(all slides, ...)``, and its seed."""

    name: str
    split: Split
    slides: Sequence[LabelledSlide]
    task: Task
    targets: Tensor
    seed: int


@dataclass(slots=True)
class _Progress:
    """Where the training of a head is."""

    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[Json] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A trained head in evaluation mode, the epoch its weights are of, and losses by epoch."""

    head: MILHead
    task: Task
    epoch: int
    history: list[Json]


class _Objective(nn.Module):
    """Head and loss in one forward pass, so that processes share its gradients."""

    def __init__(self, head: MILHead) -> None:
        super().__init__()
        self.head = head

    def output(self, values: Tensor, coords: Tensor, generator: torch.Generator) -> MILOutput:
        """Return what the head says of one bag ``(N, D)``."""
        mask = torch.ones(1, len(values), dtype=torch.bool, device=values.device)
        output: MILOutput = self.head(
            values.unsqueeze(0), mask, coords=coords.unsqueeze(0), generator=generator
        )
        return output

    def forward(
        self,
        values: Tensor,
        coords: Tensor,
        target: Tensor,
        criterion: Criterion,
        generator: torch.Generator,
    ) -> Tensor:
        output = self.output(values, coords, generator)
        return self.head.loss(output, target, lambda z, t: criterion(z.float(), t))


def create_fabric(options: TrainOptions) -> Fabric:
    """Return the devices and the precision to train with, other processes started."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda': there is none here; pass --device cpu")
    cuda = options.device != "cpu" and torch.cuda.is_available()
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        precision=PRECISIONS[options.precision],  # type: ignore[arg-type]
    )
    if options.devices > 1:
        fabric.launch()
    return fabric


def learning_rate(options: TrainOptions, done: float) -> float:
    """Return the learning rate after so many epochs (a fraction counts).

    Examples
    --------
    >>> cosine = TrainOptions(epochs=10, warmup=2, schedule="cosine", learning_rate=1.0)
    >>> [round(learning_rate(cosine, epoch), 3) for epoch in (0.5, 2, 6, 10)]
    [0.25, 1.0, 0.5, 0.0]
    """
    if done < options.warmup:
        return options.learning_rate * done / options.warmup
    if options.schedule == "constant":
        return options.learning_rate
    share = (done - options.warmup) / max(options.epochs - options.warmup, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def seed_of(*numbers: int) -> int:
    """Return a seed that the numbers decide: run, fold, epoch, step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def train_head(
    head: MILHead,
    lesson: Lesson,
    cache: BagCache,
    options: TrainOptions,
    fabric: Fabric,
    *,
    resume: ResumeFolder | None = None,
    on_epoch: OnEpoch | None = None,
) -> Learned:
    """Train `head` and return it with the weights of the lowest validation loss.

    Every random choice of a step comes from a seed of its own, made of the run's, the epoch and
    the step: nothing but weights and optimiser has to be saved for a killed training to end with
    the same bits.
    """
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    model, optimizer = fabric.setup(_Objective(head), optimizer)
    best = _copy(head)
    progress = _Progress()
    saved = None if resume is None else resume.load(lesson.name)
    if saved is not None:
        best = unpack(saved[0], head, optimizer)
        progress = _Progress(**saved[1])
    last_save = time.monotonic()
    epochs = range(progress.epoch + 1, options.epochs + 1)
    # One stream for all epochs: the first bags of the next are read while the last is validated.
    with closing(cache.stream(_bags_of(lesson, options, fabric, epochs))) as bags:
        for epoch in epochs:
            if _is_over(progress, lesson, options):
                break
            loss = _epoch(model, optimizer, lesson, bags, cache, options, fabric, epoch)
            validation = _validate(head, lesson, cache, fabric)
            progress.epoch = epoch
            progress.history.append(
                {"epoch": epoch, "learning_rate": learning_rate(options, epoch),
                 "train_loss": loss, "validation_loss": validation}
            )  # fmt: skip
            if validation is not None and validation < progress.best_loss:
                progress.best_loss, progress.best_epoch = validation, epoch
                best = _copy(head)
            if on_epoch is not None:
                on_epoch(lesson.split.name, epoch, options.epochs, validation)
            if resume is not None and time.monotonic() - last_save >= options.checkpoint_seconds:
                resume.save(lesson.name, packed(head, best, optimizer), asdict(progress))
                last_save = time.monotonic()
    epoch = progress.epoch
    if progress.best_epoch:
        head.load_state_dict(best)
        epoch = progress.best_epoch
    head.eval()
    task = lesson.task.finished(
        score_slides(head, [lesson.slides[i] for i in lesson.split.train], cache),
        lesson.targets[list(lesson.split.train)],
    ) if lesson.task.risk_set else lesson.task  # fmt: skip
    return Learned(head, task, epoch, progress.history)


def score_slides(head: MILHead, slides: Sequence[LabelledSlide], cache: BagCache) -> Tensor:
    """Return the logits ``(B, C)`` of slides, all their instances, on the CPU."""
    device = next(head.parameters()).device
    bags = cache.stream((slide, None) for slide in slides)
    found = [score_bag(head, bag.to(device))[0].float().cpu() for bag in bags]
    return torch.stack(found) if found else torch.zeros(0, head.classes)


@dataclass(frozen=True, slots=True)
class _Step:
    """The slides of a step, what is drawn of each, and the places of this process's own."""

    indices: list[int]
    draws: list[Draw]
    own: list[int]


def _steps(lesson: Lesson, options: TrainOptions, fabric: Fabric, epoch: int) -> list[_Step]:
    order = _order(lesson, epoch)
    size = max(options.batch or lesson.task.batch, options.devices)
    return [
        _Step(
            indices := order[start : start + size],
            [Draw(options.max_instances, seed_of(lesson.seed, epoch, number, place))
             for place in range(len(indices))],
            _share(len(indices), fabric),
        )
        for number, start in enumerate(range(0, len(order), size))
    ]  # fmt: skip


def _bags_of(
    lesson: Lesson, options: TrainOptions, fabric: Fabric, epochs: Iterable[int]
) -> Iterator[tuple[LabelledSlide, Draw]]:
    """Yield what this process trains on, in order."""
    for epoch in epochs:
        for step in _steps(lesson, options, fabric, epoch):
            for place in step.own:
                yield lesson.slides[step.indices[place]], step.draws[place]


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    lesson: Lesson,
    bags: Iterator[Bag],
    cache: BagCache,
    options: TrainOptions,
    fabric: Fabric,
    epoch: int,
) -> float:
    """Train one epoch and return the mean loss of the bags that this process saw."""
    model.train()
    losses: list[Tensor] = []
    steps = _steps(lesson, options, fabric, epoch)
    for number, step in enumerate(steps, start=1):
        rate = learning_rate(options, epoch - 1 + number / len(steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        count = len(step.indices)
        weight = fabric.world_size / count if fabric.global_rank < count else 0.0
        targets = lesson.targets[step.indices].to(fabric.device)
        logits = None
        if lesson.task.risk_set:
            logits = _held_logits(model, lesson, step, cache, fabric)
        for place in step.own:
            criterion: Criterion = lesson.task.loss
            if logits is not None:
                criterion = lesson.task.within(logits, targets, place)
            with fabric.no_backward_sync(model, enabled=place != step.own[-1]):  # type: ignore[arg-type]
                bag = next(bags).to(fabric.device)
                loss = model(bag.values, bag.coords, targets[place : place + 1], criterion,
                             _seeded(step.draws[place].seed))  # fmt: skip
                fabric.backward(loss * weight)
            losses.append(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
    return float(torch.stack(losses).mean())


def _share(count: int, fabric: Fabric) -> list[int]:
    """Return which of a step's bags this process trains on.

    A process without a bag of its own takes part with one that counts for nothing.
    """
    return list(range(fabric.global_rank, count, fabric.world_size)) or [0]


def unwrapped(model: nn.Module) -> _Objective:
    """Return the module inside Fabric's (and, on several devices, DDP's)."""
    while not isinstance(model, _Objective):
        model = cast(nn.Module, model.module)
    return model


@torch.no_grad()
def _held_logits(
    model: nn.Module, lesson: Lesson, step: _Step, cache: BagCache, fabric: Fabric
) -> Tensor:
    """Return the logits of a step's bags as the step itself will find them, without gradients."""
    found: list[Tensor] = []
    objective = unwrapped(model)  # past Fabric and its gradient exchange
    wanted = [(lesson.slides[i], draw) for i, draw in zip(step.indices, step.draws, strict=True)]
    for (_, draw), bag in zip(wanted, cache.stream(wanted), strict=True):
        here = bag.to(fabric.device)
        generator = _seeded(draw.seed)
        with fabric.autocast():
            found.append(objective.output(here.values, here.coords, generator).logits.float())
    return torch.cat(found)


def _seeded(seed: int) -> torch.Generator:
    """Seed torch's own randomness (for layers that use it), and return a generator.

    Not by `torch.manual_seed`: without CUDA it notes each call, with a traceback, for later.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    return torch.Generator().manual_seed(seed)


def _order(lesson: Lesson, epoch: int) -> list[int]:
    """Return the slides of an epoch: all once, or drawn so that rare strata come as often."""
    generator = torch.Generator().manual_seed(seed_of(lesson.seed, epoch))
    train = lesson.split.train
    if lesson.task.balance != "sampling":
        return [train[i] for i in torch.randperm(len(train), generator=generator).tolist()]
    strata = [lesson.slides[index].stratum for index in train]
    counts = Counter(strata)
    weights = torch.tensor([1 / counts[stratum] for stratum in strata])
    drawn = torch.multinomial(weights, len(train), replacement=True, generator=generator)
    return [train[i] for i in drawn.tolist()]


def _validate(head: MILHead, lesson: Lesson, cache: BagCache, fabric: Fabric) -> float | None:
    """Return the loss over the validation part, in evaluation mode; None where it says nothing."""
    indices = list(lesson.split.validation)
    if not indices:
        return None
    logits = score_slides(head, [lesson.slides[i] for i in indices], cache)
    loss = lesson.task.mean_loss(logits, lesson.targets[indices])
    if fabric.world_size > 1:
        loss = float(fabric.broadcast(loss))
    return loss if math.isfinite(loss) else None


def _is_over(progress: _Progress, lesson: Lesson, options: TrainOptions) -> bool:
    waited = progress.epoch - progress.best_epoch
    has_loss = bool(progress.history) and progress.history[-1]["validation_loss"] is not None
    return has_loss and waited >= options.patience


def _copy(head: MILHead) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in head.state_dict().items()}
