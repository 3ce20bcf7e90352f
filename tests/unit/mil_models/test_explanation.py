"""Grad-CAM through encoder and head, held against the definition and against finite differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models.checkpoint import Model, load_model
from mil_models.encoders import Encoder, create_encoder
from mil_models.engines import create_engine
from mil_models.errors import EmptyBagError, ExplanationError, ModelMismatchError
from mil_models.explanation import (
    embed_with_maps,
    explain_tile,
    explaining_encoder,
    score_without,
)
from mil_models.heads import HEADS, create_head
from mil_models.network import TileNetwork
from mil_models.prediction import predict, predict_bag
from mil_models.training import train
from tests.unit.mil_models.conftest import MakeStores
from tests.unit.mil_models.small import small_network, small_spec
from tiling import SlideStore, open_slide
from tiling.tiles import read_tiles


@pytest.fixture
def trained(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> tuple[list[SlideStore], Model]:
    stores = make_stores(4)
    labels = write_labels(
        "slide_id,patient_id,label\n"
        + "".join(f"{s.slide_id},p{i},{('no', 'yes')[i % 2]}\n" for i, s in enumerate(stores))
    )
    train(stores, labels, tmp_path / "model", head="abmil", folds=0, epochs=1)
    return stores, load_model(tmp_path / "model")


def pixels_of(store: SlideStore, index: int) -> np.ndarray:
    with open_slide(store.slide_path) as slide:
        return read_tiles(slide, store.grid.coords[index : index + 1], store.geometry)[0][0]


def with_own_embeddings(store: SlideStore, encoder: Encoder) -> None:
    """Put the true embeddings in place of the made-up ones."""
    with open_slide(store.slide_path) as slide:
        tiles, _ = read_tiles(slide, store.grid.coords, store.geometry)
    store.embeddings().data[:] = encoder.embed(tiles)


def test_it_is_the_gradient_of_the_slides_log_odds(
    trained: tuple[list[SlideStore], Model], tiny: Encoder
) -> None:
    """A ResNet's embedding is the mean of its last maps (global average pooling).

    So with e the embedding, dy/dA_k,ij = (dy/de_k) / Z and the map is sum_k (dy/de_k) A_k,ij / Z:
    its mean over the cells is (dy/de) . e / Z. dy/de by central differences of the model's score.
    """
    (store, *_), model = trained
    with_own_embeddings(store, tiny)
    values = store.embeddings().data[:].astype(np.float64)
    found = explain_tile(model, tiny, store, 5, pixels_of(store, 5), output="yes")

    def odds(row: np.ndarray) -> float:
        changed = values.copy()
        changed[5] = row
        heads = [
            head(torch.from_numpy(changed).float()[None], torch.ones(1, len(changed)).bool())
            for head in model.heads
        ]
        return float(np.mean([float(h.logits[0, 1] - h.logits[0, 0]) for h in heads]))

    step = 0.02  # along e itself, so that one directional derivative is all that is needed
    slope = (odds(values[5] * (1 + step)) - odds(values[5] * (1 - step))) / (2 * step)
    cells = (256 // 32) ** 2
    assert found.values.shape == (256, 256)
    assert float(found.values.mean()) * cells == pytest.approx(slope, rel=0.02)
    assert found.logit == pytest.approx(odds(values[5]), abs=1e-4)
    assert found.drift < 1e-6
    assert (found.output, explain_tile(model, tiny, store, 5, pixels_of(store, 5)).output) == (
        "yes", "yes",
    )  # fmt: skip
    against = explain_tile(model, tiny, store, 5, pixels_of(store, 5), output="no")
    assert against.values == pytest.approx(-found.values, abs=1e-7)


def test_the_map_lies_where_the_tile_speaks(
    trained: tuple[list[SlideStore], Model], tiny: Encoder
) -> None:
    """Maps are those of the cells: turned upside down with the features, half of it emptied."""
    (store, *_), model = trained
    with_own_embeddings(store, tiny)
    tile = pixels_of(store, 5)
    plain = explain_tile(model, tiny, store, 5, tile)
    network = tiny.engine.network
    assert isinstance(network, TileNetwork)
    handle = network.backbone.layer4.register_forward_hook(  # type: ignore[union-attr,operator]
        lambda _m, _i, out: out * (torch.arange(8) < 4).float()[None, None, None]
    )
    try:
        half = explain_tile(model, tiny, store, 5, tile)
    finally:
        handle.remove()
    assert np.abs(plain.values[:, 160:]).max() > 0
    assert np.abs(half.values[:, 160:]).max() == 0
    assert np.abs(half.values[:, :96]).max() > 0


@pytest.mark.parametrize("name", ["kaiko-vits16", "virchow2", "dinov3_small", "ctranspath"])
def test_starting_the_gradient_at_the_maps_changes_no_embedding(name: str) -> None:
    """ViT with and without registers, Swin: the same embedding, maps of the grid, gradients."""
    network = small_network(name)
    assert isinstance(network, TileNetwork)
    size = small_spec(name).default_tile_px
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels)
    maps, found = embed_with_maps(network, pixels)
    assert torch.allclose(found, expected, atol=1e-5)
    assert maps.shape[2] == maps.shape[3] > 1
    (gradient,) = torch.autograd.grad(found[0, 0], maps)
    assert float(gradient.abs().max()) > 0


def test_a_vits_map_is_its_tokens_and_their_gradient() -> None:
    """The definition with all of it by hand: tokens that enter the last attention."""
    network = small_network("kaiko-vits16")
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    maps, _ = embed_with_maps(network, pixels)  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []
    norm = network.backbone.blocks[-1].norm1  # type: ignore[union-attr,index]
    handle = norm.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        network(pixels)
    handle.remove()
    assert seen[0].shape == (1, 197, 48)
    assert torch.equal(maps[0, :, 3, 5], seen[0][0, 1 + 3 * 14 + 5])


def test_every_head_lets_the_gradient_through_or_says_that_it_does_not(
    trained: tuple[list[SlideStore], Model], tiny: Encoder
) -> None:
    """DTFD distils picked features without a gradient to them; the last three look at few tiles."""
    (store, *_), model = trained
    tile = pixels_of(store, 5)
    for name in HEADS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = create_head(name, dim=tiny.contract.width, classes=2)
        heads = (head.eval().requires_grad_(False),)
        other = dataclasses.replace(
            model, heads=heads, tasks=model.tasks[:1],
            card={**model.card, "head": {**model.card["head"], "name": name}},
        )  # fmt: skip
        if name == "dtfd":
            with pytest.raises(ExplanationError, match="head dtfd: no gradient leads"):
                explain_tile(other, tiny, store, 5, tile)
            continue
        found = explain_tile(other, tiny, store, 5, tile)
        assert np.isfinite(found.values).all(), name
        assert name in ("max", "topk", "tile") or np.abs(found.values).max() > 0, name


def test_a_crop_is_laid_where_it_was_cut() -> None:
    from mil_models.explanation import _on_tile

    network = small_network("virchow2")
    network.resize_px, network.crop_px = None, 128  # type: ignore[assignment]
    found = _on_tile(network, torch.ones(1, 1, 4, 4), (256, 256))  # type: ignore[arg-type]
    assert np.isnan(found[63]).all()
    assert (found[64:192, 64:192] == 1).all()
    assert np.isnan(found[:, 192]).all()


def test_without_a_region_the_score_is_that_of_the_other_tiles(
    trained: tuple[list[SlideStore], Model],
) -> None:
    (_, store, *_), model = trained
    values = store.embeddings().data[:]
    left = np.delete(np.arange(len(store)), [5, 6])
    expected = predict_bag(model, values[left], store.grid.coords[left])
    found = score_without(store, model, np.array([5, 6]))
    assert found.scores.tolist() == expected.scores.tolist()
    assert len(found.attention) == len(store) - 2
    assert store.prediction_names() == []
    with pytest.raises(EmptyBagError, match="choose fewer"):
        score_without(store, model, np.arange(len(store)))


def test_a_part_of_a_slide_is_scored_by_itself_beside_the_whole(
    trained: tuple[list[SlideStore], Model],
) -> None:
    (store, *_), model = trained
    inside = np.zeros(len(store), bool)
    inside[[2, 3, 5]] = True
    part = predict(store, model, inside=inside)
    values, coords = store.embeddings().data[:], store.grid.coords
    expected = predict_bag(model, values[inside], coords[inside])
    assert list(part.scores.values()) == expected.scores.tolist()
    assert np.isfinite(part.attention).tolist() == inside.tolist()
    assert part.attrs["within"]["tiles"] == 3
    whole = predict(store, model)
    assert whole.name != part.name
    assert store.whole_slide_predictions() == [whole.name]
    assert store.prediction("abmil").name == whole.name
    assert predict(store, model, inside=inside).name == part.name
    with pytest.raises(EmptyBagError, match="no readable tile inside the outlines"):
        predict(store, model, inside=np.zeros(len(store), bool))


def test_another_encoder_is_refused_by_field(
    trained: tuple[list[SlideStore], Model],
) -> None:
    (store, *_), model = trained
    other = create_encoder(
        "resnet10t", random_weights=True, seed=1, device="cpu", batch_size=1, engine="torch",
        precision="float32",
    )  # fmt: skip
    with pytest.raises(ModelMismatchError, match="weights is 'random:1', not 'random:0'"):
        explain_tile(model, other, store, 0, pixels_of(store, 0))
    encoder = explaining_encoder(model)
    assert explain_tile(model, encoder, store, 0, pixels_of(store, 0)).drift > 0.1  # made up


def test_what_cannot_be_explained_is_said(
    trained: tuple[list[SlideStore], Model], tiny: Encoder
) -> None:
    (store, *_), model = trained
    tile = pixels_of(store, 0)
    with pytest.raises(ExplanationError, match="tile 99 could not be read"):
        explain_tile(model, tiny, store, 99, tile)
    with pytest.raises(ExplanationError, match="no output 'x'; the model has no, yes"):
        explain_tile(model, tiny, store, 0, tile, output="x")
    strange = Encoder(
        tiny.contract,
        create_engine(
            "torch", torch.nn.Flatten(), mean=[0] * 3, std=[1] * 3, batch=1, precision="float32",
            device=torch.device("cpu"),
        ),
    )  # fmt: skip
    with pytest.raises(ExplanationError, match="no network of ours"):
        explain_tile(model, strange, store, 0, tile)
