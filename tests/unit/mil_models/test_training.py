from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models import load_model, predict, predict_bag, train
from mil_models.bags import Bag, Draw
from mil_models.checkpoint import read_predictions, source_of
from mil_models.errors import (
    EmbeddingValueError,
    EmptyBagError,
    LabelTableError,
    MissingCoordsError,
    ModelError,
    ModelMismatchError,
)
from mil_models.labels import read_labels
from mil_models.metrics import auroc, patient_interval, summarise
from mil_models.splits import make_splits
from tests.unit.mil_models.conftest import MakeStores
from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, open_store
from tiling.tiles import TileStatus

HEADER = "slide_id,patient_id,label\n"


def labels_of(stores: list[SlideStore]) -> str:
    return HEADER + "".join(
        f"{s.slide_id},p{s.slide_id},{'tumor' if i % 2 else 'normal'}\n"
        for i, s in enumerate(stores)
    )


@pytest.fixture
def trained(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> tuple[list[SlideStore], Path]:
    stores = make_stores(8)
    train(stores, write_labels(labels_of(stores)), tmp_path / "model", folds=2, epochs=8)
    return stores, tmp_path / "model"


def test_a_model_is_a_folder_that_says_what_it_is(trained: tuple[list[SlideStore], Path]) -> None:
    stores, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json", "epochs.csv", "fold_0.safetensors", "fold_1.safetensors",
        "oof_predictions.csv", "splits.csv",
    ]  # fmt: skip
    card = json.loads((folder / "card.json").read_text())
    assert card["classes"] == ["normal", "tumor"]
    assert card["tiles"] == {"tile_px": 256, "mpp": 0.5, "edge": "drop", "exact": False}
    assert card["encoder"]["architecture"] == "resnet10t"
    assert card["training"]["slides_per_class"] == {"normal": 4, "tumor": 4}
    assert card["metrics"]["auroc_low"] <= card["metrics"]["auroc"] <= 1
    assert "Research only" in card["intended_use"]
    with (folder / "oof_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == [s.slide_id for s in stores]
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert all(
        abs(float(row["score_normal"]) + float(row["score_tumor"]) - 1) < 1e-5 for row in rows
    )


def test_two_trainings_are_equal_bit_for_bit(
    trained: tuple[list[SlideStore], Path], tmp_path: Path
) -> None:
    stores, folder = trained
    torch.manual_seed(99)  # the caller's own randomness plays no part
    train(stores, tmp_path / "labels.csv", tmp_path / "again", folds=2, epochs=8)
    for name in ("fold_0.safetensors", "fold_1.safetensors", "oof_predictions.csv", "card.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_prediction_is_the_mean_of_the_folds(trained: tuple[list[SlideStore], Path]) -> None:
    stores, folder = trained
    model = load_model(folder)
    prediction = predict(stores[1], model)
    bag = torch.from_numpy(stores[1].embeddings().data[:])[None]
    mask = torch.ones(bag.shape[:2], dtype=torch.bool)
    outputs = [head(bag, mask) for head in model.heads]
    scores = np.mean([o.logits[0].softmax(0).numpy() for o in outputs], axis=0)
    assert list(prediction.scores) == ["normal", "tumor"]
    assert list(prediction.scores.values()) == pytest.approx(scores.tolist(), abs=1e-6)
    attention = np.mean([o.attention[0, 0].numpy() for o in outputs], axis=0)
    assert prediction.attention == pytest.approx(attention, abs=1e-6)
    assert prediction.attention.sum() == pytest.approx(1)
    assert set(stores[1].tile_values(prediction.name)) == {"attention"}  # ABMIL has no parts
    assert prediction.attrs["seen_in_training"] is True
    assert predict(open_store(stores[1].path), model).name == prediction.name
    assert stores[1].prediction_names() == [prediction.name]


def test_an_additive_model_stores_what_each_tile_adds(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    """Their sum is the log odds of the second class, the mean over the folds."""
    stores = make_stores(8)
    labels = write_labels(labels_of(stores))
    train(stores, labels, tmp_path / "model", head="additive", folds=2, epochs=2)
    model = load_model(tmp_path / "model")
    prediction = predict(stores[0], model)
    bag = torch.from_numpy(stores[0].embeddings().data[:])[None]
    mask = torch.ones(bag.shape[:2], dtype=torch.bool)
    logits = torch.stack([head.eval()(bag, mask).logits[0] for head in model.heads])
    found = open_store(stores[0].path).tile_values(prediction.name)
    assert set(found) == {"attention", "contribution"}
    assert found["contribution"].shape == (len(stores[0]),)
    odds = float((logits[:, 1] - logits[:, 0]).mean())
    assert float(found["contribution"].sum()) == pytest.approx(odds, abs=1e-5)
    assert float(np.abs(found["contribution"]).sum()) > 0


def test_unreadable_tiles_are_left_out_of_the_bag(
    trained: tuple[list[SlideStore], Path], make_stores: MakeStores
) -> None:
    _, folder = trained
    store, empty = make_stores(2, folder="other")
    rows = store.embeddings()
    values = rows.data[:]
    values[2] = np.nan
    rows.data[:] = values
    with pytest.raises(EmbeddingValueError, match=r"a: 1 embeddings hold NaN .* tiles were read"):
        predict(store, load_model(folder))
    rows.status[2] = TileStatus.UNREADABLE
    model = load_model(folder)
    prediction = predict(store, model)
    keep = np.arange(len(store)) != 2
    assert np.isnan(prediction.attention[2])
    assert np.nansum(prediction.attention) == pytest.approx(1)
    expected = predict_bag(model, values[keep])
    assert prediction.attention[keep] == pytest.approx(expected.attention)
    assert prediction.attrs["bad_tiles"] == 1
    empty.embeddings().data[:] = np.nan
    empty.embeddings().status[:] = TileStatus.UNREADABLE
    with pytest.raises(EmptyBagError, match="b: no embedding"):
        predict(empty, load_model(folder))


def test_a_store_embedded_otherwise_is_refused_by_field(
    trained: tuple[list[SlideStore], Path], make_stores: MakeStores
) -> None:
    _, folder = trained
    [other] = make_stores(1, folder="other", weights="sha256:beef", batch=16)
    with pytest.raises(ModelMismatchError, match=r"encoder weights: 'sha256:beef'.*encoder batch"):
        predict(other, load_model(folder))


def test_features_of_two_contracts_never_meet(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = [*make_stores(3)[:2], *make_stores(4, folder="other", precision="bfloat16")[2:]]
    with pytest.raises(ModelMismatchError, match="c: embeddings made otherwise than a's.*bfloat16"):
        train(stores, write_labels(labels_of(stores)), tmp_path / "m", folds=2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "card.json").unlink(), "no readable card.json"),
        (lambda f: (f / "card.json").write_text('{"schema_version": 7}'), "another schema"),
        (lambda f: (f / "card.json").write_text('{"schema_version": 2}'), "lacks classes"),
        (lambda f: (f / "fold_1.safetensors").write_bytes(b"\x80\x04pickle"), "fold_1"),
        (lambda f: (f / "fold_0.safetensors").unlink(), "fold_0"),
        (lambda f: (f / "oof_predictions.csv").unlink(), "not a whole model folder"),
        (lambda f: (f / "oof_predictions.csv").write_text("slide_id,fold\n"), "lacks source"),
    ],
)
def test_damaged_models_are_refused(
    trained: tuple[list[SlideStore], Path], damage: Callable[[Path], object], message: str
) -> None:
    _, folder = trained
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load_model(folder)


def test_a_model_is_never_overwritten_and_that_is_said_before_the_training(
    trained: tuple[list[SlideStore], Path],
) -> None:
    """What cannot be saved is not worth hours of training."""
    stores, folder = trained
    labels, epochs = folder.parent / "labels.csv", []
    for out, message in ((folder, "exists already"), (labels, "exists already"),
                         (labels / "m", "cannot be made .*choose another -o")):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            train(stores, labels, out, folds=2, on_progress=lambda *a: epochs.append(a))
    assert epochs == []


def test_weights_can_be_read_by_whoever_may_read_the_folder(
    trained: tuple[list[SlideStore], Path],
) -> None:
    """safetensors' own writer makes files for their owner alone."""
    _, folder = trained
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(set(modes.values())) == 1, modes


def test_a_slide_is_known_by_its_bytes_not_by_its_name(
    trained: tuple[list[SlideStore], Path], blank_path: Path, tmp_path: Path
) -> None:
    """Another study's slide `b` was not trained on; a training slide renamed was."""
    stores, folder = trained
    model = load_model(folder)
    assert source_of(stores[1]) in model.training_slides
    assert source_of(make_store(blank_path, tmp_path / "b.zarr", slide_id="b")) not in (
        model.training_slides
    )


def test_the_test_part_of_a_single_split_was_not_trained_on(
    trained: tuple[list[SlideStore], Path], tmp_path: Path
) -> None:
    _, folder = trained
    rows = (folder / "oof_predictions.csv").read_text().splitlines()
    header, first = rows[0].split(","), rows[1].split(",")
    first[header.index("source")] = "0" * 16
    text = "\n".join([rows[0], ",".join(first), *rows[2:]]) + "\n"
    (folder / "oof_predictions.csv").write_text(text)
    assert "0" * 16 in load_model(folder).training_slides  # one of two folds tested it
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "folds": 1}))
    assert "0" * 16 not in load_model(folder).training_slides


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"patience": 0}, {"max_instances": -1}, {"cache_gb": -1}]
)
def test_numbers_that_train_nothing_are_refused(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path,
    wrong: dict[str, int],
) -> None:  # fmt: skip
    stores = make_stores(2)
    with pytest.raises(ValueError, match=r"=(0|-1): must be at least [01]$"):
        train(stores, write_labels(labels_of(stores)), tmp_path / "m", **wrong)


