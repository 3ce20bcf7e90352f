"""Parts of slides scored by themselves, and what readers said, from the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tiling import open_store
from tiling.annotation_files import write_annotations
from tiling.annotations import Annotation
from tiling.geometry import Region
from viewers.review.log import ReviewLog, Verdict
from wsi_pipeline.cli import run_tokens
from wsi_pipeline.errors import UsageError
from wsi_pipeline.within import outlines_of, tiles_inside

QUIET = ["--progress", "none"]


def wsi(*tokens: object) -> int:
    return run_tokens([str(token) for token in tokens])


def rectangle(x0: int, y0: int, x1: int, y1: int, group: str = "Region") -> Annotation:
    return Annotation(
        "r", group, "polygon", np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
    )


@pytest.fixture(scope="module")
def scored(tissue_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides a to c of 16 tiles, scored by a model, in `out`; tiles start at (512, 256)."""
    root = tmp_path_factory.mktemp("within")
    (root / "slides").mkdir()
    for name in "abc":
        shutil.copy(tissue_path, root / "slides" / f"{name}.tif")
    (root / "labels.csv").write_text("slide_id,patient_id,label\na,p,no\nb,q,yes\nc,r,no\n")
    encoder = ["--encoder", "resnet10t", "--random-weights", "--device", "cpu"]
    embed = ["embed", root / "slides", "-o", root / "out", *encoder, "--min-tissue", 0.5]
    assert wsi(*embed, *QUIET) == 0
    train = ["train", "--stores", root / "out", "--labels", root / "labels.csv", "-o"]
    assert wsi(*train, root / "model", "--folds", 0, "--epochs", 1, "--json") == 0
    assert wsi("predict", "--stores", root / "out", "--model", root / "model", *QUIET) == 0
    return root


def test_a_region_is_scored_from_the_embeddings_that_are_there(scored: Path) -> None:
    out = scored / "out"
    before = (out / "predictions.csv").read_bytes()
    outlines = write_annotations(scored / "b.geojson", [rectangle(512, 256, 1024, 768)])
    predict = ["predict", "--stores", out, "--model", scored / "model", *QUIET]
    assert wsi(*predict, "--within", outlines) == 0
    with (out / "predictions_within.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    store = open_store(out / "stores" / "b.zarr")
    [part] = set(store.prediction_names()) - set(store.whole_slide_predictions())
    found = store.prediction(part)
    assert row["slide_id"] == "b"
    assert float(row["score_yes"]) == pytest.approx(found.scores["yes"], abs=1e-6)
    inside = np.isfinite(found.attention)
    assert sorted(store.grid.coords[inside].tolist()) == [
        [512, 256], [512, 512], [768, 256], [768, 512],
    ]  # fmt: skip
    assert found.attrs["within"]["tiles"] == 4
    assert (out / "predictions.csv").read_bytes() == before
    assert wsi("heatmap", "--stores", out, *QUIET) == 0  # a part is no second score of the slide
    with (out / "run_table.csv").open(newline="") as file:
        assert {r["status"] for r in csv.DictReader(file)} == {"done"}


def test_a_folder_of_outlines_names_its_slides(scored: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ac":
        write_annotations(tmp_path / "in" / f"{name}.xml", [rectangle(512, 256, 1536, 1280)])
    predict = ["predict", "--stores", scored / "out", "--model", scored / "model", "-o"]
    assert wsi(*predict, tmp_path / "x", "--within", tmp_path / "in", *QUIET) == 0
    with (tmp_path / "x" / "predictions_within.csv").open(newline="") as file:
        assert [row["slide_id"] for row in csv.DictReader(file)] == ["a", "c"]


def test_half_a_tile_decides_and_what_is_to_be_ignored_is_cut_out(
    scored: Path, tmp_path: Path
) -> None:
    store = open_store(scored / "out" / "stores" / "a.zarr")
    cut = [rectangle(512, 256, 512 + 384, 512), rectangle(512, 256, 700, 512, "Ignore")]
    for drawn, expected in ((cut[:1], {(512, 256), (768, 256)}), (cut, {(768, 256)})):
        path = write_annotations(tmp_path / "a.geojson", drawn)
        found = store.grid.coords[tiles_inside(store, path)].tolist()
        assert {tuple(c) for c in found} == expected


def test_wrong_outlines_are_refused_with_the_remedy(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict = ["predict", "--stores", scored / "out", "--model", scored / "model", *QUIET]
    assert wsi(*predict, "--within", tmp_path / "none.geojson") == 2
    assert "no such file or folder of outlines" in " ".join(capsys.readouterr().err.split())
    other = write_annotations(tmp_path / "z.geojson", [rectangle(0, 0, 9, 9)])
    assert wsi(*predict, "--within", other) == 2
    assert "e.g. a.geojson" in capsys.readouterr().err
    glass = write_annotations(tmp_path / "a.geojson", [rectangle(0, 0, 99, 99)])
    assert wsi(*predict, "-o", tmp_path / "x", "--within", glass) == 3
    with (tmp_path / "x" / "predictions_within.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert "no readable tile inside the outlines, of 16" in row["reason"]
    assert wsi(*predict, "--within", glass, "--patients", scored / "labels.csv") == 2
    assert outlines_of(other, ["only"]) == {"only": other}
    with pytest.raises(UsageError, match="no outlines of any of the 2 slides"):
        outlines_of(other, ["a", "b"])


def test_reviews_are_compared_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for reader, answers in (("x", ["agree", "agree"]), ("y", ["agree", "disagree"])):
        review = ReviewLog.open(tmp_path / "stores" / "s.zarr", "s", reader)
        for i, answer in enumerate(answers):
            review.add(
                Verdict("s", "p", "m", "1", i + 1, Region(i, 0, 9, 9), 0.5, "", answer)  # type: ignore[arg-type]
            )
    assert wsi("reviews", tmp_path, "--csv", tmp_path / "r.csv", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "verdicts": 4, "readers": ["x", "y"],
        "agreement": [{"slide_id": "s", "first": "x", "second": "y", "regions": 2, "agreed": 1,
                       "kappa": 0.0}],
    }  # fmt: skip
    with (tmp_path / "r.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert wsi("reviews", tmp_path) == 0
    assert "4 verdicts on 1 slides by x, y" in capsys.readouterr().out
    assert wsi("reviews", tmp_path / "stores") == 3


def test_where_only_what_to_leave_out_is_drawn_the_rest_is_inside(
    scored: Path, tmp_path: Path
) -> None:
    """A pen mark over a tile: the slide is looked at without it."""
    store = open_store(scored / "out" / "stores" / "a.zarr")
    mark = rectangle(512, 256, 768, 512, "Exclusion")
    inside = tiles_inside(store, write_annotations(tmp_path / "mark.geojson", [mark]))
    assert store.grid.coords[~inside].tolist() == [[512, 256]]
