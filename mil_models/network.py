"""From an encoder's description to its network: build, resize, crop, pool."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mil_models.encoder_spec import EncoderSpec, WeightsSource
from mil_models.errors import (
    EncoderMismatchError,
    EncoderSpecError,
    UnknownEncoderError,
)
from mil_models.plugins import build_plugin
from mil_models.registry import specs
from mil_models.resize import resize
from mil_models.spec_file import read_spec


class ConvStem(nn.Module):
    """Convolutions in place of patches (Xiao et al. 2021, arXiv:2106.14881), as CTransPath has it.

    Two 3 x 3 convolutions of stride 2, then a 1 x 1 convolution to the width of the tokens.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        if patch_size != 4:
            raise ValueError(f"patch_size={patch_size}: a ConvStem halves twice, so 4")
        height, width = img_size if isinstance(img_size, tuple) else (img_size, img_size)
        self.grid_size = (height // patch_size, width // patch_size)
        half, full = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, half, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, full, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(full),
            nn.ReLU(),
            nn.Conv2d(full, embed_dim, 1),
        )
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return tokens (B, H / 4, W / 4, D) of `pixels` (B, 3, H, W)."""
        tokens: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return tokens


_layers: Any = timm.layers
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "ConvStem": ConvStem,
    "GELU": nn.GELU,
    "GluMlp": _layers.GluMlp,
    "LayerNorm": nn.LayerNorm,
    "Mlp": _layers.Mlp,
    "SiLU": nn.SiLU,
    "SwiGLU": _layers.SwiGLU,
    "SwiGLUPacked": _layers.SwiGLUPacked,
}
"""Layers that a file may name in build arguments whose name ends with ``_layer``."""


def _pool_timm(backbone: Any, pixels: Tensor) -> Tensor:
    pooled: Tensor = backbone.forward_head(backbone.forward_features(pixels), pre_logits=True)
    return pooled


def _pool_class(backbone: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = backbone.forward_features(pixels)  # (B, prefix + patches, D)
    return tokens[:, 0]


def _pool_patches(backbone: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = backbone.forward_features(pixels)
    return tokens[:, backbone.num_prefix_tokens :].mean(dim=1)


def _pool_class_and_patches(backbone: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = backbone.forward_features(pixels)
    return torch.cat([tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].mean(dim=1)], dim=1)


def _pool_plugin(backbone: Any, pixels: Tensor) -> Tensor:
    pooled: Tensor = backbone(pixels)
    return pooled


POOLINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "timm": _pool_timm,
    "cls": _pool_class,
    "mean": _pool_patches,
    "cls+mean": _pool_class_and_patches,
    "plugin": _pool_plugin,
}
"""How (B, 3, H, W) becomes (B, D).

``timm``: timm's own rule, before the classifier. ``cls``: the class token, after the last norm.
``mean``: the mean of the patch tokens, class and register tokens left out. ``cls+mean``: both,
one after the other. ``plugin``: what the plug-in's module returns.
"""


class TileNetwork(nn.Module):
    """An encoder from a tile as it comes from the slide, normalised, to its embedding."""

    black: Tensor
    white: Tensor

    def __init__(self, spec: EncoderSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.name = spec.name
        self.resize_px, self.crop_px = spec.resize_px, spec.crop_px
        takes_any = spec.library == "plugin" or spec.arguments.get("dynamic_img_size")
        self.only_px = None if takes_any else spec.input_px
        self.interpolation, self.unit_length = spec.interpolation, spec.unit_length
        # What is black and white after normalisation: a bicubic resize must not leave 0 to 1.
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("black", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("white", ((1 - mean) / std).view(1, 3, 1, 1), persistent=False)
        self.backbone = backbone
        self.pool = POOLINGS[spec.pooling]
        self.projection: nn.Module | None = None
        if spec.projection:
            hidden, width = spec.projection
            features = int(backbone.num_features)  # type: ignore[arg-type]
            self.projection = nn.Sequential(
                nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, width)
            )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return embeddings (B, D) of normalised `pixels` (B, 3, H, W)."""
        return self.embed_by(self.backbone, pixels)

    def embed_by(self, backbone: Any, pixels: Tensor) -> Tensor:
        """Return what `forward` does, by something that stands in for the backbone."""
        found = self.pool(backbone, self.prepared(pixels))
        if self.projection is not None:
            found = self.projection(found)
        return normalize(found, dim=-1) if self.unit_length else found

    def prepared(self, pixels: Tensor) -> Tensor:
        """Return what the backbone sees: `pixels` resized and cropped as the authors do."""
        if self.resize_px is not None and pixels.shape[-1] != self.resize_px:
            pixels = resize(
                pixels, self.resize_px, self.interpolation, black=self.black, white=self.white
            )
        size = self.resize_px or pixels.shape[-1]
        if self.crop_px is not None and size != self.crop_px:
            start = round((size - self.crop_px) / 2)  # torchvision's CenterCrop
            stop = start + self.crop_px
            pixels = pixels[..., start:stop, start:stop]
        if self.only_px is not None and pixels.shape[-1] != self.only_px:
            raise EncoderMismatchError(
                f"{self.name} takes {self.only_px} px and nothing else, not {pixels.shape[-1]}: "
                f"its authors state no resize; pass --tile-px {self.only_px}"
            )
        return pixels


