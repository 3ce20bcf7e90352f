from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tiling.geometry import Region
from viewers.errors import ReviewError
from viewers.review.agreement import Agreement, agreement_table, read_reviews, write_reviews
from viewers.review.log import ANSWERS, ReviewLog, Verdict


def said(reader: str, answers: str, slide: str = "s1", model: str = "m1") -> list[Verdict]:
    """One letter a region: a, d, u, or - for none."""
    words = {"a": "agree", "d": "disagree", "u": "unsure", "-": None}
    return [
        Verdict(slide, "p", model, "1", i + 1, Region(i, 0, 9, 9), 0.5, reader, words[c])  # type: ignore[arg-type]
        for i, c in enumerate(answers)
    ]


def test_kappa_is_cohens() -> None:
    """Cohen 1960: 10 regions, 7 alike; by hand (0.7 - 0.38) / (1 - 0.38) = 16/31."""
    first, second = "aaaaaddduu", "aaaadddadu"
    rows = agreement_table(said("x", first) + said("y", second))
    expected = cohen_kappa_score(list(first), list(second))
    [row] = rows
    assert (row.first, row.second, row.regions, row.agreed) == ("x", "y", 10, 7)
    assert row.kappa == pytest.approx(expected, abs=1e-12)
    chance = (5 * 5 + 3 * 4 + 2 * 1) / 100
    assert row.kappa == pytest.approx((0.7 - chance) / (1 - chance), abs=1e-12)


def test_kappa_of_random_answers_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = ("".join(rng.choice(list("adu"), 30)) for _ in range(2))
        [row] = agreement_table(said("x", a) + said("y", b))
        assert row.kappa == pytest.approx(cohen_kappa_score(list(a), list(b)), abs=1e-12)


def test_slides_apart_and_together_and_open_regions_left_out() -> None:
    verdicts = [
        *said("x", "ad-u", "s1"), *said("y", "aduu", "s1"),
        *said("x", "aa", "s2"), *said("y", "da", "s2"),
        *said("z", "a", "s3"),
    ]  # fmt: skip
    rows = {(r.slide_id, r.first, r.second): r for r in agreement_table(verdicts)}
    assert rows["s1", "x", "y"] == Agreement("s1", "x", "y", 3, 3, 1.0)
    assert rows["s2", "x", "y"].kappa == pytest.approx(0.0)
    assert (rows["all", "x", "y"].regions, rows["all", "x", "y"].agreed) == (5, 4)
    assert rows["all", "x", "z"] == Agreement("all", "x", "z", 0, 0, None)


def test_one_verdict_only_leaves_kappa_undefined() -> None:
    [row] = agreement_table(said("x", "aaa") + said("y", "aaa"))
    assert (row.agreed, row.kappa) == (3, None)


def test_regions_of_different_models_are_not_compared() -> None:
    [row] = agreement_table(said("x", "a", model="m1") + said("y", "a", model="m2"))
    assert row.regions == 0


def test_a_run_is_read_whole_and_exported(tmp_path: Path) -> None:
    store = tmp_path / "stores" / "s1.zarr"
    for reader, answers in (("x", "ad"), ("y", "aa")):
        review = ReviewLog.open(store, "s1", reader)
        for verdict in said(reader, answers):
            review.add(verdict)
    ReviewLog.open(store, "s1", "x").add(said("x", "u")[0])  # on second thoughts
    verdicts = read_reviews(tmp_path)
    assert [(v.rank, v.reader, v.answer) for v in verdicts] == [
        (1, "x", "unsure"), (1, "y", "agree"), (2, "x", "disagree"), (2, "y", "agree"),
    ]  # fmt: skip
    write_reviews(tmp_path / "out.csv", verdicts)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == ["unsure", "agree", "disagree", "agree"]
    assert (rows[2]["x0"], rows[2]["width"], rows[2]["reader"]) == ("1", "9", "x")
    assert {row["answer"] for row in rows} <= set(ANSWERS)


def test_a_folder_without_reviews_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="no reviews here"):
        read_reviews(tmp_path)
