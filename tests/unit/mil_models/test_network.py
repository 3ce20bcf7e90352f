"""The network that a description becomes, without the authors' weights."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from mil_models import create_encoder
from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import EncoderMismatchError, EncoderSpecError, MissingPluginError
from mil_models.network import TileNetwork, build_network, find_spec
from mil_models.registry import specs
from mil_models.resize import resize_weights
from tests.unit.mil_models.small import (
    plain_tokens,
    small_network,
    small_spec,
)

NATIVE = [name for name, spec in specs().items() if spec.library == "timm"]
PLAIN = {"device": "cpu", "batch_size": 1, "engine": "torch", "precision": "float32"}
PLUGINS = sorted(set(specs()) - set(NATIVE))
VITS = [name for name in NATIVE if "vit_" in specs()[name].architecture and "dinov3" not in name]
SWIGLU = {"uni2-h", "virchow", "virchow2", "h-optimus-0", "h-optimus-1", "h0-mini", "hibou-b",
          "hibou-l", "gigapath", "midnight", "openmidnight"}  # fmt: skip
REGISTERS = {"uni2-h": 8, "virchow2": 4, "h-optimus-0": 4, "h-optimus-1": 4, "h0-mini": 4,
             "hibou-b": 4, "hibou-l": 4, "openmidnight": 4, "kaiko-vitl14": 4}  # fmt: skip
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def tile(size: int, seed: int = 0) -> np.ndarray:
    """Return noise: it shows every difference in resampling that there is."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def normalised(spec: EncoderSpec, image: np.ndarray) -> np.ndarray:
    """Return (1, 3, H, W) float64 of `image`."""
    return ((image / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)[None]


@pytest.mark.parametrize("name", NATIVE)
def test_full_size_has_the_published_parameters_and_width(name: str) -> None:
    """On the meta device; encoders whose number nobody published say so in `wsi encoders`."""
    spec = specs()[name]
    with torch.device("meta"):
        network = build_network(spec)
        pixels = torch.empty(1, 3, spec.default_tile_px, spec.default_tile_px)
        assert network(pixels).shape == (1, spec.width)
    count = sum(p.numel() for p in network.parameters())
    unproven = {"keep", "tf_efficientnet_lite0"} | {n for n in NATIVE if n.startswith("kaiko-")}
    assert spec.proof.agrees(count) is (name not in unproven), count


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18_Weights"),
        ("resnet50", "ResNet50_Weights"),
        ("densenet121", "DenseNet121_Weights"),
        ("efficientnet_b0", "EfficientNet_B0_Weights"),
        ("convnext_tiny", "ConvNeXt_Tiny_Weights"),
        ("vit_base_patch16_224", "ViT_B_16_Weights"),
    ],
)
def test_published_numbers_of_torchvision(name: str, weights: str) -> None:
    published = getattr(torchvision.models, weights).IMAGENET1K_V1.meta["num_params"]
    assert specs()[name].proof.parameters == str(published)


