from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from mil_models import create_encoder, engines
from mil_models.encoders import Encoder, device_of
from mil_models.errors import EncoderMismatchError, UnknownEncoderError

TINY = "resnet10t"
ENGINES = [name for name in engines.ENGINES if engines.is_installed(name)]
PLAIN = {"device": "cpu", "engine": "torch", "precision": "float32"}


def tiles(count: int, size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_the_offline_default_gives_the_published_features(
    shared_data: Path, name: str, engine: str
) -> None:
    """Golden values of ../shared/data/imagenet_weights: shorter side 256, centre crop 224."""
    from skimage import data

    path = shared_data / "imagenet_weights" / "efficientnet_lite0_expected.json"
    expected = json.loads(path.read_text())["expected"][name]
    image = Image.fromarray(getattr(data, name)())
    scale = 256 / min(image.size)
    size = (int(image.width * scale), int(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    tile = np.asarray(image.crop((left, top, left + 224, top + 224)))
    encoder = create_encoder(device="cpu", engine=engine, precision="float32", batch_size=1)
    features = encoder.embed(tile[None])[0]
    assert features.shape == (expected["feature_dim"],)
    assert np.linalg.norm(features) == pytest.approx(expected["feature_l2"], rel=1e-3)
    assert features[:8] == pytest.approx(expected["feature_first8"], abs=5e-3)


def test_normalisation_and_pooling_against_plain_torch(tiny: Encoder) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(TINY, num_classes=0).eval()
    config = model.pretrained_cfg
    pixels = tiles(3)
    normal = (pixels / 255 - np.array(config["mean"])) / np.array(config["std"])
    with torch.inference_mode():
        wanted = model(torch.from_numpy(normal.transpose(0, 3, 1, 2)).float()).numpy()
    assert tiny.embed(pixels) == pytest.approx(wanted, abs=1e-4)
    assert tiny.contract.width == wanted.shape[1]


def test_a_tiles_numbers_do_not_depend_on_its_neighbours(tiny: Encoder) -> None:
    """The last batch is padded: bytes, not nearly."""
    pixels = tiles(6)
    whole = tiny.embed(pixels)
    alone = np.concatenate(
        [tiny.embed(pixels[:4]), tiny.embed(pixels[4:5]), tiny.embed(pixels[5:])]
    )
    assert whole[:5].tobytes() == alone[:5].tobytes()
    assert whole[5] == pytest.approx(alone[5], abs=1e-5)
    assert tiny.embed(pixels[:0]).shape == (0, tiny.contract.width)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one = create_encoder(TINY, random_weights=True, seed=5, **PLAIN).embed(tiles(1))
    assert torch.equal(torch.rand(3), expected)
    two = create_encoder(TINY, random_weights=True, seed=5, **PLAIN).embed(tiles(1))
    other = create_encoder(TINY, random_weights=True, seed=6, **PLAIN).embed(tiles(1))
    assert one.tobytes() == two.tobytes()
    assert not np.allclose(one, other)


def test_local_weights(tmp_path: Path) -> None:
    model = timm.create_model(TINY)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    first = create_encoder(TINY, weights=tmp_path / "w.safetensors", **PLAIN)
    second = create_encoder(TINY, weights=tmp_path / "w.pth", **PLAIN)
    assert first.embed(tiles(1)).tobytes() == second.embed(tiles(1)).tobytes()
    assert first.contract.weights.startswith("sha256:")
    assert first.contract != second.contract


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownEncoderError, match="did you mean .*resnet50"):
        create_encoder("resnt50")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [(TINY, [96, 224, 256], [64, 100, 250]), ("vit_tiny_patch16_224", [224], [256, 192])],
)
def test_tile_sizes(name: str, good: list[int], bad: list[int]) -> None:
    contract = create_encoder(name, random_weights=True, **PLAIN).contract
    for size in good:
        contract.check_tiles(size, 0.5)
    for size in bad:
        with pytest.raises(EncoderMismatchError, match=f"not {size}; pass --tile-px"):
            contract.check_tiles(size, 0.5)
        contract.check_tiles(size, 0.5, allow_mismatch=True)
    assert contract.default_tile_px == (224 if "vit" in name else 256)


def test_every_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slides are shared out over workers, workers over GPUs; what was asked for by name stays."""
    import torch

    assert device_of("auto", 3) == "auto" or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of("auto", n) for n in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert device_of("cuda", 1) == "cuda:1"
    assert device_of("cuda:0", 1) == "cuda:0"
    assert device_of("cpu", 1) == "cpu"
