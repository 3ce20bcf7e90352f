"""`wsi camelyon predict`: maps, detections, scores, and CAMELYON17's nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mil_models import load_model
from mil_models.detection import detect
from mil_models.tile_scores import held_out_heads, tile_scores
from tests.unit.wsi_pipeline.camelyon.conftest import (
    LESIONS,
    NORMAL,
    SIZE,
    TILE,
    Archive,
    rows,
    wsi,
)
from wsi_pipeline.camelyon.detections import read_detections
from wsi_pipeline.camelyon.maps import load_map
from wsi_pipeline.errors import UsageError

Capture = pytest.CaptureFixture[str]


def predict(archive: Archive, model: Path, out: Path, *flags: object) -> int:
    return wsi("camelyon", "predict", "--stores", archive.out, "--model", model, "-o", out, *flags)


def test_from_a_model_to_the_challenges_files(
    archive: Archive, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Each file is what the functions give; the challenge's figures are read from them."""
    out = tmp_path / "predicted"
    assert predict(archive, model, out, "--threshold", "0.3") == 0
    names = {*NORMAL, *LESIONS}
    assert {p.stem for p in (out / "detections").iterdir()} == names
    loaded = load_model(model)
    held_out = held_out_heads(loaded, str(model))
    table = {row["slide"]: row for row in rows(out / "scores.csv")}
    assert set(table) == names
    for name, store in archive.stores.items():
        found = tile_scores(loaded, store, held_out=held_out)
        assert float(table[name]["score"]) == pytest.approx(found.score)
        assert (table[name]["heads"], table[name]["seen_in_training"]) in (
            ("0", "false"), ("1", "false")
        )  # fmt: skip
        map_ = load_map(out / "maps" / f"{name}.npz")
        assert (map_.cell_px, map_.slide_size, map_.mpp) == ((TILE, TILE), SIZE, (0.5, 0.5))
        column, row = (store.grid.coords // TILE).T
        assert map_.values[row, column] == pytest.approx(found.values, abs=1e-6)
        assert np.isfinite(map_.values).sum() == 64
        detected = read_detections(out / "detections" / f"{name}.csv", size=SIZE)
        expected = detect(map_.values, cell_px=(TILE, TILE), threshold=0.3)
        assert detected.scores == pytest.approx([d.score for d in expected], abs=1e-8)
        assert detected.x0.tolist() == [d.x0 for d in expected]
        assert int(table[name]["detections"]) == len(expected)
    capsys.readouterr()
    assert wsi("camelyon", "auc", out / "scores.csv", archive.root / "reference.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["auroc"] > 0.5
    assert wsi("camelyon", "froc", "--detections", out / "detections", "--masks",
               archive.root / "masks", "--reference", archive.root / "reference.csv",
               "--json") == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert sum(s["n_lesions"] for s in found["slides"].values()) == 4
    assert sum(len(s["itc_labels"]) for s in found["slides"].values()) == 1
    assert not (out / "nodes.csv").exists()


def test_other_settings_want_another_folder(
    archive: Archive, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "predicted"
    assert predict(archive, model, out, "--method", "nms", "--radius-um", "200") == 0
    assert predict(archive, model, out, "--method", "nms", "--radius-um", "200") == 0
    assert predict(archive, model, out) == 2
    assert "with another method, radius_um" in " ".join(capsys.readouterr().err.split())
    (out / "predict.json").unlink()
    assert predict(archive, model, out) == 2
    assert "of another origin" in capsys.readouterr().err
    assert predict(archive, model, tmp_path / "x", "--threshold", "0") == 2
    assert "--threshold 0.0: must be above 0" in " ".join(capsys.readouterr().err.split())


def test_a_slide_that_cannot_be_scored_is_left_out_and_named(
    archive: Archive, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    """No file of detections is made up for it, so that FROC refuses."""
    root = tmp_path / "out" / "stores"
    root.mkdir(parents=True)
    for name in ("normal_001", "tumor_001"):
        shutil.copytree(archive.out / "stores" / f"{name}.zarr", root / f"{name}.zarr")
    shutil.rmtree(next((root / "normal_001.zarr" / "embeddings").glob("made-up-*")))
    code = predict(Archive(tmp_path), model, tmp_path / "p")
    assert code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 slides scored" in said
    assert "normal_001: normal_001: the store holds no finished embeddings" in said
    assert [r["slide"] for r in rows(tmp_path / "p" / "scores.csv")] == ["tumor_001"]
    assert not (tmp_path / "p" / "detections" / "normal_001.csv").exists()


def test_nodes_of_camelyon17_make_a_submission(
    archive: Archive, model: Path, tmp_path: Path
) -> None:
    """Longest diameter of what reaches the threshold, classes by size, stage of the patient."""
    root = tmp_path / "out" / "stores"
    root.mkdir(parents=True)
    sources = ["tumor_001", "tumor_004", "normal_001", "normal_002"]
    for node, name in enumerate(sources):
        path = root / f"patient_007_node_{node}.zarr"
        shutil.copytree(archive.out / "stores" / f"{name}.zarr", path)
        meta = json.loads((path / "zarr.json").read_text())
        meta["attributes"]["wsi_pipeline"]["slide_id"] = path.stem
        (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.warns(UserWarning, match=r"without 5 scored nodes: patient_007 \(4\)"):
        assert predict(Archive(tmp_path), model, tmp_path / "four") == 0
    assert not (tmp_path / "four" / "submission.csv").exists()
    shutil.copytree(root / "patient_007_node_3.zarr", root / "patient_007_node_4.zarr")
    meta = json.loads((root / "patient_007_node_4.zarr" / "zarr.json").read_text())
    meta["attributes"]["wsi_pipeline"]["slide_id"] = "patient_007_node_4"
    (root / "patient_007_node_4.zarr" / "zarr.json").write_text(json.dumps(meta))
    assert predict(Archive(tmp_path), model, tmp_path / "five") == 0
    nodes = {r["patient"]: float(r["diameter_mm"]) for r in rows(tmp_path / "five" / "nodes.csv")}
    from mil_models.detection import components
    from mil_models.staging import node_class, patient_stage

    classes = []
    for node in range(5):
        map_ = load_map(tmp_path / "five" / "maps" / f"patient_007_node_{node}.npz")
        found = components(map_.values, cell_px=(TILE, TILE))
        longest = max((c.diameter_px for c in found), default=0) * 0.5 / 1000
        assert nodes[f"patient_007_node_{node}.tif"] == pytest.approx(longest, abs=1e-4)
        classes.append(node_class(longest))
    staged = {r["patient"]: r["stage"] for r in rows(tmp_path / "five" / "submission.csv")}
    assert staged["patient_007.zip"] == patient_stage(classes)
    assert [staged[f"patient_007_node_{n}.tif"] for n in range(5)] == classes


def test_a_broken_map_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"a\.npz: no map"):
        load_map(tmp_path / "a.npz")
