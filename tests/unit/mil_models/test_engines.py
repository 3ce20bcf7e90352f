"""Every engine gives the network's numbers, whatever the lanes and however many tiles there are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from torch import nn

from mil_models import create_encoder, engines
from mil_models.engines.choice import least_cosine, reference_tiles
from mil_models.errors import EngineError

INSTALLED = [name for name in engines.ENGINES if engines.is_installed(name)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
needs_openvino = pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is not installed")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return timm.create_model("resnet10t", num_classes=0).eval()


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return reference_tiles(96)


def make(name: str, network: nn.Module, precision: str = "float32", **more: object) -> object:
    return engines.create_engine(
        name, network, mean=MEAN, std=STD, batch=4, precision=precision,
        device=torch.device("cpu"), **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", INSTALLED)
def test_float32_is_plain_torch(name: str, network: nn.Module, tissue: np.ndarray) -> None:
    normal = (tissue[:6] / 255 - np.array(MEAN)) / np.array(STD)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(normal.transpose(0, 3, 1, 2)).float()).numpy()
    found = make(name, network).embed(tissue[:6])
    assert found.dtype == np.float32
    assert found == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("name", INSTALLED)
def test_lanes_and_the_number_of_tiles_change_no_byte(
    name: str, network: nn.Module, tissue: np.ndarray
) -> None:
    engine = make(name, network)
    whole = engine.embed(tissue[:10])
    assert engine.embed_in_lanes(tissue[:10]).tobytes() == whole.tobytes()
    assert engine.embed(tissue[:4]).tobytes() == whole[:4].tobytes()
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(engine.embed, [tissue[:10]] * 6):
            assert found.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", INSTALLED)
def test_blocks_in_a_row_are_the_blocks_one_by_one(
    name: str, network: nn.Module, tissue: np.ndarray
) -> None:
    """Blocks of a whole number of batches, of less than one, and of one tile over."""
    engine = make(name, network)
    blocks = [tissue[:8], tissue[8:11], tissue[11:16]]
    found = list(engine.embed_each(iter(blocks)))
    assert [len(f) for f in found] == [8, 3, 5]
    assert [f.tobytes() for f in found] == [engine.embed(b).tobytes() for b in blocks]


def test_a_gpu_is_given_the_next_block_before_the_last_one_is_fetched(network: nn.Module) -> None:
    """Else it would stand still from block to block: `IN_FLIGHT` batches are on their way."""
    engine = make("torch", network)
    engine._copying = object()
    engine._copied = torch.from_numpy
    asked = []

    def blocks() -> Iterator[np.ndarray]:
        for number in range(3):
            asked.append(number)
            yield np.zeros((4, 96, 96, 3), np.uint8)

    found = engine.embed_each(blocks())
    next(found)
    assert asked == [0, 1]
    assert len(list(found)) == 2


@pytest.mark.parametrize("name", INSTALLED)
def test_bfloat16_is_close_and_not_the_same(
    name: str, network: nn.Module, tissue: np.ndarray
) -> None:
    full = make(name, network)
    try:
        reduced = full.at("bfloat16")
    except EngineError as err:
        pytest.skip(str(err))
    one, other = full.embed(tissue), reduced.embed(tissue)
    assert least_cosine(one, other) > 0.999
    assert one.tobytes() != other.tobytes()
    assert full.at("float32") is full


@needs_openvino
def test_int8_is_calibrated_on_tissue_or_refused(network: nn.Module, tissue: np.ndarray) -> None:
    pytest.importorskip("nncf")
    found = make("openvino", network, "int8", calibration=tissue).embed(tissue)
    assert 0.95 < least_cosine(found, make("openvino", network).embed(tissue)) < 0.99999
    # Tiles of another size than those it is calibrated on: a range encoder takes both.
    from mil_models.engines.openvino import resized

    larger = resized(tissue, (128, 128))
    found = make("openvino", network, "int8", calibration=tissue).embed(larger)
    assert least_cosine(found, make("openvino", network).embed(larger)) > 0.95
    with pytest.raises(EngineError, match="int8 needs tissue tiles to calibrate"):
        make("openvino", network, "int8").embed(tissue)


@needs_openvino
def test_precision_auto_keeps_float32_where_bfloat16_loses_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mil_models.engines.choice.LEAST_COSINE", {"bfloat16": 1.1, "int8": 1.1})
    arguments = {"random_weights": True, "device": "cpu", "batch_size": 4}
    assert create_encoder("resnet10t", **arguments).contract.precision == "float32"


@needs_openvino
def test_openvino_calls_nobody() -> None:
    """Its telemetry package reports every import; it must look missing."""
    import sys

    import mil_models.engines.openvino  # noqa: F401

    assert sys.modules["openvino_telemetry"] is None
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_what_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"random_weights": True, "device": "cpu"}
    with pytest.raises(EngineError, match="choose from auto, torch, openvino"):
        create_encoder("resnet10t", engine="tensorrt", **arguments)
    with pytest.raises(EngineError, match="choose from auto, float32"):
        create_encoder("resnet10t", precision="fp64", **arguments)
    with pytest.raises(EngineError, match="torch has no int8; use --engine openvino"):
        create_encoder("resnet10t", engine="torch", precision="int8", **arguments)
    with pytest.raises(EngineError, match="batch_size=0: must be at least 1"):
        create_encoder("resnet10t", batch_size=0, **arguments)
    with pytest.raises(ValueError, match="torch finds no CUDA device; use auto or cpu"):
        create_encoder("resnet10t", random_weights=True, device="cuda:99")
    monkeypatch.setattr("mil_models.engines.is_installed", lambda name: name == "torch")
    with pytest.raises(EngineError, match=r"pip install 'wsi-pipeline\[openvino\]'"):
        create_encoder("resnet10t", engine="openvino", **arguments)
    assert create_encoder("resnet10t", **arguments).contract.engine == "torch"


def test_a_batch_that_does_not_fit_is_computed_in_halves(
    network: nn.Module, tissue: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that is too small: the same numbers, nearly, and it is counted."""
    engine = make("torch", network)
    wanted = engine.embed(tissue[:4])
    forward = engine._forward

    def small(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("too many")
        return forward(pixels)

    monkeypatch.setattr(engine, "_forward", small)
    assert engine.embed(tissue[:4]) == pytest.approx(wanted, abs=1e-5)
    assert engine.split_batches == 3

    def never(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("none at all")

    monkeypatch.setattr(engine, "_forward", never)
    with pytest.raises(EngineError, match=r"not enough memory for one tile of \(96, 96\) px"):
        engine.embed(tissue[:4])
