"""Encoders at work: uint8 tiles in, embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mil_models.encoder_spec import EncoderContract
from mil_models.engines import PRECISIONS, Engine, create_engine, resolve_engine
from mil_models.engines.choice import choose_precision, largest_batch, reference_tiles
from mil_models.errors import EngineError
from mil_models.network import find_spec
from mil_models.registry import DEFAULT_ENCODER
from mil_models.weights import load_network

CPU_BATCH, GPU_BATCH = 8, 32
"""On a CPU activations stay in a core's cache: as fast as 32 or a quarter faster, in a quarter
of the memory that every core takes. On CUDA as many as fit are found by trial."""


class Encoder:
    """A frozen network on a device; made by :func:`create_encoder`."""

    def __init__(self, contract: EncoderContract, engine: Engine) -> None:
        self.contract = contract
        self.engine = engine

    @property
    def name(self) -> str:
        """The encoder's name."""
        return self.contract.name

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.engine.device

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
        if not len(tiles):
            return np.empty((0, self.contract.width), np.float32)
        return self.engine.embed_in_lanes(tiles)


def create_encoder(
    name: str = DEFAULT_ENCODER,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    engine: str = "auto",
    precision: str = "auto",
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
        Tiles a forward pass; ``"auto"`` is 8 on a CPU, 32 on Apple's GPU, and on CUDA as many as
        fit.
    engine
        ``"torch"``, ``"openvino"`` (CPU), or ``"auto"``: OpenVINO on a CPU where it is installed.
    precision
        ``"float32"``, ``"bfloat16"``, ``"int8"`` (OpenVINO), or ``"auto"``: bfloat16 where the
        processor has it and this encoder loses next to nothing by it (`LEAST_COSINE`).

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
    EngineError
        The engine is not installed, or cannot do what is asked of it.
    """
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision={precision!r}: choose from auto, {', '.join(PRECISIONS)}")
    if batch_size != "auto" and int(batch_size) < 1:
        raise EngineError(f"batch_size={batch_size}: must be at least 1")
    spec = find_spec(name)
    place = resolve_device(device)
    engine = resolve_engine(engine, place.type)
    network, identity = load_network(
        spec, weights=weights, random_weights=random_weights, seed=seed
    )
    tile_px = spec.default_tile_px
    default = CPU_BATCH if place.type == "cpu" else GPU_BATCH
    batch = default if batch_size == "auto" else int(batch_size)
    runner = create_engine(
        engine,
        network,
        mean=spec.mean,
        std=spec.std,
        batch=batch,
        precision="float32" if precision == "auto" else precision,
        device=place,
        calibration=reference_tiles(tile_px) if precision in ("auto", "int8") else None,
    )
    if batch_size == "auto" and place.type == "cuda":
        runner.batch = largest_batch(runner, tile_px)
    if precision in ("auto", "int8"):
        runner = choose_precision(runner, precision, spec.name)
    contract = spec.contract(
        weights=identity, precision=runner.precision, engine=runner.name, batch=runner.batch
    )
    return Encoder(contract, runner)


def device_of(device: str, worker: int) -> str:
    """Return the device for one of several processes: with several GPUs each has its own.

    Only ``"auto"`` and ``"cuda"`` leave the choice; a device is no part of an encoder's contract.
    """
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{worker % torch.cuda.device_count()}"
    return device


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
