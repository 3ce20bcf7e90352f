"""What an engine must offer: uint8 tiles in, embeddings out."""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Tiles = NDArray[np.uint8]
Embeddings = NDArray[np.float32]

PRECISIONS = ("float32", "bfloat16", "int8")


class Engine(ABC):
    """A network at work on one device.

    Parameters
    ----------
    network
        From normalised pixels ``(B, 3, H, W)`` to embeddings ``(B, D)``, in evaluation mode.
    mean, std
        Normalisation of RGB in 0 to 1.
    batch
        Tiles in every forward pass.
    precision
        One of `PRECISIONS`.
    device
        Where it runs.
    calibration
        Tissue tiles, uint8 ``(N, H, W, 3)``, by which int8 chooses its ranges.
    """

    name: ClassVar[str]
    lanes: int = 1
    """How many threads may call `run` at once; on a CPU one per core, each with its own."""

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch: int,
        precision: str,
        device: torch.device,
        calibration: Tiles | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.mean = [255 * float(v) for v in mean]
        self.std = [255 * float(v) for v in std]
        self.batch = batch
        self.precision = precision
        self.device = device
        self.calibration = calibration

    @functools.cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The engine's lanes, which all slides in work share."""
        return ThreadPoolExecutor(self.lanes, thread_name_prefix="encoder")

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return the engine with its version."""

    @classmethod
    @abstractmethod
    def precisions_here(cls) -> tuple[str, ...]:
        """Return the precisions that this machine is fast in."""

    @abstractmethod
    def at(self, precision: str) -> Engine:
        """Return the same network at another precision; this one where it is the same."""

    @abstractmethod
    def run(self, tiles: Tiles) -> Embeddings:
        """Return float32 ``(batch, D)`` of exactly one batch ``(batch, H, W, 3)``."""

    def run_each(self, batches: Iterable[Tiles]) -> Iterator[Embeddings]:
        """Yield the embeddings of batches as they come, in order."""
        return map(self.run, batches)

    def embed(self, tiles: Tiles) -> Embeddings:
        """Return float32 ``(N, D)`` of tiles ``(N, H, W, 3)``, the last batch padded.

        So a tile's numbers depend neither on how many there are nor on how many lanes run.
        """
        return next(self.embed_each([tiles]))

    def embed_each(self, blocks: Iterable[Tiles]) -> Iterator[Embeddings]:
        """Yield what `embed` returns of each block, in order, without a pause between them.

        The engine may ask for the next block before it has finished the last one.
        """
        lengths: deque[int] = deque()

        def batches() -> Iterator[Tiles]:
            for tiles in blocks:
                lengths.append(len(tiles))
                yield from padded_batches(tiles, self.batch)

        parts: list[Embeddings] = []
        for part in self.run_each(batches()):
            parts.append(part)
            if len(parts) * self.batch >= lengths[0]:
                yield np.concatenate(parts)[: lengths.popleft()]
                parts = []

    def embed_in_lanes(self, tiles: Tiles) -> Embeddings:
        """As `embed`, with every lane at work."""
        batches = list(padded_batches(tiles, self.batch))
        return np.concatenate(list(self.pool.map(self.run, batches)))[: len(tiles)]


def padded_batches(tiles: Tiles, batch: int) -> Iterator[Tiles]:
    """Yield `tiles` in batches of `batch`, the last one filled up with black.

    Examples
    --------
    >>> [len(b) for b in padded_batches(np.zeros((5, 1, 1, 3), np.uint8), 4)]
    [4, 4]
    """
    for start in range(0, len(tiles), batch):
        part = tiles[start : start + batch]
        if len(part) < batch:
            filled = np.zeros((batch, *part.shape[1:]), np.uint8)
            filled[: len(part)] = part
            part = filled
        yield np.require(part, requirements=("C", "W"))  # torch takes no other


def cpu_lanes() -> int:
    """Return how many cores this process may use; OMP_NUM_THREADS says if it is to be fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(min(cores or 1, int(wanted) if wanted.isdecimal() else cores or 1), 1)
