from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models import train
from mil_models.bags import Bag, BagCache, Draw
from mil_models.errors import EmbeddingValueError, EmptyBagError
from mil_models.heads import create_head
from mil_models.labels import LabelledSlide
from mil_models.loop import Lesson, _order, create_fabric, train_head
from mil_models.options import TrainOptions
from mil_models.scoring import score_bag
from mil_models.splits import Split
from tests.unit.mil_models.conftest import MakeStores
from tests.unit.mil_models.synthetic import NoStore, answers_of, task_of
from tests.unit.mil_models.test_training import labels_of
from tiling.tiles import TileStatus


def test_bags_are_read_ahead_in_order_and_kept_as_far_as_there_is_room(
    make_stores: MakeStores,
) -> None:
    stores = make_stores(4)
    slides = [LabelledSlide(store, "", store.slide_id) for store in stores]
    wanted = [torch.from_numpy(store.embeddings().data[:]) for store in stores]
    size = wanted[0].nbytes + 16 * 16
    for limit, kept in ((0, 0), (2 * size, 2), (1 << 30, 4)):
        cache = BagCache(limit_bytes=limit)
        for _ in range(2):
            found = list(cache.stream((slides[i], None) for i in (2, 0, 3, 1, 2)))
            for bag, index in zip(found, (2, 0, 3, 1, 2), strict=True):
                assert torch.equal(bag.values, wanted[index])
                assert torch.equal(bag.coords, torch.from_numpy(stores[index].grid.coords))
        assert len(cache._bags) == kept


def test_a_draw_is_the_same_whether_its_bag_is_kept_or_read_again(make_stores: MakeStores) -> None:
    """Of one slide and of a patient's two, one of which has a tile that could not be read."""
    one, two = make_stores(2)
    rows = two.embeddings()
    rows.data[3] = np.nan
    rows.status[3] = TileStatus.UNREADABLE
    for slide in (LabelledSlide(two, "", "p"), LabelledSlide(one, "", "p", others=(two,))):
        kept, read = BagCache(), BagCache(limit_bytes=0)
        whole = kept.bag(slide)
        assert len(whole) == sum(len(store) for store in slide.stores) - 1
        for draw in (Draw(9, seed=1), Draw(len(whole), seed=1)):
            for cache in (kept, read, read):  # the last one knows which rows are real
                [bag] = cache.stream([(slide, draw)])
                expected = whole.sampled(draw)
                assert len(bag) == draw.limit
                assert torch.equal(bag.values, expected.values)
                assert torch.equal(bag.coords, expected.coords)


def test_a_drawn_embedding_that_is_no_number_is_named(make_stores: MakeStores) -> None:
    """In a bag that is not kept nobody looks at the others; a bag that is read whole tells all."""
    [store] = make_stores(1)
    slide, cache = LabelledSlide(store, "", "p"), BagCache(limit_bytes=0)
    draw = Draw(4, seed=1)
    [first, *_] = sorted(draw.of(len(store)).tolist())  # type: ignore[union-attr]
    store.embeddings().data[first, 2] = np.nan
    x0, y0 = store.grid.coords[first].tolist()
    message = rf"a: 1 embeddings hold NaN .*, one at level-0 \({x0}, {y0}\); delete"
    for wanted in (draw, None):
        with pytest.raises(EmbeddingValueError, match=message):
            cache.bag(slide, wanted)


def test_the_bags_of_the_next_steps_are_read_while_one_is_at_work(make_stores: MakeStores) -> None:
    """One stream for all steps of all epochs: with several there is nothing to read ahead."""

    class Watched(BagCache):
        def __init__(self) -> None:
            super().__init__(limit_bytes=0)
            self.streams: list[list[str]] = []

        def stream(
            self, wanted: Iterable[tuple[LabelledSlide, Draw | None]], *, ahead: int = 2
        ) -> Generator[Bag, None, None]:
            asked = list(wanted)
            self.streams.append([slide.slide_id for slide, _ in asked])
            yield from super().stream(asked, ahead=ahead)

    stores = make_stores(4)
    rows = [{"label": "ab"[i % 2]} for i in range(4)]
    answers, task, cache = answers_of(rows), task_of("binary", rows), Watched()
    slides = [LabelledSlide(store, "", store.slide_id) for store in stores]
    targets = task.targets(answers)
    lesson = Lesson("all", Split("all", (0, 1, 2, 3), (), ()), slides, task.fitted(targets),
                    targets, 0)  # fmt: skip
    options = TrainOptions(epochs=2, batch=1, device="cpu")
    head = create_head("abmil", dim=stores[0].embeddings().data.shape[1], classes=2)
    train_head(head, lesson, cache, options, create_fabric(options))
    assert cache.streams == [
        [slides[i].slide_id for epoch in (1, 2) for i in _order(lesson, epoch)]
    ]