def test_a_slide_without_tiles_is_left_out_by_name(
    make_stores: MakeStores, write_labels: Callable[[str], Path], blank_path: Path, tmp_path: Path
) -> None:
    stores = [*make_stores(2), make_store(blank_path, tmp_path / "c.zarr", slide_id="c")]
    with pytest.warns(UserWarning, match="left out for want of tiles: c$"):
        found = read_labels(write_labels(labels_of(stores)), stores)
    assert [slide.slide_id for slide in found] == ["a", "b"]


def test_no_folds_train_one_model_on_everything(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(4)
    result = train(
        stores, write_labels(labels_of(stores)), tmp_path / "m", folds=0, epochs=2, head="mean"
    )
    assert result.metrics == {"slides": 0}
    assert len(load_model(tmp_path / "m").heads) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,label\na,1\n", "needs the columns slide_id .*it has slide, label"),
        (HEADER + "a,p,1\nb,q,0\na,p,1\n", "more than once: a"),
        (HEADER + "a,p,1\nb,q,1\n", "one class only"),
        (HEADER + "a,p,1\nb,q,0\nnobody,r,0\n", "no store of nobody; embed .*--allow-missing"),
        (HEADER + "a,,1\n", "line 2: patient_id is empty"),
        (HEADER + "a,p,\n", "line 2: label is empty"),
        ("path,patient_id,label\ntissue.tif,p,1\n", "fits several slides"),
        ("slide_id,patient_id,label,split\na,p,1,train\nb,p,0,test\n", "more than one side"),
        ("slide_id,patient_id,label,split\na,p,1,fold1\n", "split is 'fold1'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_wrong_tables_say_what_is_wrong(
    make_stores: MakeStores, write_labels: Callable[[str], Path], text: str, message: str
) -> None:
    with pytest.raises(LabelTableError, match=message):
        read_labels(write_labels(text), make_stores(2))


def test_what_is_missing_on_either_side_is_warned_about(
    make_stores: MakeStores, write_labels: Callable[[str], Path]
) -> None:
    path = write_labels("slide_id,label\na,1\nb,0\nnobody,0\n")
    with pytest.warns(UserWarning, match="labels.csv") as caught:
        found = read_labels(path, make_stores(3), allow_missing=True)
    texts = " ".join(str(w.message) for w in caught)
    assert "each slide counts as a patient" in texts
    assert "no store of nobody" in texts
    assert "1 of 3 stores have no label" in texts
    assert [f.slide_id for f in found] == ["a", "b"]


def test_patients_stay_on_one_side_of_every_split(
    make_stores: MakeStores, write_labels: Callable[[str], Path]
) -> None:
    stores = make_stores(12)
    text = HEADER + "".join(f"{s.slide_id},p{i // 2},{i // 2 % 2}\n" for i, s in enumerate(stores))
    slides = read_labels(write_labels(text), stores)
    splits = make_splits(slides, 3, seed=0)
    assert sorted(i for split in splits for i in split.test) == list(range(12))
    for split in splits:
        sides = [{slides[i].patient_id for i in part}
                 for part in (split.train, split.validation, split.test)]  # fmt: skip
        assert not sides[0] & sides[1]
        assert not (sides[0] | sides[1]) & sides[2]
        assert {slides[i].label for i in split.validation} == {"0", "1"}
    with pytest.warns(UserWarning, match="class '0' has 3 patients: 3 folds, not 5"):
        assert len(make_splits(slides, 5, seed=0)) == 3


def test_cross_validation_needs_two_patients_of_each_class(
    make_stores: MakeStores, write_labels: Callable[[str], Path]
) -> None:
    slides = read_labels(write_labels(HEADER + "a,p,0\nb,q,1\nc,r,1\n"), make_stores(3))
    with pytest.raises(LabelTableError, match="class '0' has 1 patient; .* --folds 0"):
        make_splits(slides, 2, seed=0)


def test_a_tables_own_split_is_kept(
    make_stores: MakeStores, write_labels: Callable[[str], Path]
) -> None:
    text = "slide_id,patient_id,label,split\na,p,0,train\nb,q,1,train\nc,r,1,val\nd,s,0,test\n"
    slides = read_labels(write_labels(text), make_stores(4))
    [split] = make_splits(slides, 5, seed=0)
    assert (split.train, split.validation, split.test) == ((0, 1), (2,), (3,))


def test_big_bags_are_sampled_without_repeats() -> None:
    values = torch.arange(100.0)[:, None]
    bag = Bag(values, values.long().repeat(1, 2))
    drawn = bag.sampled(Draw(30, seed=0))
    assert len(set(drawn.values[:, 0].tolist())) == 30
    assert torch.equal(drawn.values[:, 0].long(), drawn.coords[:, 1])
    assert bag.sampled(Draw(100, seed=0)) is bag


def test_what_cannot_be_said_of_one_class_is_none() -> None:
    scores = np.array([[0.2, 0.8], [0.9, 0.1]])
    found = summarise(np.array([1, 1]), scores, ["p", "q"], seed=0)
    assert found == {"slides": 2, "patients": 2, "auroc": None, "auroc_low": None,
                     "auroc_high": None, "balanced_accuracy": None}  # fmt: skip


def test_auroc_and_its_interval() -> None:
    targets = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [0.1, 0.9]])
    assert auroc(targets, scores) == 0.75
    assert auroc(targets[:2], scores[:2]) is None
    low, high = patient_interval(targets, scores, list("abcd"), seed=0)  # type: ignore[misc]
    assert 0 <= low < 0.75 < high <= 1
    assert patient_interval(targets[:2], scores[:2], list("ab"), seed=0) is None


