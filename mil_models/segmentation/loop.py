"""The training loop of a segmentation network, on whatever device Fabric gives."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn

from mil_models.loop import create_fabric, seed_of
from mil_models.options import TrainOptions
from mil_models.resume import ResumeFolder, packed, unpack
from mil_models.segmentation.augmentation import augment
from mil_models.segmentation.network import SegmentationNetwork
from mil_models.segmentation.options import SegmentationOptions
from tiling.nodes import Json

STATE = "network"
OnEpoch = Callable[[int, int, Json], None]
"""Called with (epoch, epochs, the epoch's figures)."""


class TileSource(Protocol):
    """Where labelled tiles come from; the same seed gives the same."""

    def batch(
        self, count: int, *, inside_share: float, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return tiles ``(count, H, W, 3)`` and their masks ``(count, H, W)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A network with the weights of its best epoch, in evaluation mode; figures by epoch."""

    network: SegmentationNetwork
    epoch: int
    history: list[Json]

    @property
    def dice(self) -> float | None:
        """The best epoch's Dice on the validation tiles; None without any."""
        value = self.history[self.epoch - 1]["validation_dice"]
        return None if value is None else float(value)


@dataclass(slots=True)
class _Progress:
    epoch: int = 0
    best_dice: float = -1.0
    best_epoch: int = 0
    history: list[Json] = field(default_factory=list)


class _Objective(nn.Module):
    """Network and loss in one pass: soft Dice (Milletari et al. 2016, arXiv:1606.04797) and BCE."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network
        self.dice = DiceLoss("binary", smooth=1.0)
        self.bce = nn.BCEWithLogitsLoss()

    def forward(self, pixels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of `pixels` (B, 3, H, W) against `masks` (B, H, W), and the logits."""
        logits = self.network(pixels).float()
        loss: Tensor = self.dice(logits.unsqueeze(1), masks) + self.bce(logits, masks)
        return loss, logits


def train_network(
    network: SegmentationNetwork,
    tiles: TileSource,
    validation: TileSource | None,
    options: SegmentationOptions,
    *,
    seed: int = 0,
    resume: ResumeFolder | None = None,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train `network` and return it with the weights of the highest validation Dice.

    Every random choice of a step comes from a seed of its own, made of `seed`, the epoch and the
    step: weights and optimiser are all that a killed training needs to end with the same bits.
    """
    fabric = create_fabric(TrainOptions(device=options.device, precision=options.precision))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    model, optimizer = fabric.setup(_Objective(network), optimizer)
    progress, best = _Progress(), _copy(network)
    saved = None if resume is None else resume.load(STATE)
    if saved is not None:
        best = unpack(saved[0], network, optimizer)
        progress = _Progress(**saved[1])
    last_save = time.monotonic()
    for epoch in range(progress.epoch + 1, options.epochs + 1):
        if validation is not None and progress.epoch - progress.best_epoch >= options.patience:
            break
        loss = _epoch(model, optimizer, tiles, options, fabric, seed, epoch)
        judged = None if validation is None else _judge(model, validation, options, fabric, seed)
        progress.epoch = epoch
        figures: Json = {
            "epoch": epoch,
            "learning_rate": learning_rate(options, epoch),
            "train_loss": loss,
            "validation_loss": None if judged is None else judged[0],
            "validation_dice": None if judged is None else judged[1],
        }
        progress.history.append(figures)
        if judged is None or judged[1] > progress.best_dice:
            progress.best_dice = -1.0 if judged is None else judged[1]
            progress.best_epoch, best = epoch, _copy(network)
        if on_epoch is not None:
            on_epoch(epoch, options.epochs, figures)
        if resume is not None and time.monotonic() - last_save >= options.checkpoint_seconds:
            resume.save(STATE, packed(network, best, optimizer), asdict(progress))
            last_save = time.monotonic()
    network.load_state_dict(best)
    return Trained(network.cpu().eval(), progress.best_epoch, progress.history)


def learning_rate(options: SegmentationOptions, done: float) -> float:
    """Return the learning rate after so many epochs (a fraction counts).

    Examples
    --------
    >>> options = SegmentationOptions(epochs=10, warmup=2, learning_rate=1.0)
    >>> [round(learning_rate(options, epoch), 3) for epoch in (0.5, 2, 6, 10)]
    [0.25, 1.0, 0.5, 0.0]
    """
    if done < options.warmup:
        return options.learning_rate * done / options.warmup
    share = (done - options.warmup) / max(options.epochs - options.warmup, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1)))


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tiles: TileSource,
    options: SegmentationOptions,
    fabric: Fabric,
    seed: int,
    epoch: int,
) -> float:
    """Train one epoch and return the mean loss of its steps."""
    model.train()
    losses: list[Tensor] = []
    seeds = [seed_of(seed, epoch, step) for step in range(options.steps)]
    drawn = _drawn(tiles, [options.batch] * options.steps, seeds, options, fabric)
    for step, (pixels, masks) in enumerate(drawn):
        rate = learning_rate(options, epoch - 1 + (step + 1) / options.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(seeds[step])
        torch.default_generator.manual_seed(seeds[step])  # for layers that drop out
        if options.augment:
            pixels, masks = augment(pixels, masks, generator)
        loss, _ = model(pixels, masks)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


@torch.no_grad()
def _judge(
    model: nn.Module,
    validation: TileSource,
    options: SegmentationOptions,
    fabric: Fabric,
    seed: int,
) -> tuple[float, float]:
    """Return mean loss and Dice over all pixels of the validation tiles, in evaluation mode.

    Dice is 1 where neither the masks nor the predictions hold anything.
    """
    model.eval()
    left = range(0, options.validation_tiles, options.batch)
    counts = [min(options.batch, options.validation_tiles - start) for start in left]
    seeds = [seed_of(seed, 0, number) for number in range(len(counts))]
    total, hits, sizes = 0.0, 0, 0
    for pixels, masks in _drawn(validation, counts, seeds, options, fabric):
        loss, logits = model(pixels, masks)
        found, there = logits > 0, masks > 0
        total += float(loss) * len(pixels)
        hits += int((found & there).sum())
        sizes += int(found.sum()) + int(there.sum())
    return total / options.validation_tiles, 2 * hits / sizes if sizes else 1.0


def _drawn(
    tiles: TileSource,
    counts: list[int],
    seeds: list[int],
    options: SegmentationOptions,
    fabric: Fabric,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pixels (B, 3, H, W) of 0 to 1 and masks (B, H, W) as float; the next ones are read."""

    def read(number: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return tiles.batch(counts[number], inside_share=options.inside_share, seed=seeds[number])

    with ThreadPoolExecutor(1, thread_name_prefix="tiles") as reader:
        ahead = reader.submit(read, 0)
        for number in range(len(counts)):
            pixels, masks = ahead.result()
            if number + 1 < len(counts):
                ahead = reader.submit(read, number + 1)
            here = torch.from_numpy(pixels).to(fabric.device).permute(0, 3, 1, 2)
            yield here.float() / 255, torch.from_numpy(masks).to(fabric.device).float()


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
