"""`wsi segment predict`: whole slides through a tiny network, killed, resumed, drawn, measured."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mil_models.segmentation.checkpoint import load_segmentation
from mil_models.segmentation.inference import create_segmenter
from tests.unit.wsi_pipeline.segmentation.conftest import CPU, LESIONS, SIZE
from tests.unit.wsi_pipeline.test_cli import files_below, table, wsi
from tiling import open_slide, open_store, read_annotations, tissue_mask
from tiling.errors import SlideReadError
from tiling.probability_map import open_map
from tiling.windows import Blender
from wsi_pipeline.camelyon.detections import read_detections
from wsi_pipeline.camelyon.stages import stage_patients
from wsi_pipeline.segmentation import stage
from wsi_pipeline.segmentation.prediction import write_tables


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_lesions_are_found_where_they_are(segmented: Path) -> None:
    for name, (x0, y0, x1, y1) in LESIONS.items():
        found = open_map(open_store(segmented / "stores" / f"{name}.zarr"))
        values = found.read(0, slice(None), slice(None))
        truth = np.zeros_like(values, bool)
        truth[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] = True
        hit = values >= 128
        assert 2 * (hit & truth).sum() / (hit.sum() + truth.sum()) > 0.85, name
        outlines = read_annotations(segmented / "segmentations" / f"{name}.geojson")
        assert {(a.group, a.kind) for a in outlines} == {("Tumor", "polygon")}
        largest = np.abs(outlines[0].vertices)
        assert np.abs(largest.min(axis=0) - (x0, y0)).max() < 20
        assert np.abs(largest.max(axis=0) - (x1, y1)).max() < 20
        with Image.open(segmented / "segmentations" / f"{name}.png") as picture:
            assert min(picture.size) > 500


def test_measures_of_slides_and_lesions(segmented: Path) -> None:
    slides = {row["slide_id"]: row for row in rows_of(segmented / "segmentation.csv")}
    assert set(slides) == {*LESIONS, "normal_d"}
    x0, y0, x1, y1 = LESIONS["a"]
    assert float(slides["a"]["area_mm2"]) == pytest.approx((x1 - x0) * (y1 - y0) / 1e6, rel=0.25)
    assert float(slides["a"]["burden"]) == pytest.approx(220 * 210 / (520 * 410), rel=0.25)
    lesions = [row for row in rows_of(segmented / "lesions.csv") if row["slide_id"] == "a"]
    assert len(lesions) == int(slides["a"]["lesions_found"])
    largest = max(float(row["diameter_mm"]) for row in lesions)
    assert largest == float(slides["a"]["largest_diameter_mm"])
    assert largest == pytest.approx(np.hypot(0.22, 0.21), rel=0.25)


def test_points_and_scores_are_what_camelyon_reads(segmented: Path) -> None:
    for name, (x0, y0, x1, y1) in LESIONS.items():
        path = segmented / "segmentations" / "detections" / f"{name}.csv"
        found = read_detections(path, size=SIZE)
        best = int(found.scores.argmax())
        assert x0 <= found.x0[best] < x1
        assert y0 <= found.y0[best] < y1
    scores = {row["slide"]: float(row["score"]) for row in
              rows_of(segmented / "segmentations" / "scores.csv")}  # fmt: skip
    assert min(scores[name] for name in LESIONS) > max(0.5, scores["normal_d"])


def test_nodes_of_camelyon17_get_a_stage(tmp_path: Path) -> None:
    folder = tmp_path / "segmentations"
    folder.mkdir()
    diameters = {**{f"patient_001_node_{n}": 0.0 for n in range(5)}, "patient_001_node_3": 2.5}
    for name, diameter in diameters.items():
        found = {"slide_id": name, "score": 0.5, "largest_diameter_mm": diameter, "lesions": []}
        (folder / f"{name}.json").write_text(json.dumps(found))
    write_tables(tmp_path)
    [patient] = stage_patients(folder / "nodes.csv")
    assert patient.stage == "pN1"


def test_the_map_is_the_networks_answer_window_by_window(
    archive: Path, model: Path, segmented: Path
) -> None:
    """Each window read by itself and all of them blended at once give the stored map."""
    found = open_map(open_store(segmented / "stores" / "b.zarr"))
    grid = found.grid
    assert (grid.tile_px, grid.overlap_px, grid.size) == (64, 16, (351, 262))
    segmenter = create_segmenter(load_segmentation(model).network, device="cpu", engine="torch")
    with open_slide(archive / "slides" / "b.tif") as slide:
        windows = stage.on_tissue(grid, tissue_mask(slide))
        blender = Blender(grid)
        for strip in range(grid.cells[1]):
            answers = []
            for column in np.flatnonzero(windows[strip]) if strip < len(windows) else []:
                x0, y0 = grid.coords(strip)[column].tolist()
                pixels = slide.read_scaled((x0, y0), grid.extent, (64, 64))
                answers.append((int(column), segmenter.probabilities(pixels[None])[0]))
            for column, cell in blender.strip(answers):
                top, left = strip * 48, column * 48
                stored = found.read(0, slice(top, top + 48), slice(left, left + 48))
                difference = stored.astype(int) - cell[: stored.shape[0], : stored.shape[1]]
                assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_killed_slide_ends_with_the_same_bytes(
    killed_at: int, archive: Path, model: Path, segmented: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is done stays; only the strip above the first missing one is computed again."""
    original = Blender.strip
    strips: list[int] = []

    def killed(self: Blender, windows: object) -> object:
        if len(strips) == killed_at:
            raise KeyboardInterrupt
        strips.append(0)
        return original(self, windows)

    arguments = ("segment", "predict", archive / "slides" / "a.tif", "--model", model, "-o",
                 tmp_path / "out", *CPU)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Blender, "strip", killed)
        assert wsi(*arguments) == 130
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Blender, "strip", lambda self, w: seen.append(0) or original(self, w))
        assert wsi(*arguments) == 0
    whole = segmented / "stores" / "a.zarr" / "segmentations"
    assert files_below(tmp_path / "out" / "stores" / "a.zarr" / "segmentations") == files_below(
        whole
    )
    grid = open_map(open_store(tmp_path / "out" / "stores" / "a.zarr")).grid
    assert len(seen) == grid.cells[1] - killed_at + 1