def build_network(spec: EncoderSpec) -> nn.Module:
    """Return the encoder's network with random weights, in evaluation mode.

    Its `forward` takes normalised float pixels ``(B, 3, H, W)`` of tiles as they come from the
    slide and returns ``(B, D)``; it can be traced and exported as one module.

    Raises
    ------
    EncoderSpecError
        timm does not take the build arguments, or a layer is not one of `LAYERS`.
    MissingPluginError
        No plug-in for this encoder is installed.
    """
    backbone = build_plugin(spec) if spec.library == "plugin" else _timm_backbone(spec)
    return TileNetwork(spec, backbone).eval().requires_grad_(False)


def find_spec(name: str) -> EncoderSpec:
    """Return the encoder called `name`: one of ours, a TOML file of yours, or any timm model.

    Raises
    ------
    UnknownEncoderError
        There is none.
    EncoderSpecError
        The file is wrong.
    """
    if name.endswith(".toml"):
        return read_spec(Path(name))
    return specs().get(name) or _spec_from_timm(name)


def _timm_backbone(spec: EncoderSpec) -> nn.Module:
    if not timm.is_model(spec.architecture.partition(".")[0]):
        raise EncoderSpecError(f"{spec.name}: timm has no architecture {spec.architecture!r}")
    arguments = {key: _argument(spec, key, value) for key, value in spec.arguments.items()}
    if spec.resize_px or spec.crop_px:
        # The backbone sees one size only: the same numbers from a smaller graph.
        arguments.pop("dynamic_img_size", None)
    try:
        model: nn.Module = timm.create_model(spec.architecture, num_classes=0, **arguments)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as err:
        raise EncoderSpecError(
            f"{spec.name}: timm cannot build {spec.architecture} with {spec.arguments}: {err}"
        ) from err
    return model


def _argument(spec: EncoderSpec, key: str, value: Any) -> Any:
    """Return a build argument as timm takes it: layers by their name from `LAYERS` only."""
    if isinstance(value, list):
        return tuple(value)
    if not key.endswith("_layer"):
        return value
    settings = dict(value) if isinstance(value, dict) else {"layer": value}
    name = settings.pop("layer", None)
    if name not in LAYERS:
        raise EncoderSpecError(
            f"{spec.name}: {key} = {value!r}: no such layer; allowed: {', '.join(LAYERS)}"
        )
    return functools.partial(LAYERS[name], **settings) if settings else LAYERS[name]


def _spec_from_timm(name: str) -> EncoderSpec:
    """Return a spec of the timm model called `name`, as timm describes it."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(name, [*specs(), *timm.list_models()], n=3, cutoff=0.5)
        own = "`wsi encoders` lists them, WSI_ENCODERS names a folder of your own TOML files"
        hint = f"did you mean {', '.join(close)}?" if close else own
        raise UnknownEncoderError(f"no encoder called {name!r}; {hint}")
    try:
        with torch.device("meta"):
            model: Any = timm.create_model(name, pretrained=False, num_classes=0)
            config = model.pretrained_cfg
            size = config["input_size"]
            features = model.eval().forward_features(torch.empty(1, *size))
            width = int(model.forward_head(features, pre_logits=True).shape[-1])
    except (AttributeError, RuntimeError, ValueError) as err:
        raise UnknownEncoderError(f"timm cannot build {name!r}: {err}") from err
    return EncoderSpec(
        name=name,
        summary="as timm describes it",
        library="timm",
        architecture=name,
        arguments={},
        tile_px=int(size[-1]) if config.get("fixed_input_size") else None,
        trained_mpp=(),
        mpp_tolerance=0.1,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resize_px=None,
        interpolation="bilinear",
        crop_px=None,
        pooling="timm",
        projection=(),
        unit_length=False,
        width=width,
        precision="float32",
        licence=str(config.get("license") or "unknown"),
        commercial=None,
        weights=WeightsSource(
            repository=str(config.get("hf_hub_id") or ""),
            files=("model.safetensors", "open_clip_model.safetensors"),
        ),
    )