def test_slides_of_a_patient_lie_side_by_side(make_stores: MakeStores) -> None:
    one, two = make_stores(2)
    bag = BagCache().bag(LabelledSlide(one, "", "p", others=(two,)))
    assert len(bag) == len(one) + len(two)
    moved = bag.coords[len(one) :] - torch.from_numpy(two.grid.coords)
    assert moved.unique(dim=0).tolist() == [[one.slide_size[0], 0]]


def test_a_slide_without_a_readable_tile_is_named_before_the_training(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(4)
    stores[2].embeddings().status[:] = 2
    epochs: list[object] = []
    with pytest.raises(EmptyBagError, match="c: no embedding"):
        train(stores, write_labels(labels_of(stores)), tmp_path / "m", folds=2,
              on_progress=lambda *a: epochs.append(a))  # fmt: skip
    assert epochs == []


def test_sampling_draws_rare_classes_as_often_as_common_ones() -> None:
    rows = [{"label": "rare" if i < 20 else "common"} for i in range(200)]
    answers = answers_of(rows)
    for balance, expected in (("sampling", 100), ("none", 20)):
        task = task_of("binary", rows, balance=balance)
        slides = [
            LabelledSlide(NoStore(str(i)), "", str(i), group=task.stratum(a))  # type: ignore[arg-type]
            for i, a in enumerate(answers)
        ]
        split = Split("fold 0", tuple(range(200)), (), ())
        lesson = Lesson("fold 0", split, slides, task, task.targets(answers), 0)
        drawn = Counter(slides[i].stratum for i in _order(lesson, 1))
        assert abs(drawn["rare"] - expected) < 25
        assert _order(lesson, 1) == _order(lesson, 1) != _order(lesson, 2)


def test_scores_never_depend_on_the_mode_a_head_is_in() -> None:
    """Dropout is off, and the head is left as it was."""
    head = create_head("abmil", dim=8, classes=2, dropout=0.5).train()
    bag = Bag(torch.randn(20, 8, generator=torch.Generator().manual_seed(0)),
              torch.zeros(20, 2, dtype=torch.int64))  # fmt: skip
    first, second = score_bag(head, bag), score_bag(head, bag)
    assert torch.equal(first[0], second[0])
    assert head.training


def test_the_tables_and_events_of_a_training(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    stores = make_stores(12)
    train(stores, write_labels(labels_of(stores)), tmp_path / "m", folds=2, epochs=3,
          warmup=2, batch=4, precision="bf16-mixed", tensorboard=True, device="cpu")  # fmt: skip
    with (tmp_path / "m" / "epochs.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [row["head"] for row in epochs] == ["fold 0"] * 3 + ["fold 1"] * 3
    assert [float(row["learning_rate"]) for row in epochs[:3]] == [1e-4, 2e-4, 2e-4]
    with (tmp_path / "m" / "label_issues.csv").open() as file:
        issues = list(csv.DictReader(file))
    assert {row["slide_id"] for row in issues} == {store.slide_id for store in stores}
    assert {row["likely_wrong"] for row in issues} <= {"true", "false"}
    events = tmp_path / "m" / "tensorboard"
    assert sorted(path.name for path in events.iterdir()) == ["fold_0", "fold_1"]
    assert all(any(path.iterdir()) for path in events.iterdir())


def test_a_head_with_a_term_for_each_class_is_refused_where_there_are_none(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(4)
    text = "".join(f"{s.slide_id},p{i},{i}\n" for i, s in enumerate(stores))
    labels = write_labels(f"slide_id,patient_id,value\n{text}")
    with pytest.raises(ValueError, match="head='clam_sb': its loss needs one class"):
        train(stores, labels, tmp_path / "m", task="regression", head="clam_sb", folds=0)
