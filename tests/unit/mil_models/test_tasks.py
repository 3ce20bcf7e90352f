from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models import load_model, predict, train
from mil_models.checkpoint import read_predictions
from mil_models.errors import LabelTableError
from mil_models.labels import merged_strata, read_answers
from mil_models.losses import cox
from mil_models.options import TaskOptions
from mil_models.tasks import create_task, task_from_json
from tests.unit.mil_models.conftest import MakeStores
from tests.unit.mil_models.synthetic import answers_of, reading, task_of

SURVIVAL = [{"time": "1", "event": "1"}, {"time": "2", "event": "0"}, {"time": "4", "event": "1"}]


@pytest.mark.parametrize(
    ("name", "rows", "asked", "message"),
    [
        ("binary", [{"label": "a"}, {"label": ""}], {}, r"line 3: label is empty \(slide s1\)"),
        ("binary", [{"label": "a"}, {"label": "NaN"}], {}, r"line 3: label is NaN \(slide s1\)"),
        ("binary", [{"label": "a"}, {"label": "b"}, {"label": "c"}], {"classes": ("a", "b")},
         r"line 4: label is 'c', none of the classes a, b \(slide s2\)"),
        ("binary", [{"label": "a"}, {"label": "b"}], {"classes": ("a", "z")}, "no slide has z"),
        ("binary", [{"label": "a"}, {"label": "a"}], {}, "one class only"),
        ("binary", [{"grade": "a"}, {"grade": "b"}], {}, "needs the columns label; .* has grade"),
        ("regression", [{"value": "1"}, {"value": "inf"}], {}, "line 3: value is 'inf', not a"),
        ("regression", [{"value": "1"}, {"value": "1"}], {}, "every slide has the same value"),
        ("multilabel", [{"label_a": "2"}], {}, "label_a is '2'; use 1, 0, -1"),
        ("multilabel", [{"label_a": "1"}, {"label_a": "-1"}], {}, "label_a: training needs slides"),
        ("multilabel", [{"label": "1"}], {}, "needs the columns label_…"),
        ("survival", [{"time": "1", "event": "0"}], {}, "event: is 0 for every slide"),
        ("survival", [{"time": "0", "event": "1"}], {}, "line 2: time is 0; must be positive"),
        ("survival", [{"time": "1", "event": "2"}], {}, "event is '2'; use 1"),
        ("survival", [{"time": "1", "event": "1"}], {"columns": ("time",)}, "takes two columns"),
    ],
)  # fmt: skip
def test_wrong_answers_are_named_with_their_slide(
    name: str, rows: list[dict[str, str]], asked: dict[str, object], message: str
) -> None:
    with pytest.raises(LabelTableError, match=message):
        task_of(name, rows, **asked)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("binary", {"loss": "mse"}, "loss='mse': binary takes cross-entropy, focal, gce, sce"),
        ("ordinal", {"balance": "weights"}, "balance='weights': ordinal takes auto, none"),
        ("ordinal", {"consensus": "soft"}, "consensus='soft': ordinal takes majority"),
        ("survival", {"loss": "focal"}, "loss='focal': survival takes no such option"),
        ("grades", {}, "task='grades': choose from binary, .*, or a TOML file"),
    ],
)
def test_options_that_a_task_does_not_know_are_refused(
    name: str, asked: dict[str, object], message: str
) -> None:
    rows = [{"label": "1", **SURVIVAL[0]}, {"label": "2", **SURVIVAL[1]}]
    with pytest.raises(ValueError, match=message):
        task_of(name, rows, **asked)


def test_classes_stand_in_the_order_of_numbers_or_as_asked() -> None:
    rows = [{"label": label} for label in ("10", "9", "2")]
    task = task_of("ordinal", rows)
    assert list(task.outputs) == ["2", "9", "10"]
    assert task.logits == 2
    assert task.targets(answers_of(rows)).tolist() == [2, 1, 0]
    named = [{"label": label} for label in ("high", "low", "mid")]
    assert task_of("ordinal", named, classes=("low", "mid", "high")).targets(
        answers_of(named)
    ).tolist() == [2, 0, 1]  # fmt: skip


