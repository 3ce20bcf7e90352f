"""`wsi segment evaluate`: maps in stores against outlines and masks."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mil_models.segmentation.metrics import agreement
from tests.unit.wsi_pipeline.segmentation.conftest import LESIONS, SIZE
from tests.unit.wsi_pipeline.test_cli import wsi
from tiling import open_store
from tiling.probability_map import create_map, open_map
from wsi_pipeline.segmentation import evaluation

pytestmark = pytest.mark.filterwarnings("ignore:.*were trained or judged on")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evaluate(stores: Path, truth: Path, out: Path, *flags: object) -> dict[str, object]:
    code = wsi("segment", "evaluate", "--stores", stores, "--annotations", truth, "-o", out,
               "--normal", "normal_*", *flags)  # fmt: skip
    assert code == 0
    return json.loads((out / "segmentation.json").read_text())


def test_figures_are_those_of_the_whole_masks(
    archive: Path, segmented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Compared in blocks of one cell, against both masks held as a whole."""
    monkeypatch.setattr(evaluation, "CELLS_AT_ONCE", 1)
    found = evaluate(segmented, archive / "truth", tmp_path, "--tolerance-um", "6", "--pictures")
    assert "4 slides" in capsys.readouterr().out
    for name, (x0, y0, x1, y1) in LESIONS.items():
        stored = open_map(open_store(segmented / "stores" / f"{name}.zarr"))
        mask = stored.read(0, slice(None), slice(None)) >= 128
        # A pixel of 2 level-0 px has its centre on a whole one; the lower end is inside.
        y, x = np.mgrid[0 : mask.shape[0], 0 : mask.shape[1]] * 2 + 1
        true = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        expected = agreement(mask, true, stored.grid.mpp, tolerance_um=6)
        slide = found["slides"][name]
        assert slide["dice"] == expected.dice
        assert slide["iou"] == expected.iou
        assert slide["boundary_f1"] == expected.boundary_f1
        assert (slide["lesions"], slide["lesions_hit"]) == (1, 1)
        assert slide["trained_on"]
        assert (tmp_path / "pictures" / f"{name}.png").exists()
    scores = rows_of(tmp_path / "segmentation_scores.csv")
    assert [row["slide_id"] for row in scores] == ["a", "b", "c", "normal_d"]
    values = [float(row["dice"]) for row in scores if row["dice"]]
    assert found["mean_dice"] == pytest.approx(np.mean(values))
    assert found["mean_dice_low"] <= found["mean_dice"] <= found["mean_dice_high"]
    lesions = rows_of(tmp_path / "lesion_scores.csv")
    kinds = [row["kind"] for row in lesions]
    assert kinds.count("true") == found["lesions"] == 3
    assert kinds.count("false") == found["false_lesions"]
    [true] = [row for row in lesions if (row["slide_id"], row["kind"]) == ("b", "true")]
    assert float(true["area_mm2"]) == pytest.approx(260 * 200 / 1e6)
    assert float(true["diameter_mm"]) == pytest.approx(np.hypot(0.26, 0.2))


def test_a_mask_is_as_good_as_an_outline(archive: Path, segmented: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name, (x0, y0, x1, y1) in LESIONS.items():
        mask = np.zeros((SIZE[1], SIZE[0]), bool)
        mask[y0:y1, x0:x1] = True
        Image.fromarray(mask).save(masks / f"{name}.png")
    one = evaluate(segmented, archive / "truth", tmp_path / "one", "--json")
    other = evaluate(segmented, masks, tmp_path / "other", "--json")
    assert one["slides"] == other["slides"]


def test_slides_that_were_trained_on_are_named(
    archive: Path, segmented: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="4 of 4 slides were trained or judged on"):
        evaluate(segmented, archive / "truth", tmp_path, "--json")


def test_patients_are_drawn_together(archive: Path, segmented: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("slide_id,patient_id\na,p\nb,p\nc,p\nnormal_d,p\n")
    found = evaluate(segmented, archive / "truth", tmp_path / "e", "--table", table, "--json")
    # One patient is drawn every time: the interval is the value.
    assert found["mean_dice_low"] == pytest.approx(found["mean_dice"])
    assert found["mean_dice_high"] == pytest.approx(found["mean_dice"])


def test_what_is_missing_is_named(
    archive: Path, segmented: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int, *flags: object, stores: Path = segmented) -> str:
        assert wsi("segment", "evaluate", "--stores", stores, "-o", tmp_path / "e", *flags) == code
        return " ".join(capsys.readouterr().err.split())

    truth = ("--annotations", archive / "truth")
    assert "normal_d: no annotation of it" in refused(2, *truth)
    normal = (*truth, "--normal", "normal_*")
    assert "no finished segmentation called 'fpn'" in refused(3, *normal, "--name", "fpn")
    assert "tolerance_um=-1" in refused(2, *normal, "--tolerance-um", "-1")
    assert "no such folder" in refused(2, *normal, stores=tmp_path / "none")
    wsi("tile", archive / "slides" / "a.tif", "-o", tmp_path / "tiled", "--progress", "none")
    assert "no store in it holds a segmentation" in refused(2, *normal, stores=tmp_path / "tiled")
    Image.new("1", (100, 300)).save(tmp_path / "a.png")
    assert "a.png: 100 x 300 px is not the shape" in refused(
        2, "--annotations", tmp_path / "a.png", "--normal", "*"
    )
    assert not (tmp_path / "e").exists()


def test_an_unfinished_map_is_no_map(archive: Path, tmp_path: Path, segmented: Path) -> None:
    wsi("tile", archive / "slides" / "a.tif", "-o", tmp_path, "--progress", "none")
    store = open_store(tmp_path / "stores" / "a.zarr")
    grid = open_map(open_store(segmented / "stores" / "a.zarr")).grid
    create_map(store, "unet-00000000", grid, {})
    code = wsi("segment", "evaluate", "--stores", tmp_path, "--annotations", archive / "truth",
               "-o", tmp_path / "e")  # fmt: skip
    assert code == 3
