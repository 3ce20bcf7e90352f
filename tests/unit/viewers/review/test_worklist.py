from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, TileSpec
from tiling.geometry import Region
from viewers.errors import ReviewError
from viewers.review import opened
from viewers.review.log import ReviewLog, Verdict
from viewers.review.opened import note_opened
from viewers.review.worklist import (
    WorklistRow,
    filtered,
    next_unread,
    read_worklist,
    sort_by_urgency,
)


def row(name: str, urgency: float, read: int = 0, label: str = "tumor") -> WorklistRow:
    return WorklistRow(name, f"{name}.zarr", "p", urgency / 2, 0.5, urgency, label, read)


def score(store: SlideStore, tumor: float, point: float | None, **attrs: object) -> None:
    store.write_prediction(
        attrs.pop("name", "abmil-00000000"),  # type: ignore[arg-type]
        scores={"normal": 1 - tumor, "tumor": tumor},
        attention=np.full(len(store), 1 / len(store), np.float32),
        attrs={"model_id": "m1", "operating_point": point, "positive": "tumor", **attrs},
    )


@pytest.fixture
def run(tmp_path: Path, tissue_path: Path) -> Path:
    """Slides a (0.2), b (0.9) and c (0.5) at an operating point of 0.4, and d without a score."""
    (tmp_path / "stores").mkdir()
    for name, tumor in (("a", 0.2), ("b", 0.9), ("c", 0.5), ("d", None)):
        spec = TileSpec(512, 0.5, min_tissue=0.5)
        store = make_store(tissue_path, tmp_path / "stores" / f"{name}.zarr", spec, name)
        if tumor is not None:
            score(store, tumor, 0.4)
    return tmp_path


def test_the_most_urgent_is_first_and_what_has_no_score_is_last(run: Path) -> None:
    rows = read_worklist(run)
    assert [r.slide_id for r in rows] == ["b", "c", "a", "d"]
    assert [r.urgency for r in rows[:3]] == [pytest.approx(v) for v in (2.25, 1.25, 0.5)]
    assert (rows[0].score, rows[0].label) == (0.9, "tumor")
    assert (rows[3].score, rows[3].label) == (None, "not scored yet")
    assert [r.slide_id for r in filtered(rows, positive=True)] == ["b", "c"]


def test_what_a_reader_has_read_is_counted_for_that_reader(run: Path) -> None:
    review = ReviewLog.open(run / "stores" / "b.zarr", "b", "x")
    for i, answer in enumerate(["agree", "unsure", None, "agree"]):
        review.add(Verdict("b", "p", "m1", "1", 1, Region(i % 3, 0, 9, 9), 0.5, "x", answer))  # type: ignore[arg-type]
    rows = read_worklist(run, reader="x")
    assert [r.read for r in rows] == [2, 0, 0, 0]
    assert [r.read for r in read_worklist(run, reader="y")] == [0, 0, 0, 0]
    unread = next_unread(rows)
    assert unread is not None
    assert unread.slide_id == "c"
    assert [r.slide_id for r in filtered(rows, unread=True)] == ["c", "a", "d"]


def test_scores_of_parts_of_a_slide_are_no_scores_of_the_slide(run: Path) -> None:
    from tiling import open_store

    store = open_store(run / "stores" / "a.zarr")
    score(store, 0.99, 0.4, name="aaa-11111111", within={"file": "x"})
    assert [r.slide_id for r in read_worklist(run)] == ["b", "c", "a", "d"]


def test_without_an_operating_point_the_score_itself_is_the_urgency(
    tmp_path: Path, tissue_path: Path
) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", TileSpec(512, 0.5, min_tissue=0.5))
    score(store, 0.75, None)
    [found] = read_worklist(tmp_path)
    assert (found.urgency, found.operating_point) == (0.75, None)


def test_filters_and_next_unread_go_round() -> None:
    rows = sort_by_urgency([row("x", 0.1), row("b", 2.0, 3), row("a", 2.0), row("n", math.nan)])
    assert [r.slide_id for r in rows] == ["a", "b", "x", "n"]
    assert [r.slide_id for r in filtered(rows, " X ")] == ["x"]
    assert [r.slide_id for r in filtered(rows, "TUMOR", unread=True)] == ["a", "x", "n"]
    order, current = [], ""
    for _ in range(4):
        found = next_unread(rows, current)
        assert found is not None
        order.append(current := found.slide_id)
    assert order == ["a", "x", "n", "a"]
    assert next_unread([row("a", 1, 1)]) is None


def test_a_folder_of_slides_is_listed_by_name_and_what_was_opened_is_read(
    run: Path, tissue_path: Path, tmp_path: Path
) -> None:
    """Slides below it too; stores, hidden files and other files are none."""
    folder = tmp_path / "slides"
    (folder / "day 2").mkdir(parents=True)
    for name in ("b.tif", "a.svs", "day 2/a.tif", ".hidden.tif", "notes.txt"):
        (folder / name).write_bytes(b"")
    shutil.copytree(run / "stores" / "d.zarr", folder / "d.zarr.off" / "d.zarr")
    rows = read_worklist(folder)
    assert [r.slide_id for r in rows] == ["a", "b", "day 2__a"]
    assert {(r.score, r.label, r.has_store, r.read) for r in rows} == {
        (None, "not scored yet", False, 0)
    }
    assert rows[2].path == str(folder / "day 2" / "a.tif")
    note_opened(rows[0].path, "x")
    with opened.opened_path().open("a") as file:
        file.write('{"slide": "/cut o')
    note_opened(rows[1].path, " x ")
    rows = read_worklist(folder, reader="x")
    assert [r.read for r in rows] == [1, 1, 0]
    following = next_unread(rows, "a")
    assert following is not None
    assert following.slide_id == "day 2__a"
    assert [r.read for r in read_worklist(folder, reader="y")] == [0, 0, 0]
    assert [r.read for r in read_worklist(folder)] == [0, 0, 0]
    note_opened(str(Path(tissue_path).resolve()), "x")  # of a run's slide without a score
    assert [r.read for r in read_worklist(run, reader="x")] == [0, 0, 0, 1]


def test_a_folder_without_a_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ReviewError, match="neither a run"):
        read_worklist(tmp_path)
