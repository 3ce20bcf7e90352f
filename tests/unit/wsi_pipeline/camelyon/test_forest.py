"""`wsi camelyon train --maps` and `predict --forest`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.wsi_pipeline.camelyon.conftest import Archive, rows, wsi

Capture = pytest.CaptureFixture[str]


def test_cross_validated_on_the_published_table(
    shared_data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """266 training slides: no worse than a logistic regression's 0.87 on the test slides."""
    monkeypatch.setattr("mil_models.heatmap_forest.train_forest.__kwdefaults__",
                        {"folds": 5, "seed": 0, "trees": 100})  # fmt: skip
    table = shared_data / "camelyon_tables" / "camelyon16_train_heatmap_features.csv"
    assert wsi("camelyon", "train", "--maps", table, "-o", tmp_path / "forest", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["slides"], found["tumour"]) == (266, 109)
    assert found["auroc"] > 0.87
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]


def test_from_maps_to_scores_of_slides(
    archive: Archive, model: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, labels = tmp_path / "first", archive.root / "manifest.csv"
    ids = tmp_path / "labels.csv"
    lines = [f"{r['patient_id']},{r['patient_id']},{r['label']}" for r in rows(labels)]
    ids.write_text("\n".join(["slide_id,patient_id,label", *lines]) + "\n")
    flags = ["camelyon", "predict", "--stores", archive.out, "--model", model]
    assert wsi(*flags, "-o", first) == 0
    train = ["camelyon", "train", "--maps", first, "-o", tmp_path / "forest", "--folds", "2"]
    assert wsi(*train) == 2
    assert "--maps takes a folder of predictions with --labels" in capsys.readouterr().err
    assert wsi(*train, "--labels", ids) == 0
    assert "cross-validated AUROC" in capsys.readouterr().out
    assert wsi(*flags, "-o", tmp_path / "second", "--forest", tmp_path / "forest") == 0
    held = {r["slide"]: float(r["out_of_fold"]) for r in rows(tmp_path / "forest/features.csv")}
    got = {r["slide"]: float(r["score"]) for r in rows(tmp_path / "second" / "scores.csv")}
    assert got == pytest.approx(held, abs=1e-8)
    assert (
        wsi(*flags, "-o", tmp_path / "second") == 2
    )  # the folder's slides were scored by a forest
    assert "another forest" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("slide,label\na,1\n", "no column ratio_cancer_tissue50"),
        ("slide_id,label\na,maybe\n", "label is 'maybe'; use tumor or normal"),
        ("slide_id,label\na,1\n", "no map of a; predict these slides first"),
    ],
)
def test_what_is_refused(tmp_path: Path, capsys: Capture, content: str, message: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(content)
    maps = table if content.startswith("slide,") else tmp_path
    words = ["--maps", maps, "--labels", table, "-o", tmp_path / "f"]
    assert wsi("camelyon", "train", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert wsi("camelyon", "train", *words, "--stores", tmp_path) == 2
