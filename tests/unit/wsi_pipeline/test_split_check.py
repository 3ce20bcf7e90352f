"""`wsi check-splits`: every leak is named and the exit code is 1."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.unit.mil_models.conftest import MakeStores, make_stores, tiny
from wsi_pipeline.cli import run_tokens

__all__ = ["make_stores", "tiny"]
HEADER = "slide_id,patient_id,label,split\n"
CLEAN = HEADER + "".join(
    f"s{i},p{i},{'x' if i % 2 else 'y'},{part}\n"
    for i, part in enumerate(["train"] * 4 + ["test"] * 2)
)


def wsi(*tokens: object) -> int:
    return run_tokens([str(token) for token in tokens])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(CLEAN)
    return path


def findings(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str, str]]:
    found = json.loads(capsys.readouterr().out)["findings"]
    return [(f["kind"], f["where"], f["message"]) for f in found]


def test_a_clean_split(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("check-splits", labels) == 0
    said = capsys.readouterr().out
    assert "6 slides, 1 splits: no findings" in said
    assert "not checked: near-duplicate (no --stores)" in said
    assert "not checked: site-confounded (the table has no site)" in said


def test_leaks_are_named(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels.write_text(CLEAN + "s0,p0,y,test\nnew,p1,x,test\n")
    assert wsi("check-splits", labels, "--json") == 1
    assert findings(capsys) == [
        ("same-patient", "", "patient p0 is in train and test"),
        ("same-patient", "", "patient p1 is in train and test"),
        ("same-slide", "", "s0 and s0 are one file, in train and test"),
    ]
    assert wsi("check-splits", labels) == 1
    assert "same-patient: patient p1 is in train and test" in capsys.readouterr().out
    ignored = ["--ignore", "same-patient", "--ignore", "same-slide"]
    assert wsi("check-splits", labels, *ignored) == 0


def test_a_file_of_splits(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = tmp_path / "splits.csv"
    splits.write_text(
        "slide_id,repeat,fold,part\ns0,0,0,train\ns1,0,0,train\ns2,0,0,test\ns3,0,0,test\n"
        "s0,0,1,train\ns2,0,1,train\ns1,0,1,test\ns0,0,1,test\n"
    )
    assert wsi("check-splits", labels, "--splits", splits, "--json") == 1
    where = "repeat 0, fold 1"
    assert findings(capsys) == [
        ("same-patient", where, "patient p0 is in train and test"),
        ("class-missing", where, "train has no slide of class x"),
        ("same-slide", where, "s0 is in train and test"),
    ]


def test_one_file_under_two_names_and_near_duplicates(
    make_stores: MakeStores,
    labels: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stores are of one slide file; their embeddings are made up, those of b copied to f."""
    stores = make_stores(6)
    copied = stores[1].embeddings().data[:]
    stores[5].embeddings().data[:] = copied + np.float32(1e-3)
    rows = "".join(f"{s.slide_id},p{i},{'xy'[i % 2]},{'train' if i < 4 else 'test'}\n"
                   for i, s in enumerate(stores))  # fmt: skip
    labels.write_text(HEADER + rows)
    out = Path(stores[0].path).parent
    assert wsi("check-splits", labels, "--stores", out, "--json") == 1
    [(kind, _, message)] = findings(capsys)
    assert kind == "same-slide"
    assert message.startswith("a and b and c and d and e and f are one file, in train and test")
    own = property(lambda self: SimpleNamespace(quick_hash=self.slide_id))
    monkeypatch.setattr("tiling.store.SlideStore.source", own)  # as if of several files
    assert wsi("check-splits", labels, "--stores", out, "--json") == 1
    [(kind, _, message)] = findings(capsys)
    assert kind == "near-duplicate"
    assert message == (
        "b and f look alike: 100% of the tiles of one have their nearest tile in the other at the "
        "same place, in train and test"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the column slide_id or path"),
        (HEADER, "no slide in it"),
        (HEADER + ",p,x,train\n", "line 2: slide_id is empty"),
        (HEADER + "s,p,x,exam\n", "line 2: split is 'exam'; use train, val, test"),
    ],
)
def test_tables_that_are_refused(
    labels: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels.write_text(text)
    assert wsi("check-splits", labels) == 2
    assert message in capsys.readouterr().err


def test_wrong_usage(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("check-splits", labels, "--ignore", "everything") == 2
    assert "--ignore everything: use same-patient" in capsys.readouterr().err
    (tmp_path / "s.csv").write_text("slide_id,part\nnobody,train\n")
    assert wsi("check-splits", labels, "--splits", tmp_path / "s.csv") == 2
    assert "nobody is not in the table of labels" in capsys.readouterr().err
