"""Encoders as data: what ours say, and what a wrong file is told."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from mil_models.bags import differences
from mil_models.encoder_spec import EncoderContract, Proof
from mil_models.errors import EncoderMismatchError, EncoderSpecError
from mil_models.network import POOLINGS, build_network, find_spec
from mil_models.registry import specs
from mil_models.spec_file import POOLINGS as POOLING_NAMES
from mil_models.spec_file import read_spec

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
GENBIO = ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187))

# name: tile px, px that the backbone sees, normalisation, pooling, width, µm, gated
AUTHORS_SAY: dict[str, tuple[Any, ...]] = {
    "uni": (224, 224, IMAGENET, "cls", 1024, (0.5,), True),
    "uni2-h": (224, 224, IMAGENET, "cls", 1536, (0.5,), True),
    "virchow": (224, 224, IMAGENET, "cls+mean", 2560, (0.5,), True),
    "virchow2": (224, 224, IMAGENET, "cls+mean", 2560, (0.5, 0.25, 1.0, 2.0), True),
    "h-optimus-0": (224, 224, HOPTIMUS, "cls", 1536, (0.5,), True),
    "h-optimus-1": (224, 224, HOPTIMUS, "cls", 1536, (0.5,), True),
    "h0-mini": (224, 224, HOPTIMUS, "cls+mean", 1536, (0.5,), True),
    "gigapath": (256, 224, IMAGENET, "cls", 1536, (0.5,), True),
    "phikon": (224, 224, IMAGENET, "cls", 768, (0.5,), False),
    "phikon-v2": (224, 224, IMAGENET, "cls", 1024, (0.5,), False),
    "conch": (448, 448, CLIP, "plugin", 512, (0.5,), True),
    "conch-v1.5": (512, 448, IMAGENET, "plugin", 768, (0.5,), True),
    "hibou-b": (224, 224, HIBOU, "cls", 768, (0.5,), True),
    "hibou-l": (224, 224, HIBOU, "cls", 1024, (0.5,), True),
    "midnight": (224, 224, HALF, "cls+mean", 3072, (0.5, 0.25, 1.0, 2.0), False),
    "kaiko-vits16": (224, 224, HALF, "cls", 384, (0.5,), False),
    "kaiko-vits8": (224, 224, HALF, "cls", 384, (0.5,), False),
    "kaiko-vitb16": (224, 224, HALF, "cls", 768, (0.5,), False),
    "kaiko-vitb8": (224, 224, HALF, "cls", 768, (0.5,), False),
    "kaiko-vitl14": (224, 224, HALF, "cls", 1024, (0.5,), False),
    "lunit-vits8": (224, 224, LUNIT, "cls", 384, (0.5,), False),
    "musk": (384, 384, HALF, "plugin", 1024, (0.5, 0.25, 1.0), True),
    "gpfm": (224, 224, IMAGENET, "cls", 1024, (0.5,), False),
    "mstar": (224, 224, IMAGENET, "cls", 1024, (0.5,), True),
    "keep": (224, 224, IMAGENET, "cls", 768, (0.5,), False),
    "openmidnight": (224, 224, IMAGENET, "cls", 1536, (0.5,), True),
    "genbio-pathfm": (224, 224, GENBIO, "plugin", 4608, (0.5,), False),
    "ctranspath": (224, 224, IMAGENET, "timm", 768, (1.0,), False),
}
PHOTOGRAPHS = [name for name, spec in specs().items() if not spec.trained_mpp]


@pytest.mark.parametrize("name", AUTHORS_SAY)
def test_pathology_encoders_are_what_their_authors_say(name: str) -> None:
    """Model cards and papers; the second column is what resize and crop leave of the first."""
    spec = specs()[name]
    found = (
        spec.tile_px, spec.input_px, (spec.mean, spec.std), spec.pooling, spec.width,
        spec.trained_mpp, spec.weights.gated,
    )  # fmt: skip
    assert found == AUTHORS_SAY[name]


def test_no_encoder_is_left_out() -> None:
    assert set(specs()) == set(AUTHORS_SAY) | set(PHOTOGRAPHS)
    assert {"tf_efficientnet_lite0", "resnet18", "resnet50", "densenet121", "efficientnet_b0"} <= (
        set(PHOTOGRAPHS)
    )


@pytest.mark.parametrize("name", sorted(set(PHOTOGRAPHS) - {"tf_efficientnet_lite0"}))
def test_encoders_of_photographs_are_what_timm_says(name: str) -> None:
    spec = specs()[name]
    config = timm.get_pretrained_cfg(spec.architecture)
    assert (spec.mean, spec.std) == (config.mean, config.std)
    assert spec.weights.repository == config.hf_hub_id
    assert spec.licence.lower().replace(" ", "-") == config.license
    assert spec.resize_px is None
    assert spec.crop_px is None


def test_rounded_numbers_of_parameters() -> None:
    assert Proof("1.13B").agrees(1_134_774_272)
    assert not Proof("1.14B").agrees(1_134_774_272)
    assert Proof("1.14B", not_built=1_711_104).agrees(1_134_769_664)
    assert Proof("1134953984").agrees(1_134_953_984)
    assert not Proof("1134953984").agrees(1_134_953_983)


WHOLE = """
summary = "mine"
[build]
architecture = "vit_tiny_patch16_224"
arguments = { img_size = 224, mlp_layer = "SwiGLUPacked" }
[input]
tile_px = 224
mpp = [0.5]
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[output]
pooling = "cls"
width = 192
[licence]
name = "mine"
"""


def test_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path, or by its name in the folder that WSI_ENCODERS names; no code."""
    path = tmp_path / "my.encoder.toml"
    path.write_text(WHOLE)
    spec = find_spec(str(path))
    assert (spec.name, spec.width, spec.mpp_tolerance) == ("my.encoder", 192, 0.1)
    assert spec.weights.files == ("model.safetensors", "pytorch_model.bin")
    assert (spec.commercial, spec.resize_px) == (None, None)
    monkeypatch.setenv("WSI_ENCODERS", str(tmp_path))
    assert find_spec("my.encoder") == spec
    (tmp_path / "uni.toml").write_text(WHOLE)
    with pytest.raises(EncoderSpecError, match=r"uni\.toml: there is an encoder uni already"):
        specs()
    monkeypatch.setenv("WSI_ENCODERS", str(tmp_path / "none"))
    with pytest.raises(EncoderSpecError, match="WSI_ENCODERS=.*no such folder"):
        specs()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width = 192", "", r"\[output\] lacks the key width"),
        ("width = 192", "width = 0", r"\[output\] width = 0: must be the length"),
        ("width = 192", "width = true", r"width = True: must be"),
        ('pooling = "cls"', 'pooling = "max"', "pooling = 'max': must be one of timm, cls, mean"),
        ('pooling = "cls"', 'pooling = "plugin"', r'goes with \[build\] library = "plugin" only'),
        ("mpp = [0.5]", "mpp = 0.5", r"\[input\] mpp = 0.5: must be a list"),
        ("mpp = [0.5]", "mpp = [0.0]", r"mpp = \[0.0\]: must be"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [127.5, 127.5, 127.5]", "mean = .* from 0 to 1"),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5, 0]", "std = .* above 0"),
        ("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5]", "std = .* three numbers"),
        ("tile_px = 224", 'tile_px = "big"', "tile_px = 'big': must be a number .* \"range\""),
        ("tile_px = 224", 'tile_px = "range"\ncrop_px = 224', "cannot have resize_px or crop_px"),
        ("tile_px = 224", "tile_px = 224\ncrop_px = 256", "crop_px = 256: larger than the 224 px"),
        ("tile_px = 224", "tile_size = 224\ntile_px = 224", r"\[input\] has no key tile_size; all"),
        ("img_size = 224,", "checkpoint_path = 'x.pth',", "arguments = .* without .*checkpoint"),
        ("img_size = 224,", "pretrained = true,", "arguments = .* without .*pretrained"),
        ('"vit_tiny_patch16_224"', '"hf-hub:a/b"', "architecture = 'hf-hub:a/b': must be a model"),
        ("[licence]", "[license]", "no key or table license; allowed: summary, build, input"),
        ('[licence]\nname = "mine"', "", r"\[licence\] lacks the key name"),
        ("[licence]", "[weights]\nfiles = 'a'\n[licence]", r"\[weights\] files = 'a': must be a l"),
        ("[licence]", "[proof]\nparameters = '5M'\n[licence]", "parameters needs a source"),
        ("[licence]", "[proof]\nparameters = '5 M'\n[licence]", "parameters = '5 M': must be"),
        (
            "[licence]",
            "[weights]\nrepository = 'x'\n[licence]",
            "repository = 'x': must be owner/n",
        ),
        ("width = 192", "width = 192\nprojection = [64, 64]", "must end with width, 192"),
        ("[licence]", "[licence", "at line"),
    ],
)
def test_a_wrong_file_is_told_the_key_and_what_fits(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in WHOLE
    path = tmp_path / "mine.toml"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(EncoderSpecError, match=message) as caught:
        read_spec(path)
    assert str(path) in str(caught.value)


def test_the_file_in_the_guide_is_right(tmp_path: Path) -> None:
    guide = (Path(__file__).resolve().parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    path = tmp_path / "guide.toml"
    path.write_text(textwrap.dedent(guide.split("```toml\n")[1].split("```")[0]), encoding="utf-8")
    spec = read_spec(path)
    network = build_network(spec)
    assert network(torch.zeros(1, 3, 224, 224)).shape == (1, spec.width)


def test_pooling_rules_are_named_alike() -> None:
    assert tuple(POOLINGS) == POOLING_NAMES


def contract_of(name: str) -> EncoderContract:
    return specs()[name].contract(weights="random:0", precision="float32", engine="torch", batch=1)


@pytest.mark.parametrize(
    ("name", "tile_px", "mpp", "message"),
    [
        ("uni", 224, 0.5, ""),
        ("uni", 224, 0.55, ""),
        ("uni", 224, 0.45, ""),
        ("uni", 224, 0.551, "was trained at 0.5 µm, not 0.551; pass --mpp 0.5"),
        ("uni", 224, 0.25, "was trained at 0.5 µm, not 0.25"),
        ("uni", 256, 0.5, "takes tiles of 224 px, not 256; pass --tile-px 224"),
        ("gigapath", 256, 0.5, ""),
        ("gigapath", 224, 0.5, "takes tiles of 256 px, not 224"),
        ("virchow2", 224, 0.25, ""),
        ("virchow2", 224, 2.0, ""),
        ("virchow2", 224, 0.7, "was trained at 0.5 or 0.25 or 1 or 2 µm, not 0.7; pass --mpp 0.5"),
        ("ctranspath", 224, 0.5, "was trained at 1 µm, not 0.5; pass --mpp 1"),
        ("resnet50", 96, 0.1, ""),
        ("resnet50", 64, 0.5, "takes tiles of a multiple of 32 px from 96, not 64"),
        ("resnet50", 250, 0.5, "takes tiles of a multiple of 32 px from 96, not 250"),
    ],
)
def test_tiles_that_the_encoder_was_not_made_for(
    name: str, tile_px: int, mpp: float, message: str
) -> None:
    contract = contract_of(name)
    assert contract.mismatch(tile_px, mpp).startswith(message)
    assert bool(contract.mismatch(tile_px, mpp)) == bool(message)
    if not message:
        assert contract.check_tiles(tile_px, mpp) == ""
        return
    with pytest.raises(EncoderMismatchError, match=f"{name} .*, or --allow-mismatch"):
        contract.check_tiles(tile_px, mpp)
    allowed = contract.check_tiles(tile_px, mpp, allow_mismatch=True)
    assert allowed == message.partition(";")[0]


@pytest.mark.parametrize("name", ["uni", "gigapath", "tf_efficientnet_lite0"])
def test_the_tile_size_follows_the_encoder(name: str) -> None:
    wanted = {"uni": 224, "gigapath": 256, "tf_efficientnet_lite0": 256}[name]
    assert specs()[name].default_tile_px == contract_of(name).default_tile_px == wanted


@pytest.mark.parametrize("field", [f.name for f in fields(EncoderContract)])
def test_a_contract_differs_by_any_field(field: str) -> None:
    mine = {"encoder": asdict(contract_of("keep")), "tiles": {"tile_px": 224}}
    other = {**mine, "encoder": {**mine["encoder"], field: "something else"}}
    [found] = differences(mine, other)
    assert found.startswith(f"encoder {field}: 'something else', not ")
    less = {**mine, "encoder": {k: v for k, v in mine["encoder"].items() if k != field}}
    assert [d.split(":")[0] for d in differences(mine, less)] == [f"encoder {field}"]
    assert [d.split(":")[0] for d in differences(less, mine)] == [f"encoder {field}"]
    assert differences(mine, mine) == []


def test_a_contract_keeps_all_of_the_spec_that_decides_numbers() -> None:
    """Left out: what is said about the encoder, and where its weights are (their hash decides)."""
    about = {"summary", "commercial", "weights", "proof"}
    kept = {f.name for f in fields(EncoderContract)}
    assert {f.name for f in fields(type(specs()["uni"]))} - about <= kept | {"weights"}
