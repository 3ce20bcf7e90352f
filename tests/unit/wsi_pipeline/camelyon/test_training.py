"""`wsi camelyon train`: weak and strong, and what the strong one makes of outlines."""

from __future__ import annotations

import csv
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mil_models import load_model
from mil_models.errors import LabelTableError
from mil_models.labels import read_labels
from mil_models.options import TileTrainOptions
from mil_models.tile_scores import tile_scores
from mil_models.tile_training import NEITHER, NORMAL, TUMOUR, _labels_of, train_tiles
from tests.unit.wsi_pipeline.camelyon.conftest import LESIONS, Archive, lesion_area, rows, wsi
from tiling.annotations import area_fractions

Capture = pytest.CaptureFixture[str]
SMALL = ["--folds", "2", "--epochs", "8", "--hidden", "64", "--rounds", "1", "--json"]


def fractions_of(archive: Archive) -> dict[str, np.ndarray]:
    return {
        name: area_fractions(lesion_area(name), store.grid.coords, store.grid.extent)
        for name, store in archive.stores.items()
        if name in LESIONS
    }


@pytest.fixture(scope="module")
def strong(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outlines in a zip file, as they are downloaded, and named with other capitals."""
    place = tmp_path_factory.mktemp("strong")
    with zipfile.ZipFile(place / "lesion_annotations.zip", "w") as packed:
        for path in (archive.root / "annotations").iterdir():
            packed.write(path, f"lesions/{path.name.capitalize()}")
    assert wsi("camelyon", "train", "--stores", archive.out, "--labels",
               archive.root / "manifest.csv", "--annotations", place / "lesion_annotations.zip",
               "-o", place / "model", *SMALL) == 0  # fmt: skip
    return place / "model"


def test_a_strong_model_is_a_model_like_others(archive: Archive, strong: Path) -> None:
    """It loads; folds keep patients apart; tiles that it had not seen are told apart."""
    model = load_model(strong)
    card = model.card
    assert (model.name, len(model.heads), model.classes) == ("tile", 2, ["normal", "tumor"])
    assert card["training"]["supervision"] == "tiles"
    assert card["training"]["tile_auroc"] > 0.98
    assert card["metrics"]["auroc"] > 0.8
    assert [row["fold"] for row in rows(strong / "oof_predictions.csv")].count("0") == 4
    folds: dict[str, set[str]] = {}
    for row in rows(strong / "splits.csv"):
        folds.setdefault(f"{row['fold']} {row['slide_id']}", set()).add(row["part"])
    assert all(len(parts) == 1 for parts in folds.values())
    for counts in card["training"]["tiles"]:
        assert counts["tumour"] > 0
        assert counts["normal"] > 64
    spread = np.stack([head.spread.numpy() for head in model.heads])
    assert (spread[:, :4] > 1.2).all()  # where tumour is told apart
    assert spread[:, 4:] == pytest.approx(1, abs=0.2)  # noise of unit variance


def test_smoothed_labels_keep_scores_apart(archive: Archive, tmp_path: Path) -> None:
    """With a share e the best margin is log((1 - e/2) / (e/2)); without it scores run to 1."""
    highest = {}
    for smoothing in (0.0, 0.2):
        out = tmp_path / f"{smoothing}"
        options = TileTrainOptions(epochs=30, hidden=32, dropout=0.0, rounds=0, patience=30,
                                   learning_rate=0.02, smoothing=smoothing)  # fmt: skip
        train_tiles(list(archive.stores.values()), archive.root / "manifest.csv",
                    fractions_of(archive), out, folds=0, options=options)  # fmt: skip
        found = tile_scores(load_model(out), archive.stores["tumor_001"]).values
        highest[smoothing] = found[fractions_of(archive)["tumor_001"] == 1]
    assert np.median(highest[0.0]) > 0.999
    assert np.median(highest[0.2]) == pytest.approx(0.9, abs=0.05)


def test_the_same_seed_gives_the_same_bits(archive: Archive, tmp_path: Path) -> None:
    options = TileTrainOptions(epochs=2, hidden=0, rounds=1)
    ids = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_tiles(list(archive.stores.values()), archive.root / "manifest.csv",
                    fractions_of(archive), tmp_path / name, folds=2, seed=seed,
                    options=options)  # fmt: skip
        ids.append(load_model(tmp_path / name).model_id)
    assert ids[0] == ids[1] != ids[2]


def test_hard_negatives_are_found_and_learned(archive: Archive, tmp_path: Path) -> None:
    """A class of normal tiles that look much like tumour, too rare to be drawn at first."""
    names = ("normal_001", "normal_002", "tumor_001", "tumor_004")
    stores = [archive.stores[n] for n in names]
    rows_of = stores[0].embeddings()
    before = np.asarray(rows_of.data[:])
    changed = before.copy()
    changed[:6, :4] += 2.5
    changed[:6, 4] += 6
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("slide_id", "patient_id", "label", "split"),
             *((n, n, n.partition("_")[0], "train") for n in names)]
        )  # fmt: skip
    found = {}
    try:
        rows_of.write(0, changed, np.ones(len(changed), np.uint8))
        for rounds in (0, 2):
            out = tmp_path / f"rounds_{rounds}"
            train_tiles(stores, table, fractions_of(archive), out, options=TileTrainOptions(
                epochs=15, hidden=0, rounds=rounds, per_slide=10, learning_rate=0.02))  # fmt: skip
            model = load_model(out)
            mined = model.card["training"]["tiles"][0]["hard_negatives"]
            assert len(mined) <= rounds
            found[rounds] = (tile_scores(model, stores[0]).values[:6], mined)
    finally:
        rows_of.write(0, before, np.ones(len(before), np.uint8))
    assert found[2][1][0] > 0
    assert found[2][0].mean() < found[0][0].mean()
    assert model.card["training"]["tiles"][0]["normal"] <= 40


def test_what_a_tile_counts_as(archive: Archive) -> None:
    """From the share up tumour, some is neither, none is normal; unless not all was outlined."""
    slides = {
        s.slide_id: s for s in read_labels(archive.root / "manifest.csv",
                                           list(archive.stores.values()))
    }  # fmt: skip
    options = TileTrainOptions(positive=0.5)
    share = np.zeros(64)
    share[:4] = 0.5, 0.49, 1.0, 1e-6
    kinds = _labels_of(slides["tumor_001"], "tumor", {"tumor_001": share}, None, options)
    assert kinds[:5].tolist() == [TUMOUR, NEITHER, TUMOUR, NEITHER, NORMAL]
    [reading] = slides["tumor_001"].readings
    partly = replace(reading, values={**reading.values, "exhaustive": "false"})
    slide = replace(slides["tumor_001"], readings=(partly,))
    kinds = _labels_of(slide, "tumor", {"tumor_001": share}, None, options)
    assert kinds[:5].tolist() == [TUMOUR, NEITHER, TUMOUR, NEITHER, NEITHER]
    assert set(_labels_of(slides["tumor_002"], "tumor", {}, None, options)) == {NEITHER}
    assert set(_labels_of(slides["normal_001"], "tumor", {}, None, options)) == {NORMAL}
    with pytest.raises(LabelTableError, match="labelled normal, but tumour is outlined"):
        _labels_of(slides["normal_001"], "tumor", {"normal_001": share}, None, options)


def test_a_strong_model_finds_the_lesions(
    archive: Archive, strong: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Each of the four lesions, by the fold that had not seen its slide."""
    out = tmp_path / "predicted"
    assert wsi("camelyon", "predict", "--stores", archive.out, "--model", strong, "-o", out) == 0
    capsys.readouterr()
    assert wsi("camelyon", "froc", "--detections", out / "detections", "--masks",
               archive.root / "masks", "--json", "--corrected") == 0  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert sum(s["n_lesions_hit"] for s in found["slides"].values()) == 4
    assert {r["heads"] for r in rows(out / "scores.csv")} == {"0", "1"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--head", "mean"], "--head mean says nothing of tiles"),
        (["--head", "nothing"], "head='nothing': choose from"),
        (["--hidden", "4"], "options of tiles go with --annotations"),
        (["--annotations", "{root}/annotations", "--head", "abmil"], "the head is tile"),
        (["--annotations", "{root}/annotations", "--positive", "0"], "positive=0.0"),
        (["--annotations", "{root}/slides"], "no annotation in it"),
        (["--annotations", "{other}"], "no outline of a slide in"),
    ],
)
def test_what_is_refused(
    archive: Archive, tmp_path: Path, capsys: Capture, flags: list[str], message: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.json").write_text('{"positive": []}')
    words = [f.format(root=archive.root, other=other) for f in flags]
    assert wsi("camelyon", "train", "--stores", archive.out, "--labels",
               archive.root / "manifest.csv", "-o", tmp_path / "model", *words) == 2  # fmt: skip
    assert message in " ".join(capsys.readouterr().err.split())


def test_weak_training_is_wsi_train(archive: Archive, tmp_path: Path) -> None:
    assert wsi("camelyon", "train", "--stores", archive.out, "--labels",
               archive.root / "manifest.csv", "-o", tmp_path / "weak", "--folds", "2",
               "--epochs", "1", "--json") == 0  # fmt: skip
    card = load_model(tmp_path / "weak").card
    assert (card["head"]["name"], card["folds"]) == ("additive", 2)
    assert card["training"]["options"]["epochs"] == 1
