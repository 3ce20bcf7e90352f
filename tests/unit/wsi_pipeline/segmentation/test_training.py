"""`wsi segment train`: a model from slides and outlines, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mil_models.segmentation.checkpoint import load_segmentation
from tests.unit.wsi_pipeline.segmentation.conftest import LESIONS, SIZE, TINY, outline
from tests.unit.wsi_pipeline.test_cli import wsi
from wsi_pipeline.errors import UsageError
from wsi_pipeline.manifest import SlideEntry
from wsi_pipeline.segmentation.training import _parts
from wsi_pipeline.segmentation.truth import find_truth


def refused(capsys: pytest.CaptureFixture[str], code: int, *tokens: object) -> str:
    assert wsi("segment", "train", *tokens, *TINY) == code
    return " ".join(capsys.readouterr().err.split())


def test_the_model_finds_the_lesions_colour_and_says_what_it_is(model: Path) -> None:
    card = load_segmentation(model).card
    assert card["kind"] == "segmentation"
    assert card["metrics"]["validation_dice"] > 0.8
    slides = card["training"]["slides"]
    assert sorted(slides["train"] + slides["val"]) == ["a", "b", "c", "normal_d"]
    assert len(slides["val"]) == 1
    assert len(set(card["training"]["sources"])) == 4


def test_masks_say_what_outlines_say(archive: Path, tmp_path: Path, model: Path) -> None:
    """Trained on PNG masks of the same rectangles, the same seed gives the same weights."""
    for name, (x0, y0, x1, y1) in LESIONS.items():
        mask = np.zeros((SIZE[1], SIZE[0]), bool)
        mask[y0:y1, x0:x1] = True
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    other = tmp_path / "model"
    code = wsi("segment", "train", archive / "slides", "--annotations", tmp_path, "-o", other,
               "--normal", "normal_*", *TINY)  # fmt: skip
    assert code == 0
    name = "network.safetensors"
    assert (other / name).read_bytes() == (model / name).read_bytes()


def test_what_is_missing_or_elsewhere_is_named(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slides, truth, out = archive / "slides", archive / "truth", tmp_path / "model"
    args = ("--annotations", truth, "-o", out)
    assert "normal_d: no annotation of it" in refused(capsys, 2, slides, *args)
    (tmp_path / "a.geojson").write_text(json.dumps(outline((5000, 5000, 5100, 5100))))
    args = ("--annotations", tmp_path / "a.geojson", "-o", out)
    assert "outlines lie outside the slide" in refused(capsys, 2, slides / "a.tif", *args)
    (tmp_path / "a.geojson").write_text(json.dumps(outline(LESIONS["a"], "Gland")))
    text = refused(capsys, 2, slides / "a.tif", *args)
    assert "group 'Gland' is neither" in text
    assert "--inside and --outside" in text
    Image.new("1", (300, 300)).save(tmp_path / "b.png")
    args = ("--annotations", tmp_path / "b.png", "-o", out)
    assert "not the shape of its slide" in refused(capsys, 2, slides / "b.tif", *args)
    args = ("--annotations", truth, "-o", out, "--slide-mpp", "4")
    assert "finest pixels have 4 µm" in refused(capsys, 3, slides / "a.tif", *args)
    assert not out.exists()


def test_no_tissue(blank_path: Path, archive: Path, tmp_path: Path,
                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    args = ("--annotations", archive / "truth", "-o", tmp_path / "m", "--normal", "blank")
    assert "no tissue found and nothing annotated" in refused(capsys, 3, blank_path, *args)


def test_truth_is_found_by_the_slides_name(tmp_path: Path) -> None:
    for name in (
        "a.xml",
        "a_mask.png",
        "b_Mask.tif",
        "c.d.geojson",
        "e_evaluation_mask.png",
        "x.txt",
    ):
        (tmp_path / name).touch()
    found = {name: path.name for name, path in find_truth([tmp_path]).items()}
    assert found == {"a": "a.xml", "b": "b_Mask.tif", "c.d": "c.d.geojson",
                     "e": "e_evaluation_mask.png"}  # fmt: skip
    (tmp_path / "b.png").touch()
    with pytest.raises(UsageError, match="b has two"):
        find_truth([tmp_path])
    with pytest.raises(UsageError, match="no such annotation"):
        find_truth([tmp_path / "no"])


def test_patients_stay_together(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [f"s{i},p{i // 3}" for i in range(12)]
    table.write_text("\n".join(["slide_id,patient_id", *rows]))
    entries = [SlideEntry(f"s{i}", f"s{i}.tif") for i in range(12)]
    parts = _parts(entries, table, 0.25, seed=1)
    judging = {i for i, part in parts.items() if part == "val"}
    assert len(judging) == 3
    assert len({int(i[1:]) // 3 for i in judging}) == 1
    assert _parts(entries, table, 0.0, seed=1) == dict.fromkeys(parts, "train")
    table.write_text(
        "slide_id,split\n" + "\n".join(f"s{i},{'test' if i else 'train'}" for i in range(12))
    )
    assert list(_parts(entries, table, 0.5, seed=1).values()) == ["train"] + ["test"] * 11
    table.write_text("slide_id,split\ns0,training\n")
    with pytest.raises(UsageError, match="no row for s1"):
        _parts(entries, table, 0.2, seed=0)
    with pytest.raises(UsageError, match="'training' is none of"):
        _parts(entries[:1], table, 0.2, seed=0)
