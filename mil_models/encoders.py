"""Encoders at work: uint8 tiles in, embeddings out."""

from __future__ import annotations

import difflib
import hashlib
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from mil_models.errors import UnknownEncoderError, WeightsError
from mil_models.registry import (
    DEFAULT_ENCODER,
    HUB_FILES,
    EncoderContract,
    EncoderSpec,
    specs,
)

DEFAULT_BATCH = {"cpu": 32, "mps": 64, "cuda": 128}
HUB_TIMEOUT_S = 5


class Encoder:
    """A frozen network on a device; made by :func:`create_encoder`."""

    def __init__(self, model: nn.Module, contract: EncoderContract, device: torch.device) -> None:
        self.contract = contract
        self.device = device
        self._model = model.eval().requires_grad_(False).to(device)
        self._model = self._model.to(memory_format=torch.channels_last)
        scale = 255 * torch.tensor(contract.std)
        self._mean = (255 * torch.tensor(contract.mean)).view(1, 3, 1, 1).to(device)
        self._scale = scale.view(1, 3, 1, 1).to(device)

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.contract.name

    @torch.inference_mode()
    def embed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings of RGB `tiles`.

        Parameters
        ----------
        tiles
            uint8, shape ``(N, H, W, 3)``.

        Returns
        -------
        float32, shape ``(N, D)``. Tiles pass in batches of the contract's size, the last one
        padded, so that a tile's numbers do not depend on how many there are.
        """
        batch = self.contract.batch
        out = np.empty((len(tiles), self.contract.width), np.float32)
        for start in range(0, len(tiles), batch):
            part = tiles[start : start + batch]
            if len(part) < batch:
                fill = np.zeros((batch - len(part), *part.shape[1:]), np.uint8)
                features = self._forward(np.concatenate([part, fill]))[: len(part)]
            else:
                features = self._forward(part)
            out[start : start + batch] = features.float().cpu().numpy()
        return out

    def _forward(self, tiles: NDArray[np.uint8]) -> Tensor:
        pixels = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)  # (B, 3, H, W)
        normal = (pixels.float() - self._mean) / self._scale
        model: Any = self._model
        features: Tensor = model.forward_head(model.forward_features(normal), pre_logits=True)
        return features  # (B, D)


def create_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
) -> Encoder:
    """Create an encoder by name: one of ours, or any timm model.

    Parameters
    ----------
    weights
        A local file in place of the published weights: safetensors, or a torch file that holds
        tensors only.
    random_weights, seed
        Random weights, for benchmarks and tests.
    device
        ``"auto"`` takes CUDA, then Apple's GPU, then the CPU.
    batch_size
        Tiles a forward pass; ``"auto"`` is 32 on a CPU.

    Raises
    ------
    UnknownEncoderError
        No such encoder.
    WeightsError
        The weights are not here, or do not fit.
    """
    spec = specs().get(name) or _spec_from_timm(name)
    place = resolve_device(device)
    batch = DEFAULT_BATCH.get(place.type, 32) if batch_size == "auto" else int(batch_size)
    if batch < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(spec)
        identity = f"random:{seed}"
    elif weights is not None:
        model, identity = _load_local(spec, Path(weights))
    elif spec.weights is not None:
        model, identity = _load_packaged(spec)
    else:
        model, identity = _load_from_hub(spec)
    contract = EncoderContract(
        name=spec.name,
        timm_name=spec.timm_name,
        timm_arguments=spec.timm_arguments,
        weights=identity,
        input_px=spec.input_px,
        trained_mpp=spec.trained_mpp,
        mpp_tolerance=spec.mpp_tolerance,
        mean=spec.mean,
        std=spec.std,
        pooling=spec.pooling,
        width=spec.width,
        licence=spec.licence,
        source=spec.source,
        precision="float32",
        engine="torch",
        batch=batch,
    )
    return Encoder(model, contract, place)


def resolve_device(device: str) -> torch.device:
    """Return the torch device called `device`, or the best one for ``"auto"``."""
    if device != "auto":
        try:
            found = torch.device(device)
        except RuntimeError as err:
            raise ValueError(f"device={device!r}: choose auto, cpu, cuda, cuda:N or mps") from err
        if found.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device={device!r}: torch finds no CUDA device; use auto or cpu")
        return found
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _build(spec: EncoderSpec, **arguments: Any) -> nn.Module:
    model: nn.Module = timm.create_model(
        spec.timm_name, num_classes=0, **spec.timm_arguments, **arguments
    )
    return model


def _spec_from_timm(name: str) -> EncoderSpec:
    """Return a spec of the timm model called `name`, as timm describes it."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, [*specs(), *timm.list_models()], n=3, cutoff=0.5)
        hint = (
            f"; did you mean {', '.join(close)}?" if close else "; `timm.list_models()` lists them"
        )
        raise UnknownEncoderError(f"no encoder called {name!r}{hint}")
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, num_classes=0)
            config = model.pretrained_cfg
            size = config["input_size"]
            features = model.eval().forward_features(torch.empty(1, *size))
            width = int(model.forward_head(features, pre_logits=True).shape[-1])
    except (RuntimeError, ValueError) as err:
        raise UnknownEncoderError(f"timm cannot build {name!r}: {err}") from err
    return EncoderSpec(
        name=name,
        timm_name=name,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        width=width,
        licence=str(config.get("license") or "unknown"),
        source=str(config.get("hf_hub_id") or "timm"),
        input_px=int(size[-1]) if config.get("fixed_input_size") else None,
    )


