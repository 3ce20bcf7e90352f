"""The network: which encoders, whose weights; the folder it is saved in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models.errors import EncoderError, ModelError, UnknownEncoderError
from mil_models.network import find_spec
from mil_models.segmentation.checkpoint import load_segmentation, save_segmentation
from mil_models.segmentation.inference import create_segmenter
from mil_models.segmentation.network import SegmentationNetwork, create_network
from mil_models.segmentation.options import NetworkOptions
from mil_models.weights import load_network

TINY = NetworkOptions(architecture="linknet", encoder="resnet10t", tile_px=64, mpp=1.0)
HISTORY = [{"epoch": 1, "train_loss": 1.5, "validation_dice": None}]


@pytest.fixture(scope="module")
def tiny() -> SegmentationNetwork:
    network, identity = create_network(TINY, random_weights=True, seed=3)
    assert identity == "random:3"
    return network.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tiny: SegmentationNetwork) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    save_segmentation(folder, tiny, {"training": {"sources": ["ab"]}}, HISTORY)
    return folder


def test_the_encoder_starts_from_its_published_weights() -> None:
    """Each tensor of the pyramid is that of the whole encoder; the deepest features are equal."""
    spec = find_spec("tf_efficientnet_lite0")
    whole, digest = load_network(spec)
    network, identity = create_network(NetworkOptions(tile_px=64))
    assert identity == digest == f"sha256:{spec.weights.sha256}"
    whole_state = whole.state_dict()
    for name, value in network.net.encoder.state_dict().items():
        assert torch.equal(value, whole_state["backbone." + name.removeprefix("model.")]), name


def test_names_of_stages_are_mapped() -> None:
    """timm calls ``stages.0`` of a whole ConvNeXt ``stages_0`` in its pyramid."""
    from mil_models.segmentation.network import _pyramid_state

    spec = find_spec("convnext_tiny")
    wanted = {"model.stages_0.blocks.0.gamma": torch.zeros(4)}
    state = {"backbone.stages.0.blocks.0.gamma": torch.arange(4.0)}
    found = _pyramid_state(spec, wanted, state)
    assert found["model.stages_0.blocks.0.gamma"].tolist() == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_network(tiny: SegmentationNetwork) -> None:
    again, _ = create_network(TINY, random_weights=True, seed=3)
    other, _ = create_network(TINY, random_weights=True, seed=4)
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tiny(pixels)
        assert logits.shape == (2, 64, 96)
        assert torch.equal(again.eval()(pixels), logits)
        assert not torch.equal(other.eval()(pixels), logits)


@pytest.mark.parametrize(
    ("encoder", "error", "text"),
    [
        ("vit_small_patch16_224", EncoderError, "features at 1/2 to 1/32"),
        ("no_such_net", UnknownEncoderError, "no encoder called"),
        ("conch", EncoderError, "plug-in"),
    ],
)
def test_encoders_without_a_pyramid_are_refused(
    encoder: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        create_network(NetworkOptions(encoder=encoder, tile_px=64), random_weights=True)


@pytest.mark.parametrize(
    "wrong", [{"tile_px": 100}, {"tile_px": 32}, {"mpp": 0.0}, {"architecture": "fcn"}]
)
def test_options_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NetworkOptions(**wrong)


def test_a_saved_model_says_the_same(saved: Path, tiny: SegmentationNetwork) -> None:
    loaded = load_segmentation(saved)
    assert loaded.options == TINY
    assert loaded.training_slides == {"ab"}
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.network(pixels), tiny(pixels))
    assert (saved / "epochs.csv").read_text() == "epoch,train_loss,validation_dice\n1,1.5,\n"


def test_other_folders_are_refused(saved: Path, tmp_path: Path, tiny: SegmentationNetwork) -> None:
    with pytest.raises(ModelError, match="exists already"):
        save_segmentation(saved, tiny, {"training": {"sources": []}}, HISTORY)
    with pytest.raises(ModelError, match="not a model folder"):
        load_segmentation(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({"schema_version": 2, "head": {}}))
    with pytest.raises(ModelError, match="of kind MIL, not of segmentation"):
        load_segmentation(tmp_path)
    card = json.loads((saved / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card))
    content = bytearray((saved / "network.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "network.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not the weights that the card names"):
        load_segmentation(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps({**card, "schema_version": 9}))
    with pytest.raises(ModelError, match="schema 9"):
        load_segmentation(tmp_path)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_probabilities_are_the_networks(tiny: SegmentationNetwork, engine: str) -> None:
    """sigmoid of the logits of (pixels / 255 - mean) / std, whatever number of tiles comes."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    tiles = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = create_segmenter(tiny, device="cpu", engine=engine).probabilities(tiles)
    with torch.no_grad():
        logits = tiny(torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255)
    assert found == pytest.approx(logits.sigmoid().numpy(), abs=1e-5)
