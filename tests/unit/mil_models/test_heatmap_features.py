"""Heat-map features by hand, and against what the published table says of itself."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest

from mil_models.errors import ModelError
from mil_models.heatmap_features import FEATURES, THRESHOLDS, heatmap_features
from mil_models.heatmap_forest import FeatureRow, cross_validated, load_forest, train_forest


def of(values: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, heatmap_features(values).tolist(), strict=True))


def test_the_names_are_the_tables(shared_data: Path) -> None:
    table = shared_data / "camelyon_tables" / "camelyon16_train_heatmap_features.csv"
    with table.open(newline="") as file:
        header = next(csv.reader(file))
    assert header == ["slide", "label", *FEATURES]


def test_two_regions_by_hand() -> None:
    """Blocks of 2 x 4 and 2 x 2 cells; 0.7 counts, 0.69 does not; a third is not told of."""
    values = np.zeros((10, 12))
    values[:, 11] = np.nan  # 10 cells that are no tissue
    values[1:3, 1:5] = 0.8
    values[1, 1] = 0.95
    values[6:8, 6:8] = 0.7
    values[9, 0] = 0.9
    values[5, 0] = 0.69
    found = of(values)
    assert found["ratio_cancer_tissue50"] == pytest.approx(14 / 110)
    assert found["ratio_cancer_tissue70"] == pytest.approx(13 / 110)
    assert found["ratio_cancer_tissue80"] == pytest.approx(9 / 110)
    assert found["ratio_cancer_tissue90"] == pytest.approx(2 / 110)
    assert found["ratio_sum_tissue80"] == pytest.approx((0.15 + 0.1) / 110)
    assert found["ratio_sum_tissue90"] == pytest.approx(0.05 / 110)
    largest = {k: v for k, v in found.items() if k.endswith("_largest") and "second" not in k}
    assert largest["area_bbox_largest"] == 8
    assert largest["extend_largest"] == largest["solidity_largest"] == 1
    assert largest["aspect_ratio_bbox_largest"] == 2  # width over height
    assert (largest["maxprob_largest"], largest["minprob_largest"]) == (0.95, 0.8)
    assert largest["aveprob_largest"] == pytest.approx((7 * 0.8 + 0.95) / 8)
    # 4 times the standard deviation of four whole numbers
    assert largest["major_axis_length_largest"] == pytest.approx(4 * np.sqrt(15 / 12))
    assert found["largest_area"] == 8
    assert found["second_largest_area"] == 4
    assert found["eccentricity_second_largest"] == 0


def test_regions_that_are_not_there_and_maps_without_tissue() -> None:
    found = of(np.full((3, 3), 0.1))
    assert set(found.values()) == {0.0}
    with pytest.raises(ValueError, match="no tissue"):
        heatmap_features(np.full((3, 3), np.nan))
    single = np.zeros((3, 3))
    single[1, 1] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = of(single)
    assert (found["largest_area"], found["solidity_largest"]) == (1, 1)


def test_the_published_table_has_sums_of_what_exceeds_the_threshold(shared_data: Path) -> None:
    """By parts, the excess over 0.5 is the integral of the share above t: the table agrees."""
    table = shared_data / "camelyon_tables" / "camelyon16_train_heatmap_features.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    shares = np.array([[float(r[f"ratio_cancer_tissue{t * 100:.0f}"]) for t in THRESHOLDS]
                       for r in rows])  # fmt: skip
    sums = np.array([float(r["ratio_sum_tissue50"]) for r in rows])
    integral = np.trapezoid(np.c_[shares, np.zeros(len(rows))], dx=0.1, axis=1)
    assert np.median(integral / sums) == pytest.approx(1, abs=0.03)
    for row in rows[:50]:
        extent = float(row["largest_area"]) / float(row["area_bbox_largest"])
        assert float(row["extend_largest"]) == pytest.approx(extent)


def made_up(slides: int = 24) -> list[FeatureRow]:
    rng = np.random.default_rng(0)
    rows = []
    for index in range(slides):
        features = rng.normal(size=len(FEATURES))
        features[3] += 3 * (index % 2)
        rows.append(FeatureRow(f"s{index}", f"p{index // 4}", bool(index % 2), features))
    return rows


def test_a_forest_comes_back_with_the_same_trees(tmp_path: Path) -> None:
    """No pickle: table, seed and settings; every bit of every score is the same."""
    rows = made_up()
    forest = train_forest(rows, tmp_path / "forest", folds=3, seed=4, trees=30)
    again = load_forest(tmp_path / "forest")
    features = np.stack([row.features for row in rows])
    np.testing.assert_array_equal(forest.score(features), again.score(features))
    assert again.out_of_fold == pytest.approx(
        dict(zip((r.slide_id for r in rows), cross_validated(rows, folds=3, seed=4, trees=30),
                 strict=True))
    )  # fmt: skip
    assert {p.suffix for p in (tmp_path / "forest").iterdir()} == {".csv", ".json"}
    held = np.array([again.out_of_fold[r.slide_id] for r in rows])
    assert held[1::2].mean() > 0.55 > 0.45 > held[::2].mean()


def test_folds_keep_patients_apart() -> None:
    """A patient's slides are alike, labels are noise: who saw one would know the other."""
    rng = np.random.default_rng(1)
    rows = []
    for patient in range(20):
        own = rng.normal(size=len(FEATURES))
        rows += [FeatureRow(f"{patient}_{i}", str(patient), patient % 2 == 0, own) for i in (0, 1)]
    scores = cross_validated(rows, folds=4, seed=0, trees=60)
    right = (scores > 0.5) == np.array([r.is_tumour for r in rows])
    assert right.mean() < 0.8


def test_what_is_no_forest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder of a heat-map forest"):
        load_forest(tmp_path)
    train_forest(made_up(), tmp_path / "f", folds=3, trees=5)
    with pytest.raises(ModelError, match="exists already"):
        train_forest(made_up(), tmp_path / "f", folds=3, trees=5)
    card = tmp_path / "f" / "card.json"
    card.write_text(card.read_text().replace('"scikit_learn": "', '"scikit_learn": "0.'))
    with pytest.warns(UserWarning, match="scores may differ a little"):
        load_forest(tmp_path / "f")
    table = tmp_path / "f" / "features.csv"
    table.write_text(table.read_text().replace("s0,", "s99,"))
    with pytest.raises(ModelError, match="was changed"):
        load_forest(tmp_path / "f")
