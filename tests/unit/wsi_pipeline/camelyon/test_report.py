"""`wsi camelyon report`: the page, what it warns of, and the worst misses as pictures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.unit.wsi_pipeline.camelyon.conftest import LESIONS, NORMAL, SIZE, Archive, rows, wsi
from wsi_pipeline.camelyon.misses import Miss, crop_of, find_misses

Capture = pytest.CaptureFixture[str]
TRUTH = {name: name in LESIONS for name in (*NORMAL, *LESIONS)}


@pytest.fixture(scope="module")
def predicted(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made up: one lesion of four found, one alarm beside it and one on a normal slide."""
    out = tmp_path_factory.mktemp("report") / "predicted"
    (out / "detections").mkdir(parents=True)
    found = {"tumor_001": "0.9,800,400\n0.7,600,1000\n", "normal_002": "0.8,1200,700\n"}
    lines = ["slide,score,diameter_mm,detections,tiles,heads,seen_in_training"]
    for name, tumour in TRUTH.items():
        (out / "detections" / f"{name}.csv").write_text(found.get(name, ""))
        score = 0.95 if name in found else 0.6 * tumour + 0.1
        lines.append(f"{name},{score},0,0,64,all,{str(name == 'normal_001').lower()}")
    (out / "scores.csv").write_text("\n".join(lines) + "\n")
    (out / "predict.json").write_text(json.dumps({"head": {"name": "tile"}, "model": "x"}))
    manifest = out.parent / "manifest.csv"
    table = rows(archive.root / "manifest.csv")
    cells = [f"{r['patient_id']},{r['label']},{r['site']}" for r in table]
    manifest.write_text("\n".join(["slide_id,label,site", *cells]) + "\n")
    assert wsi("camelyon", "evaluate", out, "--manifest", manifest, "--masks",
               archive.root / "masks") == 0  # fmt: skip
    return out