def _load_packaged(spec: EncoderSpec) -> tuple[nn.Module, str]:
    if spec.weights is None:
        raise WeightsError(f"{spec.name}: has no packaged weights")
    path = spec.weights.path()
    digest = _sha256(path)
    if digest != spec.weights.sha256:
        raise WeightsError(
            f"{spec.name}: {path.name} has sha256 {digest[:12]}…, expected "
            f"{spec.weights.sha256[:12]}…; install {spec.weights.install} again"
        )
    values = list(torch.load(path, map_location="cpu", weights_only=True).values())
    # The package keeps timm's order of parameters under other names; the classifier is left out.
    model: Any = timm.create_model(spec.timm_name, **spec.timm_arguments)
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)), strict=True)
    model.reset_classifier(0)
    return model, f"sha256:{digest}"


def _load_local(spec: EncoderSpec, path: Path) -> tuple[nn.Module, str]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of weights")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as err:  # torch raises anything, and advises to run the file's code
        kind = type(err).__name__
        raise WeightsError(
            f"{path}: neither safetensors nor a torch file of tensors only ({kind})"
        ) from err
    try:
        state = state.get("state_dict", state)
        model = _build(spec)
        wanted = model.state_dict()
        model.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=True)
    except (AttributeError, RuntimeError) as err:  # no dictionary; other names or shapes
        raise WeightsError(f"{path}: not weights of {spec.name}: {err}") from err
    return model, f"sha256:{_sha256(path)}"


def _load_from_hub(spec: EncoderSpec) -> tuple[nn.Module, str]:
    try:
        path = _hub_file(spec.source)
        overlay = {"file": str(path), "custom_load": False}
        model = _build(spec, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as err:  # hub clients raise a different error for every way to be offline
        raise WeightsError(
            f"{spec.name}: its weights ({spec.source}) are not in the local cache and cannot be "
            f"downloaded ({type(err).__name__}); pass --weights PATH, or go online once"
        ) from err
    return model, f"sha256:{_sha256(path)}"


def _hub_file(repository: str) -> Path:
    """Return the safetensors file of a hub `repository`, from the cache or downloaded."""
    for name in HUB_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    # The hub's client retries for most of a minute where there is no network: ask once before.
    huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    for name in HUB_FILES[:-1]:
        if huggingface_hub.file_exists(repository, name):
            return Path(huggingface_hub.hf_hub_download(repository, name))
    return Path(huggingface_hub.hf_hub_download(repository, HUB_FILES[-1]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
