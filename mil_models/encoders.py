"""Encoders at work: uint8 tiles in, embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mil_models.network import find_spec
from mil_models.registry import DEFAULT_ENCODER, EncoderContract
from mil_models.weights import load_network

DEFAULT_BATCH = {"cpu": 32, "mps": 64, "cuda": 128}


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
        features: Tensor = self._model((pixels.float() - self._mean) / self._scale)
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
    """Create an encoder by name: one of ours, a TOML file of yours, or any timm model.

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
    EncoderSpecError
        The file that describes it is wrong.
    MissingPluginError
        Its authors ship their own code, and no plug-in brings it in.
    WeightsError
        The weights are not here, or do not fit.
    """
    spec = find_spec(name)
    place = resolve_device(device)
    batch = DEFAULT_BATCH.get(place.type, 32) if batch_size == "auto" else int(batch_size)
    if batch < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1")
    network, identity = load_network(
        spec, weights=weights, random_weights=random_weights, seed=seed
    )
    contract = spec.contract(weights=identity, precision="float32", engine="torch", batch=batch)
    return Encoder(network, contract, place)


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
