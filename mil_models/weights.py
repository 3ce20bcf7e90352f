"""Weights into networks: read without running code, checked name by name, never half loaded."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mil_models.checkpoint_layouts import from_transformers, is_transformers
from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import WeightsError
from mil_models.network import build_network
from mil_models.plugins import find_plugin
from mil_models.weight_files import fetch_weights

WRAPPERS = ("state_dict", "model", "teacher", "module")
"""Keys under which training programs keep the weights proper."""
BACKBONE = "backbone."
LISTED = 3
"""Names given in an error; the others are counted."""

State = dict[str, Tensor]


def load_network(
    spec: EncoderSpec,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, str]:
    """Return the encoder's network with its weights, and what the weights are.

    Parameters
    ----------
    weights
        A local file in place of the published weights: safetensors, or a torch file of tensors.
    random_weights, seed
        Random weights, for benchmarks and tests.

    Returns
    -------
    The network (see :func:`mil_models.network.build_network`), and ``sha256:…`` of the file or
    ``random:<seed>``.

    Raises
    ------
    MissingPluginError
        The encoder's authors ship their own code, and no plug-in brings it in.
    WeightsError
        The weights are not here, damaged, of another network, or not finite.
    """
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_network(spec), f"random:{seed}"
    if spec.library == "plugin":
        find_plugin(spec)  # without it there is nothing to put the weights in
    path = fetch_weights(spec) if weights is None else Path(weights)
    digest = _sha256(path)
    if weights is None and spec.weights.sha256 not in ("", digest):
        raise WeightsError(
            f"{spec.name}: {path} has sha256 {digest[:12]}…, expected "
            f"{spec.weights.sha256[:12]}…; install or fetch it again"
        )
    return network_with(spec, read_state(path), path), f"sha256:{digest}"


def read_state(path: Path) -> State:
    """Return the tensors of a file by name; code in it is never run.

    Raises
    ------
    WeightsError
        No such file, or it is damaged, holds code, or is no file of weights at all.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as err:
        raise WeightsError(f"{path}: no such file of weights ({err.strerror})") from err
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull`")
    if start.startswith((b"<!doctype", b"<html")):
        raise WeightsError(f"{path}: a web page, not the weights; download the file itself")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as err:
        raise WeightsError(f"{path}: damaged or cut short ({err}); fetch it again") from err
    except pickle.UnpicklingError as err:
        if "unsupported" in str(err).lower():
            raise WeightsError(
                f"{path}: holds pickled code, which is never run; save its tensors as safetensors "
                "where you trust it"
            ) from err
        raise WeightsError(f"{path}: not weights, or damaged; fetch it again") from err
    except Exception as err:  # torch raises whatever a damaged file makes it stumble over
        raise WeightsError(
            f"{path}: not weights, or cut short ({type(err).__name__}); fetch it again"
        ) from err
    return _tensors(content, path)


def network_with(spec: EncoderSpec, state: State, origin: Path) -> nn.Module:
    """Return the encoder's network with the tensors in `state`, which came from `origin`.

    Names and shapes may be timm's, Meta's (DINOv2) or those of `transformers`, as published.

    Raises
    ------
    WeightsError
        A tensor is missing, left over, of another shape, or not finite.
    """
    # Nothing is made at random that the file replaces; plug-ins need not know that trick.
    with torch.device("meta" if spec.library == "timm" else "cpu"):
        network = build_network(spec)
    fitted = _fitted(spec, network, state)
    _check(spec, network, fitted, origin)
    network.load_state_dict(fitted, strict=True, assign=True)
    if any(tensor.is_meta for tensor in chain(network.parameters(), network.buffers())):
        # Buffers that no file holds (rotary frequencies, masks) are made by building for real.
        network = build_network(spec)
        network.load_state_dict(fitted, strict=True)
    return network.float().eval().requires_grad_(False)


def _fitted(spec: EncoderSpec, network: nn.Module, state: State) -> State:
    """Return `state` under the network's names, whatever layout it was published in."""
    wanted = {key: tensor.shape for key, tensor in network.state_dict().items()}
    found = _named(network, _renamed(spec, state))
    if _fits(found, wanted):
        return {key: found[key] for key in wanted}
    if spec.weights.in_order:
        found = _named(network, _in_timms_order(spec, state))
    elif spec.library == "timm":
        backbone = network.backbone
        inner = _renamed(spec, state)
        own = {k: inner.pop(k) for k in list(inner) if k.startswith("projection.")}
        if is_transformers(inner):
            inner = from_transformers(inner, backbone)
        found = _named(network, {**_as_timm_loads(backbone, inner), **own})
    classifier = tuple(BACKBONE + name + "." for name in _classifier(network))
    return {k: v for k, v in found.items() if k in wanted or not k.startswith(classifier)}


def _renamed(spec: EncoderSpec, state: State) -> State:
    """Return `state` without what the tile encoder has no use for, by the spec's own names."""
    table = spec.weights.rename
    kept = {k: v for k, v in state.items() if not k.startswith(spec.weights.drop)}
    if not table:
        return kept
    pattern = re.compile("|".join(map(re.escape, table)))
    return {pattern.sub(lambda found: table[found[0]], k): v for k, v in kept.items()}


def _named(network: nn.Module, state: State) -> State:
    """Return `state` with the prefix that the network gives to its backbone."""
    parts = tuple(f"{name}." for name, _ in network.named_children())
    return {k if k.startswith(parts) else BACKBONE + k: v for k, v in state.items()}


def _fits(state: State, wanted: Mapping[str, torch.Size]) -> bool:
    return all(key in state and state[key].shape == shape for key, shape in wanted.items()) and (
        len(state) == len(wanted)
    )


def _in_timms_order(spec: EncoderSpec, state: State) -> State:
    """Return `state` under the names of timm's whole model, classifier included."""
    with torch.device("meta"):
        names = list(timm.create_model(spec.architecture, **spec.arguments).state_dict())
    if len(names) != len(state):
        return state
    return dict(zip(names, state.values(), strict=True))


def _as_timm_loads(backbone: Any, state: State) -> State:
    """Return `state` as timm adapts published weights to its model: names, grids of positions."""
    adapt = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if adapt is None:
        return state
    try:
        adapted: State = adapt(dict(state), backbone)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return state  # of another network: the names say so better
    return adapted


def _classifier(network: nn.Module) -> tuple[str, ...]:
    config = getattr(network.backbone, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _check(spec: EncoderSpec, network: nn.Module, state: State, origin: Path) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    other = [
        f"{key} {tuple(state[key].shape)} for {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems = [
        f"{len(names)} {what} ({_some(names)})"
        for what, names in (
            ("missing", missing), ("unexpected", unexpected), ("of another shape", other),
        )
        if names
    ]  # fmt: skip
    if problems:
        raise WeightsError(
            f"{origin}: not weights of {spec.name} ({spec.architecture or 'a plug-in'}): tensors "
            f"{'; '.join(problems)}; use those of {spec.weights.name}"
        )
    bad = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if bad:
        raise WeightsError(
            f"{origin}: NaN or infinity in {len(bad)} tensors ({_some(bad)}); fetch it again"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(name.removeprefix(BACKBONE) for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown}, …"


def _tensors(content: Any, path: Path) -> State:
    """Return the tensors of what a torch file held, out of what they are wrapped in."""
    while isinstance(content, Mapping):
        if content and all(isinstance(v, Tensor) for v in content.values()):
            return {str(k): v for k, v in content.items()}
        inner = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    raise WeightsError(f"{path}: no table of tensors; give the encoder's state dict")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as err:
        raise WeightsError(f"{path}: no such file of weights ({err.strerror})") from err
