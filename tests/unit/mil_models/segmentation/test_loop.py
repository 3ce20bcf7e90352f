"""Training of segmentation networks: it learns, repeats to the bit, and goes on after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mil_models.segmentation.augmentation import augment
from mil_models.segmentation.checkpoint import load_segmentation
from mil_models.segmentation.options import NetworkOptions, SegmentationOptions
from mil_models.segmentation.training import TrainingTiles, train_segmentation

NETWORK = NetworkOptions(architecture="linknet", encoder="resnet10t", tile_px=64, mpp=1.0)
OPTIONS = SegmentationOptions(
    epochs=3, steps=6, batch=4, validation_tiles=6, device="cpu", learning_rate=5e-3, warmup=0,
    checkpoint_seconds=0,
)  # fmt: skip


class Squares:
    """Tiles of grey with a dark purple square, which is what is to be found."""

    def batch(
        self, count: int, *, inside_share: float, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(190, 230, (count, 64, 64, 3), np.uint8)
        masks = np.zeros((count, 64, 64), bool)
        for one, mask in zip(pixels, masks, strict=True):
            top, left = rng.integers(0, 32, 2)
            mask[top : top + 32, left : left + 32] = True
            one[mask] = (90, 30, 120)
        return pixels, masks


def train(out: Path, **changes: object) -> dict[str, object]:
    source = TrainingTiles(Squares(), Squares(), {"sources": []})
    trained = train_segmentation(
        source, out, network=NETWORK, options=OPTIONS, random_weights=True, **changes
    )
    return {"dice": trained.dice, "history": trained.history}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    found = train(folder)
    assert found["dice"] > 0.9  # a colour apart: chance is about 0.4
    return folder


def test_it_learns_and_says_how_well(whole: Path) -> None:
    card = load_segmentation(whole).card
    assert card["metrics"]["validation_dice"] > 0.9
    assert card["training"]["encoder_weights"] == "random:0"
    assert not whole.with_name(".model.training").exists()


def test_a_killed_training_ends_with_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    def stop(epoch: int, epochs: int, figures: object) -> None:
        # Told before the state is saved: what epoch 2 did is lost.
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "model", on_epoch=stop)
    epochs: list[int] = []
    train(tmp_path / "model", on_epoch=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [2, 3]
    for name in ("card.json", "network.safetensors", "epochs.csv"):
        assert (tmp_path / "model" / name).read_bytes() == (whole / name).read_bytes(), name


def test_pixels_and_masks_are_turned_alike() -> None:
    masks = torch.zeros(64, 8, 8)
    masks[:, 1, 2] = 1
    pixels = 0.25 + 0.5 * masks.unsqueeze(1).repeat(1, 3, 1, 1)
    seen, masks = augment(pixels, masks, torch.Generator().manual_seed(0))
    assert torch.equal((seen > 0.5).all(dim=1).float(), masks)
    assert len({tuple(m.flatten().nonzero().flatten().tolist()) for m in masks}) == 8
    # A power of 0.85 to 1.15 of the transmitted light.
    assert float(seen.max()) <= 0.75**0.85
    assert float(seen.min()) >= 0.25**1.15


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"inside_share": 1.5}, {"learning_rate": 0}])
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SegmentationOptions(**wrong)