def test_several_classes(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(9)
    text = HEADER + "".join(f"{s.slide_id},p{i},c{i % 3}\n" for i, s in enumerate(stores))
    labels = write_labels(text)
    with pytest.raises(LabelTableError, match=r"3 classes \(c0, c1, c2\); correct the table"):
        train(stores, labels, tmp_path / "m", folds=3, epochs=2)
    result = train(stores, labels, tmp_path / "m", task="multiclass", folds=3, epochs=2)
    assert 0 <= result.metrics["auroc"] <= 1
    assert list(predict(stores[0], load_model(tmp_path / "m")).scores) == ["c0", "c1", "c2"]


def test_repeats_are_averaged_and_their_splits_can_be_used_again(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(8)
    labels = write_labels(labels_of(stores))
    twice = tmp_path / "twice"
    train(stores, labels, twice, head="mean", folds=2, epochs=2, repeats=2)
    assert len(load_model(twice).heads) == 4
    train(stores, labels, tmp_path / "again", head="mean", folds=5, epochs=2,
          splits=twice / "splits.csv")  # fmt: skip
    for name in ("splits.csv", "oof_predictions.csv", "fold_3.safetensors"):
        assert (twice / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    once = [tmp_path / f"seed{seed}" for seed in (0, 1)]
    train(stores, labels, once[0], head="mean", folds=2, epochs=2)
    first = {row["slide_id"]: row for row in read_predictions(once[0])}
    rows = read_predictions(twice)
    assert any(row["score_tumor"] != first[row["slide_id"]]["score_tumor"] for row in rows)
    with (twice / "splits.csv").open() as file:
        splits = list(csv.DictReader(file))
    tested = Counter(row["slide_id"] for row in splits if row["part"] == "test")
    assert set(tested.values()) == {2}


def test_a_prediction_is_calibrated_as_the_card_says(
    trained: tuple[list[SlideStore], Path],
) -> None:
    """Eight slides are too few to calibrate by; a card that has a temperature is obeyed."""
    stores, folder = trained
    card = json.loads((folder / "card.json").read_text())
    assert card["held_out"]["calibration"] is None
    assert "10 are needed" in card["held_out"]["reason"]
    plain = load_model(folder)
    before = predict_bag(plain, stores[1].embeddings().data[:])
    point = card["held_out"]["operating_point"]["threshold"]
    assert before.is_positive is bool(before.scores[1] >= point)
    card["held_out"]["calibration"] = {"method": "temperature", "temperature": 2.0}
    card["held_out"]["operating_point"]["threshold"] = 1.0
    (folder / "card.json").write_text(json.dumps(card))
    after = predict_bag(load_model(folder), stores[1].embeddings().data[:])
    flattened = np.sqrt(before.scores)
    assert after.scores == pytest.approx(flattened / flattened.sum())
    assert after.is_positive is False
    card["held_out"]["calibration"]["temperature"] = -1
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="no calibration"):
        load_model(folder)


def test_a_head_that_needs_places_is_not_given_made_up_ones(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(4)
    folder = tmp_path / "windowed"
    train(stores, write_labels(labels_of(stores)), folder, head="windowed", folds=2, epochs=1)
    model, values = load_model(folder), stores[0].embeddings().data[:]
    with pytest.raises(MissingCoordsError, match="pass coords"):
        predict_bag(model, values)
    assert predict_bag(model, values, stores[0].grid.coords).scores.sum() == pytest.approx(1)
