"""The whole chain on a small generated archive: `benchmarks/camelyon_archive.py` made smaller."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.camelyon_archive import (
    DOWNSAMPLE,
    MPP,
    Patchwork,
    chain,
    make_archive,
    make_tissue,
    own_fields,
    place_lesion,
    plan_slides,
    read_outlines,
)
from mil_models import load_model
from tests.unit.wsi_pipeline.camelyon.conftest import rows
from tiling import open_slide
from tiling.annotations import area_mask


@pytest.fixture(scope="module")
def outlines(shared_data: Path) -> Path:
    return shared_data / "camelyon16_annotations" / "tumor_polygons_train.zip"


def test_lesions_lie_where_the_pixels_are_tumour(outlines: Path) -> None:
    """Any part of the patchwork is that of the whole; fields of tumour are inside the outline."""
    plan = next(p for p in plan_slides(4, 0, (1500, 1700), (1, 1), 3) if p.is_tumour)
    [shape] = read_outlines(outlines, 1)
    area = place_lesion(plan, shape, 0.5)
    x0, y0, x1, y1 = area.bounds
    assert max(x1 - x0, y1 - y0) == pytest.approx(0.5 * min(plan.size))
    patchwork = Patchwork(plan, area, make_tissue(plan))
    whole = patchwork[slice(0, plan.size[1]), slice(0, plan.size[0])]
    part = patchwork[slice(301, 900), slice(250, 777)]
    np.testing.assert_array_equal(part, whole[301:900, 250:777])
    inside = area_mask(area, plan.size, 1)
    other = Patchwork(plan, place_lesion(plan, shape, 0.01), make_tissue(plan))
    without = other[slice(0, plan.size[1]), slice(0, plan.size[0])]
    changed = (whole != without).any(axis=2)
    assert changed[inside].mean() > 0.9
    assert changed[~inside].mean() < 0.001
    training, test = (own_fields(replace(plan, is_test=t, apart=True)) for t in (False, True))
    for one, other_fields in zip(training, test, strict=True):
        assert not {f.tobytes() for f in one} & {f.tobytes() for f in other_fields}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*patients")
def test_from_slides_to_the_report(
    outlines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six slides of two centres: every command runs, and its files are what the plans say.

    Two test slides say nothing of accuracy: what was learned is asked of the training slides.
    """
    plans = plan_slides(6, 0, (2600, 2800), (1, 1), 0)
    areas = make_archive(tmp_path, plans, outlines, shares=(0.6, 0.7))
    chain(tmp_path, areas, epochs=6, positive=0.2, quick=True)
    manifest = {row["slide_id"]: row for row in rows(tmp_path / "manifest.csv")}
    assert {n: r["label"] for n, r in manifest.items()} == {
        p.name: "tumor" if p.is_tumour else "normal" for p in plans
    }
    sites = {"a": "radboud", "b": "utrecht"}
    assert {n: r["site"] for n, r in manifest.items()} == {p.name: sites[p.centre] for p in plans}
    with open_slide(tmp_path / manifest["test_001"]["path"]) as slide:
        assert slide.mpp[0] == pytest.approx(MPP[plans[2].centre], rel=1e-3)
    [name] = [n for n in areas if n.startswith("test")]
    for kind in ("weak", "strong"):
        folder = tmp_path / "work" / f"by_{kind}"
        figures = json.loads((folder / "figures.json").read_text())
        assert {r["slide"] for r in figures["rows"]} == {p.name for p in plans if p.is_test}
        assert list(figures["segmentation"]["slides"]) == [name]
        assert "Segmentation" in (folder / "report.html").read_text()
        assert len(list((folder / "maps").iterdir())) == 6
    scores = {r["slide"]: float(r["score"]) for r in rows(folder / "scores.csv")}
    assert min(scores["tumor_001"], scores["tumor_002"]) > 0.9
    assert max(scores["normal_001"], scores["normal_002"]) < 0.1
    card = load_model(tmp_path / "work" / "strong").card
    assert card["training"]["tiles"][0]["tumour"] >= 4
    with Image.open(tmp_path / "work" / "labelled" / "masks" / f"{name}.png") as mask:
        drawn = int(np.asarray(mask).sum())
    assert drawn * DOWNSAMPLE**2 == pytest.approx(areas[name].area, rel=0.02)