def test_a_grade_is_the_number_of_steps_that_are_likely() -> None:
    """CORN's rule; the most probable single grade may be another."""
    task = task_of("ordinal", [{"label": str(grade)} for grade in range(4)])
    assert task.label(np.array([0.4, 0.05, 0.25, 0.3])) == "2"


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [("ignore", [math.nan, 0]), ("zeros", [0, 0]), ("ones", [1, 0])],
)
def test_uncertain_labels_by_chexperts_policies(uncertain: str, expected: list[float]) -> None:
    rows = [{"label_a": "-1", "label_b": "0"}, {"label_a": "1", "label_b": "1"},
            {"label_a": "0", "label_b": ""}]  # fmt: skip
    task = task_of("multilabel", rows, uncertain=uncertain)
    found = task.targets(answers_of(rows))
    assert found[0].tolist() == pytest.approx(expected, nan_ok=True)
    assert math.isnan(found[2, 1])
    soft = task_of("multilabel", rows, uncertain="soft").targets(answers_of(rows))[0, 0]
    assert 0.55 < soft < 0.85
    assert task.truth(answers_of(rows)[0]) == {"label_a": "-1", "label_b": "0"}


def test_rare_classes_weigh_more() -> None:
    rows = [{"label": label} for label in "aaab"]
    task = task_of("binary", rows)
    fitted = task.fitted(task.targets(answers_of(rows)))
    loss = fitted.loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    assert loss.tolist() == pytest.approx([math.log(2) * 2 / 3, math.log(2) * 2])
    assert fitted.mean_loss(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])) == pytest.approx(
        math.log(2)
    )


