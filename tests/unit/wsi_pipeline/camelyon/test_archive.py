"""`wsi camelyon check`: the challenges' folders as they are downloaded."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import coded_pixels, write_lossless
from tiling.errors import SlideOpenError
from tiling.readers.tiff_extent import missing_bytes
from wsi_pipeline.camelyon.challenges import published_slides
from wsi_pipeline.cli import run_tokens
from wsi_pipeline.manifest import read_manifest

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One stored tile, of a pixel size as Radboud's scanner has it."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.tif"
    return write_lossless(path, [coded_pixels(64, 64)], 0.243)


def check(capsys: Capture, root: Path, *flags: object, code: int = 1) -> dict[str, Any]:
    assert run_tokens(["camelyon", "check", str(root), *map(str, flags), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def link(slide: Path, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(slide)


@pytest.fixture
def camelyon16(tmp_path: Path, tiny_slide: Path) -> Path:
    """The challenge's own layout, with all slides, outlines in a zip file, and the reference."""
    root = tmp_path / "CAMELYON16"
    places = {"normal": "training/normal", "tumor": "training/tumor", "test": "testing/images"}
    names = [*published_slides("camelyon16"), "test_049"]
    link(tiny_slide, *(root / places[n.partition("_")[0]] / f"{n}.tif" for n in names))
    outlined = [n for n in names if n.startswith("tumor")]
    for folder, inside in (("training", outlined), ("testing", ["test_001", "Test_002"])):
        with zipfile.ZipFile(root / folder / "lesion_annotations.zip", "w") as archive:
            for name in inside:
                archive.writestr(f"{name}.xml", "<ASAP_Annotations/>")
    lines = [f"test_{n:03d},{'Tumor' if n < 3 else 'Normal'}" for n in range(1, 131) if n != 49]
    (root / "testing" / "reference.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_whole_challenge(camelyon16: Path, capsys: Capture, tmp_path: Path) -> None:
    """159 normal, 111 tumour and 129 test slides; the manifest is what embed and train take."""
    manifest = tmp_path / "manifest.csv"
    found = check(capsys, camelyon16, "--manifest", manifest, code=0)["camelyon16"]
    assert (found["published"], found["there"], found["labelled"]) == (399, 399, 399)
    assert (found["missing"], found["annotations"], found["is_whole"]) == ([], 113, True)
    known = {f["slide"] for f in found["findings"] if f["kind"] == "known"}
    assert {"test_049", "test_114", "test_124", "tumor_015"} <= known
    assert not any(f["is_error"] for f in found["findings"])
    rows = {r["slide_id"]: r for r in rows_of(manifest)}
    assert len(read_manifest(manifest)) == len(rows) == 399
    assert "test_049" not in rows
    first = rows["tumor_015"]
    assert first["path"] == "CAMELYON16/training/tumor/tumor_015.tif"
    assert (first["label"], first["split"], first["site"]) == ("tumor", "train", "radboud")
    assert (first["patient_id"], first["exhaustive"]) == ("tumor_015", "false")
    assert first["annotation"].endswith("lesion_annotations.zip/tumor_015.xml")
    assert (rows["test_002"]["label"], rows["test_002"]["split"]) == ("tumor", "test")
    assert rows["test_003"]["label"] == "normal"


def test_what_is_wrong_with_an_archive(
    camelyon16: Path, capsys: Capture, tiny_slide: Path, tmp_path: Path
) -> None:
    """Missing, empty, cut off, doubled, misnamed, normal_086, not outlined: each by name."""
    normal = camelyon16 / "training" / "normal"
    (normal / "normal_001.tif").unlink()
    for name, content in (("normal_002", b""), ("normal_003", tiny_slide.read_bytes()[:-9]),
                          ("normal_004", b"no TIFF")):  # fmt: skip
        (normal / f"{name}.tif").unlink()
        (normal / f"{name}.tif").write_bytes(content)
    link(tiny_slide, normal / "normal_086.tif", normal / "normal_300.tif")
    link(tiny_slide, camelyon16 / "again" / "Normal_005.tif")
    (camelyon16 / "training" / "lesion_annotations.zip").unlink()
    link(tiny_slide, camelyon16 / "masks" / "tumor_001_Mask.tif")
    found = check(capsys, camelyon16, "--manifest", tmp_path / "m.csv")["camelyon16"]
    assert found["missing"] == ["normal_001"]
    by_kind = {f["kind"]: f for f in found["findings"] if f["kind"] != "truncated"}
    cut = {f["slide"]: f["message"] for f in found["findings"] if f["kind"] == "truncated"}
    assert "0 bytes" in cut["normal_002"]
    assert "missing" in cut["normal_003"]
    assert by_kind["unreadable"]["slide"] == "normal_004"
    assert by_kind["twice"]["slide"] == "normal_005"
    assert by_kind["unknown"]["slide"] == "normal_300"
    assert "110" not in by_kind["not annotated"]["message"]
    assert "tumor_002" in by_kind["not annotated"]["message"]
    assert "tumor_001" not in by_kind["not annotated"]["message"]
    known = {f["slide"]: f["message"] for f in found["findings"] if f["kind"] == "known"}
    assert "is tumor_111" in known["normal_086"]
    assert found["masks"] == 1
    left_out = {"normal_001", "normal_002", "normal_003", "normal_004", "normal_086", "normal_300"}
    assert not left_out & {r["slide_id"] for r in rows_of(tmp_path / "m.csv")}


def test_camelyon17_in_part(
    tmp_path: Path, capsys: Capture, tiny_slide: Path, shared_data: Path
) -> None:
    """Centres of 20 patients each, classes of nodes, test patients apart, zips not unpacked."""
    root = tmp_path / "CAMELYON17"
    training = root / "training"
    link(tiny_slide, training / "center_0" / "patient_000_node_0.tif",
         training / "center_1" / "patient_020_node_2.tif",
         root / "testing" / "patient_100_node_0.tif")  # fmt: skip
    with zipfile.ZipFile(root / "testing" / "patient_101.zip", "w") as archive:
        for node in range(5):
            archive.writestr(f"patient_101_node_{node}.tif", "")
    shutil.copy(shared_data / "camelyon_tables" / "camelyon17_stages.csv", training / "stages.csv")
    found = check(capsys, root, "--manifest", tmp_path / "m.csv")["camelyon17"]
    assert (found["published"], found["there"], found["usable"]) == (1000, 8, 3)
    assert found["labelled"] == 2
    assert "patient_101_node_0" in {f["kind"]: f["message"] for f in found["findings"]}["zipped"]
    truth = {r["patient"]: r for r in rows_of(training / "stages.csv")}
    for row in rows_of(tmp_path / "m.csv"):
        said = truth[f"{row['slide_id']}.tif"]
        assert (row["node_class"], row["site"]) == (said["stage"], said["center"])
        assert row["label"] == ("normal" if said["stage"] == "negative" else "tumor")
        assert row["stage"] == truth[f"{row['patient_id']}.zip"]["stage"]
    [test] = rows_of(tmp_path / "m_unlabelled.csv")
    assert (test["slide_id"], test["split"], test["site"]) == ("patient_100_node_0", "test", "")


def test_centres_are_the_tables(shared_data: Path) -> None:
    from wsi_pipeline.camelyon.challenges import center_of

    for row in rows_of(shared_data / "camelyon_tables" / "camelyon17_stages.csv"):
        if row["patient"].endswith(".tif"):
            assert center_of(row["patient"].removesuffix(".tif")) == row["center"]


def test_cleaned_labels_leave_out_and_relabel(
    camelyon16: Path, capsys: Capture, tmp_path: Path
) -> None:
    table = tmp_path / "cleaned.csv"
    table.write_text("slide_id,class\nnormal_001.tif,Micro\ntumor_001,macro\ntest_003,negative\n")
    found = check(capsys, camelyon16, "--labels", table, "--manifest", tmp_path / "m.csv")
    assert found["camelyon16"]["usable"] == 3
    findings = {f["kind"]: f for f in found["camelyon16"]["findings"] if f["kind"] != "known"}
    assert findings["relabelled"]["slide"] == "normal_001"
    assert "396 slides" in findings["left out"]["message"]
    assert "outlines or a mask: normal_001" in findings["not annotated"]["message"]
    rows = {r["slide_id"]: (r["label"], r["node_class"]) for r in rows_of(tmp_path / "m.csv")}
    assert rows == {
        "normal_001": ("tumor", "micro"), "tumor_001": ("tumor", "macro"),
        "test_003": ("normal", "negative"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide,score\na,1\n", "needs the columns slide_id and class"),
        ("slide_id,class\na,3\n", "class is '3'; use one of negative, itc, micro, macro"),
        ("slide_id,class\na,itc\na.tif,itc\n", "a stands in the table already"),
    ],
)
def test_wrong_tables_of_classes(
    tmp_path: Path, capsys: Capture, tiny_slide: Path, text: str, message: str
) -> None:
    link(tiny_slide, tmp_path / "normal_001.tif")
    (tmp_path / "labels.csv").write_text(text)
    flags = ["--labels", str(tmp_path / "labels.csv")]
    assert run_tokens(["camelyon", "check", str(tmp_path), *flags]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_challenge_there(tmp_path: Path, capsys: Capture, tiny_slide: Path) -> None:
    link(tiny_slide, tmp_path / "slide.tif")
    for root, message in ((tmp_path, "no slide of CAMELYON16"), (tmp_path / "x", "no such folder")):
        assert run_tokens(["camelyon", "check", str(root)]) == 2
        assert message in capsys.readouterr().err


def test_missing_bytes(tmp_path: Path, tiny_slide: Path) -> None:
    """The one stored tile ends the file: every byte less is a byte missing."""
    content = tiny_slide.read_bytes()
    assert missing_bytes(tiny_slide) == 0
    path = tmp_path / "cut.tif"
    for cut in (1, 9, len(content) // 2):
        path.write_bytes(content[:-cut])
        assert missing_bytes(path) == cut
    path.write_bytes(content[:6])
    with pytest.raises(SlideOpenError, match=r"cut\.tif"):
        missing_bytes(path)
