from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, open_slide
from tiling.heatmap import ScoreMap
from viewers import draw_store
from viewers.colours import heat_colours
from viewers.render import overview_figure, png_bytes
from viewers.report import ReportRow, write_report


def test_everything_is_drawn_twice_with_the_same_bytes(
    scored_store: SlideStore, tissue_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with open_slide(tissue_path) as slide:
        drawn = draw_store(scored_store, slide, scored_store.prediction(), out)
        first = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
        draw_store(scored_store, slide, scored_store.prediction(), out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == first
    assert drawn.overview == out / "heatmaps" / "a.png"
    assert drawn.sheet == out / "heatmaps" / "a_tiles.png"
    features = json.loads((out / "geojson" / "a.geojson").read_text())["features"]
    assert len(features) == 16
    assert features[-1]["properties"]["measurements"]["attention percentile"] == 100
    assert features[3]["properties"]["measurements"] == {}


def test_without_a_prediction_tissue_is_drawn_and_nothing_else(
    scored_store: SlideStore, tissue_path: Path, tmp_path: Path
) -> None:
    with open_slide(tissue_path) as slide:
        drawn = draw_store(scored_store, slide, None, tmp_path / "out")
    assert (drawn.sheet, drawn.geojson) == (None, None)
    assert [p.name for p in (tmp_path / "out" / "heatmaps").iterdir()] == ["a.png"]


def test_a_store_without_tiles_is_drawn_too(blank_path: Path, tmp_path: Path) -> None:
    store = make_store(blank_path, tmp_path / "blank.zarr")
    with open_slide(blank_path) as slide:
        draw_store(store, slide, None, tmp_path)
    assert (tmp_path / "heatmaps" / "a.png").exists()


def test_the_heatmap_lies_on_its_tile() -> None:
    """A slide of 1030 x 770 px with one painted tile and one hot cell: they coincide."""
    thumbnail = np.full((770, 1030, 3), 255, np.uint8)
    thumbnail[200:300, 400:500] = (0, 0, 255)
    values = np.full((8, 11), np.nan, np.float32)
    values[2, 4] = 1.0
    sizes = {"slide_size": (1030, 770), "mpp": (0.5, 0.5), "title": "t"}

    def picture(found: ScoreMap) -> np.ndarray:
        import io

        figure = overview_figure(thumbnail, found=found, label="x", **sizes)
        return np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB")).astype(int)

    plain = picture(ScoreMap(np.full_like(values, np.nan), (100, 100)))
    hot = picture(ScoreMap(values, (100, 100)))
    blue = np.argwhere((plain[..., 2] > 200) & (plain[..., 0] < 60))
    changed = np.argwhere(np.abs(hot - plain).sum(axis=2) > 40)
    assert np.abs(changed.min(axis=0) - blue.min(axis=0)).max() <= 1
    assert np.abs(changed.max(axis=0) - blue.max(axis=0)).max() <= 1


def test_heat_is_clear_where_low_and_strong_where_high() -> None:
    opacity = heat_colours()[:, 3]
    assert opacity[0] == 0
    assert opacity[-1] > 0.6
    assert (np.diff(opacity) >= 0).all()


def row(slide_id: str, score: float | None, status: str = "done", **more: object) -> ReportRow:
    scores = {} if score is None else {"normal": 1 - score, "tumor": score}
    return ReportRow(slide_id, status, scores=scores, positive="tumor", **more)  # type: ignore[arg-type]


def test_the_page_is_one_file_sorted_by_score_and_escaped(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000), "white").save(tmp_path / "o.png")
    rows = [
        row("low", 0.1),
        row("<script>alert(1)</script>", None, "failed", reason="no & mpp"),
        row("unscored", None, reason="no tissue"),
        row("high", 0.9, overview=tmp_path / "o.png"),
    ]
    path = write_report(tmp_path / "r.html", title="Run", rows=rows, parameters={"mpp": 0.5})
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "high", "low", "unscored", "&lt;script&gt;alert(1)&lt;/script&gt;",
    ]  # fmt: skip
    assert "no &amp; mpp" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "Research use only" in page


@pytest.mark.parametrize("rows", [[], [row("only", None, "failed", reason="x")]])
def test_a_page_of_nothing_is_still_a_page(tmp_path: Path, rows: list[ReportRow]) -> None:
    write_report(tmp_path / "r.html", title="Run", rows=rows, parameters={})
