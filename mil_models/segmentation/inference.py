"""Segmentation networks at work: uint8 tiles in, probabilities of every pixel out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mil_models.encoders import resolve_device
from mil_models.engines import Engine, create_engine, resolve_engine
from mil_models.errors import EngineError
from mil_models.segmentation.network import SegmentationNetwork

CPU_BATCH, GPU_BATCH = 2, 16
"""Tiles a forward pass; a U-Net's features take far more memory than an encoder's."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmenter:
    """A network on a device; made by :func:`create_segmenter`."""

    engine: Engine

    @property
    def contract(self) -> dict[str, str | int]:
        """What of the engine decides the numbers, beside the model."""
        return {
            "engine": self.engine.name,
            "precision": self.engine.precision,
            "batch": self.engine.batch,
        }

    def probabilities(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of every pixel, float32 ``(N, H, W)``, of ``(N, H, W, 3)``.

        Tiles pass in batches of one size, the last one padded, so that a tile's numbers do not
        depend on how many there are.
        """
        if not len(tiles):
            return np.empty(tiles.shape[:3], np.float32)
        return self.engine.embed_in_lanes(tiles)


class _Probabilities(nn.Module):
    """What an engine runs: normalised pixels (B, 3, H, W) to probabilities (B, H, W)."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, normalised: Tensor) -> Tensor:
        return self.network.logits(normalised).sigmoid()


def create_segmenter(
    network: SegmentationNetwork,
    *,
    device: str = "auto",
    engine: str = "auto",
    precision: str = "float32",
    batch: int | None = None,
) -> Segmenter:
    """Put a trained network on a device.

    Parameters
    ----------
    device
        ``"auto"`` takes CUDA, then Apple's GPU, then the CPU.
    engine
        ``"torch"``, ``"openvino"`` (CPU), or ``"auto"``: OpenVINO on a CPU where it is installed.
    precision
        ``"float32"`` or ``"bfloat16"``.
    batch
        Tiles a forward pass; 2 on a CPU and 16 elsewhere if not given.

    Raises
    ------
    EngineError
        The engine is not installed, or cannot do what is asked of it.
    """
    if precision not in ("float32", "bfloat16"):
        raise EngineError(f"precision={precision!r}: choose float32 or bfloat16")
    if batch is not None and batch < 1:
        raise EngineError(f"batch={batch}: must be at least 1")
    place = resolve_device(device)
    return Segmenter(
        create_engine(
            resolve_engine(engine, place.type),
            _Probabilities(network),
            mean=network.encoder.mean,
            std=network.encoder.std,
            batch=batch or (CPU_BATCH if place.type == "cpu" else GPU_BATCH),
            precision=precision,
            device=place,
        )
    )
