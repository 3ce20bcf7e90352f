"""`wsi evaluate`: what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_pipeline.cli import run_tokens

N = 60


def wsi(*tokens: object) -> int:
    return run_tokens([str(token) for token in tokens])


def rows(skill: float = 2.0, seed: int = 0, **more: Callable[[int], str]) -> list[dict[str, str]]:
    noise = np.random.default_rng(seed).normal(size=N)
    found = []
    for i in range(N):
        s = 1 / (1 + np.exp(-(skill * (i % 2 - 0.5) + noise[i])))
        found.append({
            "slide_id": f"s{i}", "patient_id": f"p{i // 4 * 2 + i % 2}", "fold": str(i // 4 % 3),
            "label": "tumour" if i % 2 else "benign", "score_benign": f"{1 - s:.6f}",
            "score_tumour": f"{s:.6f}", **{k: make(i) for k, make in more.items()},
        })  # fmt: skip
    return found


def write(path: Path, table: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def evaluated(capsys: pytest.CaptureFixture[str], *tokens: object) -> dict[str, Any]:
    assert wsi("evaluate", *tokens, "--resamples", 100, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_everything_is_written_and_the_page_asks_nothing_of_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "one.csv", rows(2, site=lambda i: "north" if i % 3 else "south"))
    two = write(tmp_path / "two.csv", rows(0.2, seed=5))
    found = evaluated(capsys, one, "-o", tmp_path / "out", "--compare", two)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "comparison.csv", "evaluation.html", "evaluation.json", "metrics.csv", "reliability.csv",
        "subgroups.csv",
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == found
    assert (found["task"], found["classes"]) == ("binary", ["benign", "tumour"])
    assert (found["slides"], found["patients"], found["out_of_fold"]) == (60, 30, True)
    assert found["comparison"]["figures"]["auroc"]["p"] < 0.05
    assert {"delong_p", "delong_error"} <= set(found["comparison"]["figures"]["auroc"])
    assert set(found["subgroups"]["site"]) == {"north", "south"}
    assert found["chance"]["p"] < 0.05
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert page.count("data:image/png") == 4
    assert "http:" not in page
    assert "https:" not in page
    with (tmp_path / "out" / "metrics.csv").open() as file:
        figures = {row["figure"]: row for row in csv.DictReader(file)}
    assert float(figures["auroc"]["value"]) == pytest.approx(found["metrics"]["auroc"], abs=1e-5)
    assert float(figures["auroc"]["low"]) == pytest.approx(found["metrics"]["auroc_low"], abs=1e-5)


def test_two_evaluations_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.csv", rows())
    first = evaluated(capsys, one, "-o", tmp_path / "a")
    again = evaluated(capsys, one, "-o", tmp_path / "b")
    assert first == again
    other = evaluated(capsys, one, "-o", tmp_path / "c", "--seed", 1)
    assert other["metrics"]["auroc"] == first["metrics"]["auroc"]
    assert other["metrics"]["auroc_low"] != first["metrics"]["auroc_low"]


def test_labels_of_another_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = rows()
    said = [{k: row[k] for k in ("slide_id", "score_benign", "score_tumour")}
            | {"label": "tumour" if float(row["score_tumour"]) > 0.5 else "benign",
               "tiles": "9", "bad_tiles": "0", "seen_in_training": "False"}
            for row in table]  # fmt: skip
    predictions = write(tmp_path / "predictions.csv", said)
    assert wsi("evaluate", predictions, "-o", tmp_path / "out") == 2
    assert "its column label is what the model said; pass what is true" in capsys.readouterr().err
    truth = [
        {"path": f"slides/{row['slide_id']}.svs", "label": row["label"],
         "patient_id": row["patient_id"], "sex": "fm"[i % 2]}
        for i, row in enumerate(table)
    ]  # fmt: skip
    labels = write(tmp_path / "labels.csv", truth[::-1])
    out = tmp_path / "out"
    found = evaluated(capsys, predictions, "--labels", labels, "--by", "sex", "-o", out)
    whole = evaluated(capsys, write(tmp_path / "whole.csv", table), "-o", tmp_path / "whole")
    assert found["metrics"] == whole["metrics"]
    assert found["out_of_fold"] is False
    assert list(found["subgroups"]) == ["sex"]
    assert (
        "was trained on these slides, the table does not say"
        in (out / "evaluation.html").read_text()
    )
    write(labels, truth[1:])
    assert wsi("evaluate", predictions, "--labels", labels, "-o", out) == 2
    assert "predictions.csv, line 2: s0 has no line in labels.csv" in capsys.readouterr().err


def test_fitting_on_a_validation_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, validation = (write(tmp_path / f"{k}.csv", rows(seed=k)) for k in (1, 2))
    found = evaluated(capsys, test, "--fit-on", validation, "-o", tmp_path / "out",
                      "--rule", "sensitivity", "--at-least", 0.9)  # fmt: skip
    assert found["calibration"]["fitted_on"] == "other slides"
    point = found["operating_point"]
    assert point["chosen_on"] == "other slides"
    assert point["chosen"]["sensitivity"] >= 0.9
    scores = [
        (float(r["score_tumour"]) >= point["chosen"]["threshold"]) for r in rows(seed=1)[1::2]
    ]
    assert point["sensitivity"] == pytest.approx(np.mean(scores))
    other = [{k.replace("tumour", "polyp"): v.replace("tumour", "polyp") for k, v in row.items()}
             for row in rows(seed=2)]  # fmt: skip
    write(validation, other)
    assert wsi("evaluate", test, "--fit-on", validation, "-o", tmp_path / "out") == 2
    assert "fit on benign, polyp, judged benign, tumour" in capsys.readouterr().err


def test_grades_values_and_survival(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    grades = []
    for i in range(N):
        p = rng.dirichlet(np.ones(4)) + np.eye(4)[i % 4]
        scores = {f"score_{g}": f"{v:.6f}" for g, v in enumerate(p / p.sum())}
        grades.append({"slide_id": f"s{i}", "label": str(i % 4), **scores})
    table = write(tmp_path / "grades.csv", grades)
    found = evaluated(capsys, table, "--task", "ordinal", "-o", tmp_path / "grades")
    assert found["metrics"]["quadratic_kappa"] > 0.5
    assert found["chance"]["figure"] == "quadratic_kappa"
    values = [{"slide_id": f"s{i}", "value": str(i), "predicted": str(i + rng.normal())}
              for i in range(N)]  # fmt: skip
    found = evaluated(capsys, write(tmp_path / "v.csv", values), "-o", tmp_path / "v")
    assert found["metrics"]["r2"] > 0.9
    lives = [{"slide_id": f"s{i}", "time": f"{1 + i}", "event": str(int(i % 3 > 0)),
              "risk": f"{-i + 5 * rng.normal()}", "survival_20": "0.7", "survival_40": "0.4"}
             for i in range(N)]  # fmt: skip
    found = evaluated(capsys, write(tmp_path / "t.csv", lives), "-o", tmp_path / "t")
    assert found["metrics"]["c_index"] > 0.8
    assert found["risk_groups"]["p"] < 0.01
    assert "log-rank" not in found  # it is in the picture
    for name in ("grades", "v", "t"):
        assert "data:image/png" in (tmp_path / name / "evaluation.html").read_text()


def test_a_model_folder_of_several_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    tasks = {"tumour": {"kind": "binary"}, "size": {"kind": "regression"}}
    card = {"task": {"kind": "several", "tasks": tasks}, "classes": ["x"]}
    (model / "card.json").write_text(json.dumps(card))
    table = []
    for i, row in enumerate(rows()):
        own = {f"tumour.{k}": row[k] for k in ("label", "score_benign", "score_tumour")}
        size = {"size.value": str(i) if i % 5 else "", "size.predicted": str(i + i % 3)}
        table.append({k: row[k] for k in ("slide_id", "patient_id", "fold")} | own | size)
    write(model / "oof_predictions.csv", table)
    found = evaluated(capsys, model, "-o", tmp_path / "out")
    assert found["tumour"]["metrics"]["slides"] == 60
    assert found["size"]["metrics"]["slides"] == 48  # where the truth is known
    assert found["size"]["metrics"]["mean_absolute_error"] == pytest.approx(1.0, abs=0.1)
    assert (tmp_path / "out" / "size" / "evaluation.html").exists()
    assert wsi("evaluate", model, "-o", tmp_path / "out", "--resamples", 100) == 0
    assert "size/evaluation.html" in capsys.readouterr().out


def damaged(row: int, column: str, value: str) -> list[dict[str, str]]:
    table = rows()
    table[row][column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (damaged(3, "label", ""), "t.csv, line 5 (s3): label is empty"),
        (damaged(3, "label", "odd"), "t.csv, line 5 (s3): class 'odd' has no column score_odd"),
        (damaged(3, "score_tumour", "nan"), "t.csv, line 5 (s3): score_tumour is 'nan'"),
        (damaged(3, "score_tumour", "3.5"), "t.csv, line 5 (s3): score_tumour is 3.5, no"),
        (damaged(3, "score_tumour", "0.9999"), "t.csv, line 5 (s3): the scores sum to"),
        (damaged(3, "slide_id", ""), "t.csv, line 5: slide_id is empty"),
        (damaged(3, "slide_id", "s1"), "t.csv, line 5: s1 stands in line 3 already"),
        ([{"slide_id": "a", "size": "3"}], "the columns are those of no task"),
        ([{"slide": "a", "label": "b"}], "t.csv: no column slide_id; there are slide, label"),
    ],
)  # fmt: skip
def test_bad_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: list[dict[str, str]], message: str
) -> None:
    path = write(tmp_path / "t.csv", table)
    assert wsi("evaluate", path, "-o", tmp_path / "out") == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_one_class_is_no_error_but_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.csv", rows()[::2])
    found = evaluated(capsys, path, "-o", tmp_path / "out")
    assert found["metrics"]["auroc"] is None
    assert found["metrics"]["reasons"]["auroc"] == "no slide of class tumour"
    assert "no slide of class tumour" in (tmp_path / "out" / "evaluation.html").read_text()


def test_empty_files_wrong_folders_and_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "folder").mkdir()
    table = write(tmp_path / "t.csv", rows())
    unscored = [r | {"score_benign": "", "score_tumour": ""} for r in rows()]
    none = write(tmp_path / "none.csv", unscored)
    strangers = write(tmp_path / "u.csv", [r | {"slide_id": f"u{r['slide_id']}"} for r in rows()])
    flipped = [r | {"label": "tumour" if r["label"] == "benign" else "benign"} for r in rows()]
    other = write(tmp_path / "f.csv", flipped)
    for tokens, message in (
        ([tmp_path / "empty.csv"], "empty.csv: no slide in it"),
        ([tmp_path / "folder"], "not a model folder (no readable card.json)"),
        ([tmp_path / "nothing.csv"], "cannot be read as CSV"),
        ([none], "no slide has a prediction"),
        ([table, "--by", "mood"], "--by mood: no such column"),
        ([table, "--resamples", 3], "resamples=3: must be at least 100"),
        ([table, "--compare", strangers], "have no slide in common"),
        ([table, "--compare", other], "differ in what is true of a slide"),
    ):
        assert wsi("evaluate", *tokens, "-o", tmp_path / "out") == 2, tokens
        assert message in " ".join(capsys.readouterr().err.split())