def text_of(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")).split())


def test_the_page(archive: Archive, predicted: Path, capsys: Capture) -> None:
    """Ours and the published ones with their sources; every slide, the most wrong first."""
    flags = ["--stores", archive.out, "--masks", archive.root / "masks", "--misses", "2"]
    assert wsi("camelyon", "report", predicted, *flags) == 0
    page = predicted / "report.html"
    text = text_of(page)
    figures = json.loads((predicted / "figures.json").read_text())
    assert f"{figures['slides']['auroc']:.3f}" in text
    assert f"FROC score, official ours {figures['lesions']['official']['froc_score']:.3f}" in text
    for published in ("0.994 (0.983 to 0.999)", "0.966", "0.807 (0.732 to 0.889)", "0.724"):
        assert published in text
    assert "JAMA 318:2199" in text
    assert "best at CAMELYON17" not in text
    assert "not CAMELYON16's 129 test slides" in text.replace("&#39;", "'")
    assert "The model was trained on 1 of the slides" in text
    assert "1 of 4 lesions found" in text
    table = text[text.index("Every slide") :]
    assert table.index("normal_002") < table.index("tumor_002") < table.index("normal_003")
    captions = re.findall(r"<figcaption>([^<]+)</figcaption>", page.read_text(encoding="utf-8"))
    missed = [c for c in captions if "missed" in c]
    assert len(missed) == 2
    assert missed[0].startswith("tumor_00")
    alarms = [c for c in captions if "false alarm" in c]
    assert alarms == ["normal_002: false alarm of 0.80 at (1200, 700)",
                      "tumor_001: false alarm of 0.70 at (600, 1000)"]  # fmt: skip
    pictures = re.findall(r'src="(data:image/png;base64,[^"]+)"', page.read_text())
    assert len(pictures) == len(captions) == 7
    assert "http" not in page.read_text().replace("http-equiv", "")


def test_misses_are_where_the_masks_say(archive: Archive, predicted: Path) -> None:
    """Regions as the challenge counts them, the group of isolated cells left out."""
    missed, slides = find_misses(predicted / "detections", archive.root / "masks", TRUTH)
    lesions = [m for m in missed if m.is_lesion]
    assert {m.slide for m in lesions} == {"tumor_002", "tumor_003", "tumor_004"}
    assert len(lesions) == 3
    assert [m.size for m in lesions] == sorted((m.size for m in lesions), reverse=True)
    assert [(m.slide, m.size) for m in missed if not m.is_lesion] == [
        ("normal_002", 0.8), ("tumor_001", 0.7),
    ]  # fmt: skip
    [second] = [m for m in lesions if m.slide == "tumor_002"]
    x0, y0, width, height = second.box
    true_x, true_y, true_width, true_height = LESIONS["tumor_002"][0]
    reach = 4 * 32  # 37.5 µm at 0.243 µm per pixel: whole mask pixels nearer than 4.82
    assert (x0, y0) == (true_x - reach, true_y - reach)
    assert (width, height) == (true_width + 2 * reach, true_height + 2 * reach)
    crop = crop_of(second, slides["tumor_002"], archive.stores["tumor_002"])
    assert not isinstance(crop, str)
    assert crop.width == crop.height == SIZE[1]  # twice the lesion is more than the slide is high
    assert len(crop.detections) == 0
    [ring] = crop.outlines
    assert ring.min(axis=0) == pytest.approx([true_x, true_y], abs=32)
    assert ring.max(axis=0) == pytest.approx([true_x + true_width, true_y + true_height], abs=32)


def test_a_crop_shows_the_detection_and_stays_on_the_slide(
    archive: Archive, predicted: Path
) -> None:
    _, slides = find_misses(predicted / "detections", archive.root / "masks", TRUTH)
    miss = Miss("tumor_001", False, (600, 1000, 1, 1), 0.7)
    crop = crop_of(miss, slides["tumor_001"], archive.stores["tumor_001"])
    assert not isinstance(crop, str)
    assert 0 <= crop.x0 < 600 < crop.x0 + crop.width <= SIZE[0]
    assert crop.pixels.shape == (420, 420, 3)
    assert [0.7, 600, 1000] in crop.detections.tolist()
    tissue = crop.pixels.std(axis=(0, 1))
    assert (tissue > 5).all()


def test_a_slide_that_is_gone_is_said(archive: Archive, predicted: Path, tmp_path: Path) -> None:
    """The page is made all the same."""
    out = tmp_path / "out"
    shutil.copytree(archive.out, out)
    shutil.rmtree(out / "stores" / "tumor_002.zarr")
    meta = out / "stores" / "tumor_003.zarr" / "zarr.json"
    meta.write_text(meta.read_text().replace("tumor_003.tif", "gone.tif"))
    flags = ["--stores", out, "--masks", archive.root / "masks", "-o", tmp_path / "page.html"]
    assert wsi("camelyon", "report", predicted, *flags) == 0
    text = text_of(tmp_path / "page.html")
    assert "tumor_002: no store of it, so no picture" in text
    assert "tumor_003 cannot be read" in text


def test_segmentation_and_patients_are_shown_where_they_are(
    predicted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    shutil.copytree(predicted, folder)
    figures = json.loads((folder / "figures.json").read_text())
    figures["segmentation"] = {"slides": {"tumor_001": {"dice": 0.8765, "iou": 0.7, "x": 1}}}
    interval = {"kappa_low": 0.5, "kappa_high": 0.9}
    figures["patients"] = {"kappa": 0.75, **interval, "patients": 3, "accuracy": 2 / 3,
                           "confusion": np.eye(5, dtype=int).tolist(),
                           "centers": {"4": {"kappa": None, "patients": 1, "kappa_low": None,
                                             "kappa_high": None}}}  # fmt: skip
    (folder / "figures.json").write_text(json.dumps(figures))
    assert wsi("camelyon", "report", folder) == 0
    text = text_of(folder / "report.html")
    assert "tumor_001 0.876" in text or "tumor_001 0.877" in text
    assert "kappa of pN stages ours 0.750 (0.500 to 0.900)" in text
    assert "0.89 B" in text
    assert "66.7% with the right stage" in text
    assert "false alarm" not in text


def test_what_is_refused(predicted: Path, tmp_path: Path, capsys: Capture) -> None:
    assert wsi("camelyon", "report", tmp_path) == 2
    assert "run `wsi camelyon evaluate` first" in " ".join(capsys.readouterr().err.split())
    assert wsi("camelyon", "report", predicted, "--stores", tmp_path) == 2
    assert "need both --stores and --masks" in " ".join(capsys.readouterr().err.split())