def test_readers_agree_by_majority_or_softly() -> None:
    three = tuple(reading("s", line, label=vote) for line, vote in enumerate("aab", start=2))
    answers = [three, (reading("t", 5, label="b"),)]
    hard = create_task("binary", answers, ["label"], TaskOptions())
    assert hard.targets(answers).tolist() == [0, 1]
    soft = create_task("binary", answers, ["label"], TaskOptions(consensus="soft"))
    assert soft.targets(answers)[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert soft.has_classes is False
    assert hard.has_classes is True
    tied = [three[1:], (reading("t", 5, label="b"),)]
    with pytest.raises(LabelTableError, match=r"line 3: as many readers say a as b.*\(slide s\)"):
        create_task("binary", tied, ["label"], TaskOptions())


def test_a_bags_gradient_within_a_step_is_its_part_of_the_whole() -> None:
    """One bag at a time, the others held: the gradients sum to the partial likelihood's."""
    task = task_of("survival", SURVIVAL)
    targets = task.targets(answers_of(SURVIVAL))
    logits = torch.tensor([[0.3], [-0.2], [0.5]], requires_grad=True)
    whole = cox(logits[:, 0], targets[:, 0], targets[:, 1] == 1)
    [expected] = torch.autograd.grad(whole, logits)
    own = [logits[i : i + 1].detach().requires_grad_() for i in range(3)]
    parts = [task.within(logits.detach(), targets, i)(own[i], targets[i : i + 1]) for i in range(3)]
    assert [part.item() for part in parts] == pytest.approx([whole.item()] * 3)
    gradients = torch.autograd.grad(torch.cat(parts).mean(), own)
    assert torch.cat(gradients)[:, 0].tolist() == pytest.approx(expected[:, 0].tolist())


def test_discrete_survival_by_hand() -> None:
    """Edges 0, 2.5, 4: an event at 1 is in the first interval; censored at 2, past its half."""
    task = task_of("survival", SURVIVAL, survival="discrete", bins=2, times=(2.5, 4.0))
    targets = task.targets(answers_of(SURVIVAL))
    fitted = task.fitted(targets)
    hazards = torch.tensor([[0.25, 0.5]])
    logits = hazards.logit().repeat(3, 1)
    assert fitted.loss(logits, targets).tolist() == pytest.approx(
        [-math.log(0.25), -math.log(0.75), -math.log(0.75 * 0.5)]
    )
    risk, first, second = fitted.predict(logits)[0].tolist()
    assert (risk, first, second) == pytest.approx((0.75, 0.75, 0.375))


def test_a_task_is_its_json(tmp_path: Path) -> None:
    rows = [{"label": "abc"[i % 3], "value": str(i), "label_x": str(i % 2), "label_y": str(i // 3),
             "time": str(i + 1), "event": "1"} for i in range(6)]  # fmt: skip
    several = tmp_path / "tasks.toml"
    several.write_text(
        '[a]\ntask = "multiclass"\ncolumns = ["label"]\n[b]\ntask = "survival"\n'
        'columns = ["time", "event"]\nweight = 2.0\n'
    )
    for name in ("multiclass", "ordinal", "regression", "multilabel", "survival", str(several)):
        task = task_of(name, rows)
        targets = task.targets(answers_of(rows))
        done = task.fitted(targets)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(6, task.logits, generator=generator)
        done = done.finished(logits, targets)
        again = task_from_json(json.loads(json.dumps(done.to_json())))
        assert again == done
        assert again.predict(logits).tolist() == done.predict(logits).tolist()


TABLES = {
    "multilabel": ("label_x,label_y", lambda i: f"{i % 2},{i // 2 % 2}"),
    "ordinal": ("label", lambda i: f"{i % 3}"),
    "regression": ("value", lambda i: f"{i / 2}"),
    "survival": ("time,event", lambda i: f"{i + 1},{int(i % 3 > 0)}"),
    "tasks.toml": (
        "grade,size",
        lambda i: f"{i // 2 % 2 if i % 4 else ''},{i if i % 4 != 1 else ''}",
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.filterwarnings("ignore:.*patients.* folds, not")
def test_every_task_from_table_to_prediction(
    name: str, make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(12)
    columns, values = TABLES[name]
    text = "".join(f"{s.slide_id},p{i},{values(i)}\n" for i, s in enumerate(stores))
    labels = write_labels(f"slide_id,patient_id,{columns}\n{text}")
    task = name
    if name == "tasks.toml":
        task = str(tmp_path / name)
        Path(task).write_text('[grade]\ntask = "binary"\n[size]\ntask = "regression"\n')
    train(stores, labels, tmp_path / "m", task=task, folds=2, epochs=2, device="cpu")
    model = load_model(tmp_path / "m")
    rows = read_predictions(tmp_path / "m")
    assert {row["fold"] for row in rows} == {"0", "1"}
    written = predict(stores[0], model)
    assert list(written.scores) == model.classes == list(model.columns)
    assert written.label
    for column in model.columns.values():
        assert all(math.isfinite(float(row[column])) for row in rows)
    assert model.positive in model.columns


def test_rare_strata_are_folded_together_not_refused() -> None:
    """Folds need patients of each stratum; these strata only help to make the folds alike."""
    groups = ["a"] * 6 + ["b"] * 6 + ["c", "d", "d"]
    patients = [f"p{i}" for i in range(15)]
    assert merged_strata(groups, patients) == ["a"] * 6 + ["b"] * 6 + ["other"] * 3
    assert merged_strata(["a"] * 6 + ["c"], patients[:7]) == ["a"] * 7


def test_slides_of_a_patient_are_one_bag(
    make_stores: MakeStores, write_labels: Callable[[str], Path], tmp_path: Path
) -> None:
    stores = make_stores(8)
    text = "".join(f"{s.slide_id},p{i // 2},{i // 2 % 2}\n" for i, s in enumerate(stores))
    labels = write_labels(f"slide_id,patient_id,label\n{text}")
    result = train(
        stores, labels, tmp_path / "m", folds=2, epochs=2, bag="patient", device="cpu"
    )  # fmt: skip
    assert result.metrics["slides"] == result.metrics["patients"] == 4
    rows = read_predictions(tmp_path / "m")
    assert [row["slide_id"] for row in rows] == ["a;b", "c;d", "e;f", "g;h"]
    assert predict(stores[3], load_model(tmp_path / "m")).attrs["seen_in_training"] is True
    write_labels(f"slide_id,patient_id,label\n{text.replace('b,p0,0', 'b,p0,1')}")
    with pytest.raises(LabelTableError, match=r"patient p0 has another answer for slide a"):
        read_answers(labels, stores, "binary", bag="patient")


def test_several_readers_take_a_row_each(
    make_stores: MakeStores, write_labels: Callable[[str], Path]
) -> None:
    text = "slide_id,patient_id,reader,label\na,p,A,1\na,p,B,1\na,p,C,0\nb,q,A,0\n"
    slides, _ = read_answers(write_labels(text), make_stores(2), "binary")
    assert [(s.slide_id, s.label, len(s.readings)) for s in slides] == [
        ("a", "1", 3),
        ("b", "0", 1),
    ]
    with pytest.raises(LabelTableError, match="line 3: slides named more than once: a"):
        read_answers(write_labels(text.replace("p,B", "p,A")), make_stores(2), "binary")
