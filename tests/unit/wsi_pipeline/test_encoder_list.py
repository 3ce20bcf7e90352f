"""`wsi encoders`: which there are, whether they can be used here, and on what terms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mil_models.registry import DEFAULT_ENCODER, specs
from tests.unit.wsi_pipeline.test_cli import wsi


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("WSI_WEIGHTS", raising=False)


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("encoders", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(specs())
    assert next(iter(rows)) == DEFAULT_ENCODER
    assert rows[DEFAULT_ENCODER]["state"] == "available offline"
    assert rows[DEFAULT_ENCODER]["proof"] == "golden"
    assert rows["virchow2"] == {
        "name": "virchow2", "state": "gated, missing", "licence": "CC-BY-NC-ND-4.0",
        "commercial": False, "gated": True, "tile_px": 224, "mpp": [0.5, 0.25, 1.0, 2.0],
        "width": 2560, "proof": "counted",
    }  # fmt: skip
    states = {name: row["state"] for name, row in rows.items()}
    assert states["conch"] == states["musk"] == "needs a plug-in"
    assert states["phikon"] == "on the hub"
    assert states["ctranspath"] == "missing"
    unproven = {name for name, row in rows.items() if row["proof"] == "unproven"}
    assert unproven == {
        "conch", "conch-v1.5", "genbio-pathfm", "musk", "keep", "kaiko-vits8", "kaiko-vits16",
        "kaiko-vitb8", "kaiko-vitb16", "kaiko-vitl14",
    }  # fmt: skip


def test_the_list_as_people_read_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line an encoder in 80 columns: only the licence may be cut."""
    monkeypatch.setenv("COLUMNS", "80")
    assert wsi("encoders") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(specs()) + 4
    assert all(len(line) <= 80 for line in lines)
    by_name = {line.split()[0]: line.split() for line in lines}
    assert by_name["gigapath"][1:7] == ["gated", "research", "256", "0.5", "1536", "counted"]
    assert by_name["virchow2"][4] == "0.25-2"
    assert by_name["resnet50"][3] == "96+"


def test_one_in_full(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert wsi("encoders", "gigapath", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["resize_px"], found["interpolation"], found["crop_px"]) == (256, "bicubic", 224)
    assert found["weights_source"] == "prov-gigapath/prov-gigapath"
    assert found["weights_here"] is None
    assert found["parameters"] == "1.13B"
    assert "LazySlide" in found["parameters_source"]
    assert wsi("encoders", "gigapath") == 0
    assert "prov-gigapath/prov-gigapath" in capsys.readouterr().out
    path = tmp_path / "mine.toml"
    path.write_text("[input]\ntile_px = 224\nsize = 3")
    assert wsi("encoders", path) == 2
    assert "mine.toml: [build] lacks the key architecture" in " ".join(
        capsys.readouterr().err.split()
    )


def test_names_of_timm_and_wrong_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("encoders", "resnet10t", "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"] == "as timm describes it"
    assert wsi("encoders", "virchow3") == 2
    assert "did you mean virchow, virchow2?" in capsys.readouterr().err


def test_a_plugin_that_is_not_installed_is_wrong_usage(
    tissue_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wsi("embed", tissue_path, "-o", tmp_path / "out", "--encoder", "conch") == 2
    assert "conch: its authors ship their own code" in capsys.readouterr().err


def test_listing_is_quick() -> None:
    """Nothing heavy is loaded to list what there is."""
    code = (
        "import sys; from wsi_pipeline.encoder_list import encoder_list; encoder_list();"
        "print([m for m in ('torch', 'timm', 'zarr') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
