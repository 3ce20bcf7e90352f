"""A decoder of the U-Net family on a timm encoder, by segmentation-models-pytorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import EncoderError, WeightsError
from mil_models.network import find_spec
from mil_models.segmentation.options import NetworkOptions
from mil_models.weights import BACKBONE, load_network


class SegmentationNetwork(nn.Module):
    """From tiles to the logit of every pixel, one class against the rest.

    A decoder of the U-Net family (Ronneberger et al. 2015, arXiv:1505.04597; U-Net++ of Zhou et
    al. 2018, arXiv:1807.10165; MA-Net of Fan et al. 2020; LinkNet of Chaurasia and Culurciello
    2017, arXiv:1707.03718) on the features that a timm encoder gives at 1/2 to 1/32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, options: NetworkOptions, encoder: EncoderSpec) -> None:
        super().__init__()
        self.options = options
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(encoder.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(encoder.std).view(1, 3, 1, 1), persistent=False)
        self.net = _build(options, encoder)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (B, H, W) of RGB `pixels` (B, 3, H, W), 0 to 1."""
        return self.logits((pixels - self.mean) / self.std)

    def logits(self, normalised: Tensor) -> Tensor:
        """Return logits (B, H, W) of pixels (B, 3, H, W) that are normalised already."""
        found: Tensor = self.net(normalised)  # (B, 1, H, W)
        return found.squeeze(1)


def create_network(
    options: NetworkOptions,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> tuple[SegmentationNetwork, str]:
    """Return a network to be trained, and what its encoder's weights are.

    Parameters
    ----------
    weights
        A local file in place of the encoder's published weights.
    random_weights
        The encoder's weights at random too; the decoder's always are.
    seed
        Seed of what is random.

    Raises
    ------
    UnknownEncoderError, EncoderError
        No such encoder, or one without a pyramid of features.
    WeightsError
        The encoder's weights are not here, or do not fit.
    """
    spec = find_spec(options.encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegmentationNetwork(options, spec)
    if random_weights:
        return network, f"random:{seed}"
    backbone, identity = load_network(spec, weights=weights)
    state = backbone.state_dict()
    encoder: Any = network.net.encoder
    encoder.load_state_dict(_pyramid_state(spec, encoder.state_dict(), state), strict=True)
    return network, identity


def _build(options: NetworkOptions, spec: EncoderSpec) -> nn.Module:
    if spec.library != "timm":
        raise EncoderError(f"{spec.name}: a plug-in gives no pyramid of features; use a timm CNN")
    try:
        network: nn.Module = smp.create_model(
            options.architecture, f"tu-{spec.architecture}", encoder_weights=None, classes=1
        )
    except (AttributeError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as err:
        raise EncoderError(
            f"{spec.name}: cannot be the encoder of {options.architecture} ({err}); it needs "
            "features at 1/2 to 1/32: use a convolutional encoder, e.g. tf_efficientnet_lite0 or "
            "resnet50"
        ) from err
    return network


def _pyramid_state(
    spec: EncoderSpec, wanted: dict[str, Tensor], state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a whole encoder under the names that its pyramid of features has.

    timm writes ``stages_0`` in a pyramid for ``stages.0`` of the whole.
    """
    found = {}
    for name in wanted:
        inner = name.removeprefix("model.")
        places = (inner, re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", inner))
        source = next((BACKBONE + p for p in places if BACKBONE + p in state), None)
        if source is None or state[source].shape != wanted[name].shape:
            raise WeightsError(
                f"{spec.name}: its weights hold no {inner} of shape {tuple(wanted[name].shape)} "
                "for the pyramid of features; pass --random-weights"
            )
        found[name] = state[source]
    return found
