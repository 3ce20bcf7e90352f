"""PyTorch: any device; pinned buffers and a copy stream where there is a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mil_models.engines.base import Embeddings, Engine, Tiles, cpu_lanes
from mil_models.errors import EngineError

IN_FLIGHT = 2
"""Batches on their way: one is computed while the next is copied."""


class TorchEngine(Engine):
    """The network as it is, channels last, in float32 or by autocast to bfloat16.

    On a CPU every lane computes with one thread, so that the numbers do not depend on the cores.
    On a GPU a batch goes through page-locked memory, is copied on a stream of its own while the
    one before it is computed, and is normalised there.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, network: torch.nn.Module, **arguments: Any) -> None:
        super().__init__(network, **arguments)
        if self.precision == "int8":
            raise EngineError("engine torch has no int8; use --engine openvino, or bfloat16")
        self.lanes = cpu_lanes() if self.device.type == "cpu" else 1
        self.network = self.network.to(self.device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        self._scale = (1 / torch.tensor(self.std, device=self.device)).view(1, 3, 1, 1)
        self._copying: Any = None
        if self.device.type == "cuda":
            self._copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self.split_batches = 0
        """Batches that did not fit in the device's memory and were computed in halves."""

    @classmethod
    def version(cls) -> str:
        return f"torch {torch.__version__}"

    @classmethod
    def precisions_here(cls) -> tuple[str, ...]:
        on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return ("float32", "bfloat16") if on_gpu else ("float32",)

    def at(self, precision: str) -> TorchEngine:
        if precision == self.precision:
            return self
        return TorchEngine(
            self.network, mean=[v / 255 for v in self.mean], std=[v / 255 for v in self.std],
            batch=self.batch, precision=precision, device=self.device,
            calibration=self.calibration,
        )  # fmt: skip

    def run(self, tiles: Tiles) -> Embeddings:
        return next(iter(self.run_each([tiles])))

    def run_each(self, batches: Iterable[Tiles]) -> Iterator[Embeddings]:
        waiting: deque[Tensor] = deque()
        for tiles in batches:
            waiting.append(self._compute(self._copied(tiles)))
            if len(waiting) >= (1 if self._copying is None else IN_FLIGHT):
                yield self._fetched(waiting.popleft())
        while waiting:
            yield self._fetched(waiting.popleft())

    def _copied(self, tiles: Tiles) -> Tensor:
        """Return uint8 pixels on the device; the copy may still be under way."""
        host = torch.from_numpy(tiles)
        if self._copying is None:
            return host.to(self.device)
        host = host.pin_memory()  # from torch's pool of page-locked memory
        with torch.cuda.stream(self._copying):
            pixels = host.to(self.device, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._copying)
        pixels.record_stream(torch.cuda.current_stream(self.device))
        return pixels

    def _compute(self, pixels: Tensor) -> Tensor:
        if self.device.type == "cpu" and torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # of this thread: another lane has the other core
        try:
            return self._forward(pixels)
        except torch.OutOfMemoryError as err:
            if len(pixels) == 1:
                raise EngineError(
                    f"{self.device}: not enough memory for one tile of {tuple(pixels.shape[1:3])} "
                    "px; use another --device"
                ) from err
        self.split_batches += 1
        half = len(pixels) // 2
        return torch.cat([self._compute(pixels[:half]), self._compute(pixels[half:])])

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> Tensor:
        normal = pixels.permute(0, 3, 1, 2).float().sub_(self._mean).mul_(self._scale)
        with self._autocast():
            found: Tensor = self.network(normal)  # (B, D)
        return found.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _fetched(self, features: Tensor) -> Embeddings:
        return features.cpu().numpy().astype(np.float32, copy=False)