def test_again_nothing_is_computed(
    archive: Path, model: Path, segmented: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blender, "strip", None)
    before = files_below(segmented / "stores" / "c.zarr")
    slide = archive / "slides" / "c.tif"
    code = wsi("segment", "predict", slide, "--model", model, "-o", segmented, *CPU,
               "--threshold", "0.6")  # fmt: skip
    assert code == 0
    assert files_below(segmented / "stores" / "c.zarr") == before


def test_bad_slides_are_rows_with_their_reason(
    archive: Path, model: Path, blank_path: Path, no_mpp_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in (blank_path, no_mpp_path, archive / "slides" / "a.tif"):
        shutil.copy(path, folder)
    manifest = tmp_path / "m.csv"
    rows = [f"slides/{n}.tif,{mpp}" for n, mpp in (("blank", ""), ("no_mpp", ""), ("a", "5"))]
    manifest.write_text("\n".join(["path,mpp", *rows]))
    assert wsi("segment", "predict", manifest, "--model", model, "-o", tmp_path / "out", *CPU) == 1
    found = {slide: row for (slide, _), row in table(tmp_path / "out").items()}
    assert (found["blank"]["status"], found["blank"]["reason"]) == ("skipped", "no tissue")
    assert "no mpp in the metadata" in found["no_mpp"]["reason"]
    assert "its finest pixels have 5 µm, the network works at 2 µm" in found["a"]["reason"]
    [row] = rows_of(tmp_path / "out" / "segmentation.csv")
    assert (row["slide_id"], row["lesions_found"], row["burden"]) == ("blank", "0", "")


def test_other_models_and_wrong_flags_start_nothing(
    archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*flags: object, model: Path = model) -> str:
        assert wsi("segment", "predict", archive / "slides", "--model", model, "-o",
                   tmp_path / "out", *flags) == 2  # fmt: skip
        return " ".join(capsys.readouterr().err.split())

    (tmp_path / "mil").mkdir()
    (tmp_path / "mil" / "card.json").write_text(json.dumps({"schema_version": 2}))
    assert "a model of kind MIL, not of segmentation" in refused(model=tmp_path / "mil")
    assert "not a model folder" in refused(model=tmp_path / "none")
    assert "threshold=0" in refused("--threshold", "0")
    assert "overlap_px=3" in refused("--overlap-px", "3")
    assert not (tmp_path / "out").exists()


def test_windows_that_cannot_be_decoded_are_counted(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every window whose left edge lies in the second half is white and unreadable."""
    from tiling.slide import Slide

    original = Slide.read_into

    def broken(
        self: Slide, out: np.ndarray, coords: np.ndarray, *args: object, **kw: object
    ) -> object:
        errors = dict(original(self, out, coords, *args, **kw))
        bad = np.flatnonzero(coords[:, 0] > SIZE[0] // 2) if len(coords) > 1 else []
        return errors | {int(i): SlideReadError("broken") for i in bad}

    monkeypatch.setattr(Slide, "read_into", broken)
    arguments = ("segment", "predict", archive / "slides" / "b.tif", "--model", model, "-o",
                 tmp_path / "out", *CPU)  # fmt: skip
    assert wsi(*arguments) == 0
    found = open_map(open_store(tmp_path / "out" / "stores" / "b.zarr"))
    assert found.attrs["unreadable"] > 0
    right = found.read(0, slice(None), slice(4 * 48 + 16, None))
    assert not right.any()
    assert table(tmp_path / "out")["b", "segment"]["bad_tiles"] == str(found.attrs["unreadable"])