@pytest.mark.parametrize("name", VITS)
def test_tile_to_embedding_against_plain_numpy(name: str) -> None:
    """Crop, normalisation, transformer, pooling: two blocks, random weights, one fixed tile."""
    spec, network = small_spec(name), small_network(name)
    image = tile(spec.tile_px)
    start = (spec.tile_px - spec.input_px) // 2
    seen = image[start : start + spec.input_px, start : start + spec.input_px]
    state = {k: v.double().numpy() for k, v in network.backbone.state_dict().items()}
    eps = 1e-12 if name == "phikon" else 1e-6
    tokens = plain_tokens(state, normalised(spec, seen), eps=eps, swiglu=name in SWIGLU)[0]
    first = 1 + REGISTERS.get(name, 0)
    assert len(tokens) == first + (spec.input_px // state["patch_embed.proj.weight"].shape[-1]) ** 2
    wanted = tokens[0]
    if name in ("virchow", "virchow2", "h0-mini", "midnight"):
        wanted = np.concatenate([tokens[0], tokens[first:].mean(axis=0)])
    if name == "keep":
        head = {k: v.double() for k, v in network.projection.state_dict().items()}
        hidden = torch.from_numpy(wanted) @ head["0.weight"].T + head["0.bias"]
        hidden = nn.functional.gelu(hidden) @ head["2.weight"].T + head["2.bias"]
        wanted = (hidden / hidden.norm()).numpy()
    pixels = torch.from_numpy(normalised(spec, image)).float()
    found = network(pixels)[0].numpy()
    assert found == pytest.approx(wanted, abs=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_pooling_leaves_registers_out(pooling: str) -> None:
    """A change of a register token after the last block must not be seen."""

    class Tokens(nn.Module):
        num_prefix_tokens = 3

        def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.flatten(2).transpose(1, 2)  # (B, H * W, 3)

    spec = dataclasses.replace(specs()["lunit-vits8"], pooling=pooling, tile_px=3)
    values = torch.arange(27.0).view(1, 3, 3, 3)  # token t is (t, 9 + t, 18 + t)
    cls, mean = [0.0, 9.0, 18.0], [5.5, 14.5, 23.5]  # tokens 3 to 8
    wanted = {"cls": cls, "mean": mean, "cls+mean": cls + mean}[pooling]
    assert TileNetwork(spec, Tokens())(values)[0].tolist() == wanted


def test_ctranspath_starts_with_convolutions() -> None:
    """Wang et al. 2022: two 3 x 3 convolutions of stride 2 with norm and ReLU, one of 1 x 1."""
    network = small_network("ctranspath")
    stem, x = network.backbone.patch_embed, torch.randn(1, 3, 224, 224)
    wanted = x
    for conv, norm in ((0, 1), (3, 4)):
        weight = stem.proj[conv].weight
        wanted = nn.functional.conv2d(wanted, weight, stride=2, padding=1)
        scale = stem.proj[norm].weight / (1 + 1e-5) ** 0.5  # running mean 0, variance 1
        wanted = wanted * scale.view(1, -1, 1, 1) + stem.proj[norm].bias.view(1, -1, 1, 1)
        wanted = wanted.relu()
    wanted = nn.functional.conv2d(wanted, stem.proj[6].weight, stem.proj[6].bias)
    wanted = nn.functional.layer_norm(
        wanted.permute(0, 2, 3, 1), (24,), stem.norm.weight, stem.norm.bias, eps=1e-5
    )
    assert torch.allclose(stem(x), wanted, atol=1e-4)
    tokens = network.backbone.forward_features(x)
    assert torch.allclose(network(x), tokens.mean(dim=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("name", [n for n, s in specs().items() if s.resize_px])
@pytest.mark.parametrize("size", [200, 300])
def test_resize_and_crop_are_pillows(name: str, size: int) -> None:
    """The authors resize bytes with Pillow; ours are not rounded, so within 1.1 grey levels."""
    spec, image = dataclasses.replace(specs()[name], projection=()), tile(size)
    found = TileNetwork(spec, nn.Identity()).prepared(
        torch.from_numpy(normalised(spec, image)).float()
    )
    small = Image.fromarray(image).resize(
        (spec.resize_px, spec.resize_px), RESAMPLING[spec.interpolation]
    )
    start = round((spec.resize_px - spec.crop_px) / 2)
    box = (start, start, start + spec.crop_px, start + spec.crop_px)
    wanted = normalised(spec, np.asarray(small.crop(box)))
    levels = np.abs(found.numpy() - wanted) * np.array(spec.std).reshape(1, 3, 1, 1) * 255
    assert found.shape == wanted.shape
    assert levels.max() < 1.1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_weights_of_a_resize_are_torchs(interpolation: str) -> None:
    """Columns of the identity, resized by torch with antialiasing; unchanged where nothing is."""
    for size, target in ((512, 448), (224, 256), (300, 224)):
        eye = torch.eye(size).view(1, 1, size, size)
        wanted = nn.functional.interpolate(eye, (target, size), mode=interpolation, antialias=True)[
            0, 0
        ]
        assert np.abs(resize_weights(size, target, interpolation) - wanted.numpy()).max() < 5e-5
    assert np.array_equal(resize_weights(224, 224, interpolation), np.eye(224, dtype=np.float32))


def test_a_tile_of_the_right_size_is_not_touched() -> None:
    for name in ("uni", "virchow2", "h-optimus-1"):
        network = TileNetwork(specs()[name], nn.Identity())
        pixels = torch.randn(1, 3, 224, 224)
        assert network.prepared(pixels) is pixels
    pixels = torch.randn(1, 3, 256, 256)
    found = TileNetwork(specs()["gigapath"], nn.Identity()).prepared(pixels)
    assert torch.equal(found, pixels[:, :, 16:240, 16:240])


def test_a_backbone_of_one_size_says_so() -> None:
    """Only reached by --allow-mismatch: the authors of these state no resize."""
    with pytest.raises(EncoderMismatchError, match="lunit-vits8 takes 224 px and nothing else"):
        small_network("lunit-vits8")(torch.zeros(1, 3, 256, 256))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("gigapath", 256), ("keep", 256)])
def test_one_module_can_be_exported_and_traced(name: str, size: int) -> None:
    """An engine takes the tile's resize, crop, backbone and pooling as one graph."""
    network, pixels = small_network(name), torch.randn(2, 3, size, size)
    wanted = network(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporters warn of their own parts
        exported = torch.export.export(network, (pixels,)).module()
        traced = torch.jit.trace(network, pixels)
    assert torch.allclose(exported(pixels), wanted, atol=1e-6)
    assert torch.allclose(traced(pixels), wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["virchow2", "gigapath", "keep", "ctranspath", "resnet10t"])
def test_channels_last_and_bfloat16(name: str) -> None:
    spec = find_spec(name)
    network = small_network(name) if spec.tile_px else build_network(spec)
    size = spec.tile_px or 96
    pixels = torch.randn(2, 3, size, size)
    wanted = network(pixels)
    network = network.to(memory_format=torch.channels_last)
    last = network(pixels.to(memory_format=torch.channels_last))
    assert torch.allclose(last, wanted, atol=1e-4)
    reduced = network.bfloat16()(pixels.bfloat16())
    assert reduced.dtype == torch.bfloat16
    assert nn.functional.cosine_similarity(reduced.float(), wanted).min() > 0.995


def test_layers_come_from_a_list_and_nowhere_else() -> None:
    spec = specs()["uni2-h"]
    for value in ("os.system", "nn.SiLU", {"layer": "eval"}, {"eps": 1e-6}):
        wrong = dataclasses.replace(spec, arguments={**spec.arguments, "act_layer": value})
        with pytest.raises(EncoderSpecError, match="act_layer = .*: no such layer; allowed: Conv"):
            build_network(wrong)
    wrong = dataclasses.replace(spec, arguments={"no_such_argument": 1})
    with pytest.raises(EncoderSpecError, match="uni2-h: timm cannot build .*no_such_argument"):
        build_network(wrong)
    wrong = dataclasses.replace(spec, architecture="vit_gigantic")
    with pytest.raises(EncoderSpecError, match="timm has no architecture 'vit_gigantic'"):
        build_network(wrong)


def test_names_are_those_of_the_authors_files() -> None:
    """timm's names, as on the hub: spot checks of what differs between encoders."""
    with torch.device("meta"):
        uni2 = build_network(specs()["uni2-h"]).backbone.state_dict()
        optimus = build_network(specs()["h-optimus-0"]).backbone.state_dict()
        keep = build_network(specs()["keep"]).state_dict()
    assert uni2["reg_token"].shape == (1, 8, 1536)
    assert uni2["pos_embed"].shape == (1, 256, 1536)
    assert uni2["blocks.23.mlp.fc1.weight"].shape == (8192, 1536)
    assert uni2["blocks.23.mlp.fc2.weight"].shape == (1536, 4096)
    assert optimus["blocks.39.ls2.gamma"].shape == (1536,)
    assert keep["projection.2.weight"].shape == (768, 768)
    assert keep["backbone.blocks.23.ls1.gamma"].shape == (1024,)


@pytest.mark.parametrize("name", PLUGINS)
def test_without_the_plugin_the_error_says_what_to_install(name: str) -> None:
    with pytest.raises(MissingPluginError, match=f"{name}: .*install .* entry point '{name}'"):
        create_encoder(name, random_weights=True, device="cpu")


PLUGIN = """
import torch

class Tower(torch.nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.project = torch.nn.Linear(3, spec.width)

    def forward(self, pixels):
        assert pixels.shape[1:] == (3, 448, 448), pixels.shape
        return self.project(pixels.mean(dim=(2, 3)))
"""


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def install(distribution: str) -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        entry = f"[wsi_pipeline.encoders]\nconch-v1.5 = {distribution}_tower:Tower\n"
        (info / "entry_points.txt").write_text(entry)
        (folder / f"{distribution}_tower.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(folder)

    yield install
    for name in [n for n in sys.modules if n.endswith("_tower")]:
        del sys.modules[name]


def test_an_installed_plugin_is_an_encoder_like_any_other(
    install_plugin: Callable[[str], None], tmp_path: Path
) -> None:
    """It gets what the spec says: CONCH v1.5's tile of 512 px resized to 448, normalised."""
    install_plugin("one")
    spec = specs()["conch-v1.5"]
    encoder = create_encoder("conch-v1.5", random_weights=True, **PLAIN)
    assert encoder.contract.library == "plugin"
    image = np.full((1, 512, 512, 3), [200, 120, 170], np.uint8)
    network = build_network(spec)
    torch.save(network.backbone.state_dict(), tmp_path / "w.pth")
    encoder = create_encoder("conch-v1.5", weights=tmp_path / "w.pth", **PLAIN)
    colour = torch.from_numpy(normalised(spec, image[0]).mean(axis=(2, 3))).float()
    wanted = network.backbone.project(colour).numpy()
    assert encoder.embed(image) == pytest.approx(wanted, abs=1e-4)
    install_plugin("two")
    with pytest.raises(MissingPluginError, match="one_tower:Tower, two_tower:Tower.*keep one"):
        build_network(spec)
