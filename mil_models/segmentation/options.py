"""What a segmentation network is and how it is trained; imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Architecture = Literal["unet", "unetplusplus", "manet", "linknet"]
ARCHITECTURES: tuple[Architecture, ...] = ("unet", "unetplusplus", "manet", "linknet")
STRIDE = 32
"""Tiles are a multiple of this: what five halvings of the encoder divide."""


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What the network is and what it sees.

    Parameters
    ----------
    architecture
        A decoder of the U-Net family: unet, unetplusplus, manet (attention), linknet (light).
    encoder
        A convolutional encoder of `wsi encoders`, or any timm model with a pyramid of features.
    tile_px
        Edge of the tiles, a multiple of 32.
    mpp
        Pixel size of the tiles, µm.
    """

    architecture: Architecture = "unet"
    encoder: str = "tf_efficientnet_lite0"
    tile_px: int = 256
    mpp: float = 0.5

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture={self.architecture!r}: choose from {', '.join(ARCHITECTURES)}"
            )
        if self.tile_px < 2 * STRIDE or self.tile_px % STRIDE:
            raise ValueError(f"tile_px={self.tile_px}: must be a multiple of {STRIDE} from 64")
        if not 0.05 <= self.mpp <= 20:
            raise ValueError(f"mpp={self.mpp}: must be 0.05 to 20 µm per pixel")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SegmentationOptions:
    """How a segmentation network is trained.

    Parameters
    ----------
    epochs
        Epochs of `steps` batches, at most.
    steps
        Batches an epoch.
    batch
        Tiles a batch.
    inside_share
        Share of the tiles whose centre is annotated; the others' lie on tissue that is not.
    validation_tiles
        Tiles of the validation slides on which every epoch is judged, the same each time.
    patience
        Epochs without a higher validation Dice before training stops.
    learning_rate
        AdamW's, after the warm-up; falls to 0 along half a cosine.
    weight_decay
        AdamW's.
    warmup
        Epochs over which the learning rate rises from 0.
    augment
        Turn and mirror tiles, and vary the strength of their stain.
    device
        auto (CUDA where there is one, else the CPU), cpu, cuda.
    precision
        fp32, or bf16-mixed.
    checkpoint_seconds
        How often the state is saved from which a killed training goes on.
    """

    epochs: int = 20
    steps: int = 100
    batch: int = 8
    inside_share: float = 0.5
    validation_tiles: int = 128
    patience: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 1.0
    augment: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16-mixed"] = "fp32"
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch", "validation_tiles", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("weight_decay", "warmup", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 <= self.inside_share <= 1:
            raise ValueError(f"inside_share={self.inside_share}: must be 0 to 1")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate}: must be positive")
