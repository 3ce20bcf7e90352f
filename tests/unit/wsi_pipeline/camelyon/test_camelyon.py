"""`wsi camelyon`: the challenges' figures, and what is refused."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mil_models.staging import STAGES
from wsi_pipeline.cli import run_tokens

Capture = pytest.CaptureFixture[str]


def camelyon(*tokens: object) -> int:
    return run_tokens(["camelyon", *(str(token) for token in tokens)])


def found(capsys: Capture, *tokens: object) -> Any:
    code = camelyon(*tokens, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def refused(capsys: Capture, *tokens: object) -> str:
    assert camelyon(*tokens) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def case_a(shared_data: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(shared_data / "froc_reference" / "froc_case_a.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_the_programs_own_figures(case_a: Path, capsys: Capture) -> None:
    """Counts exactly, the rest to the six decimals of the file."""
    expected = json.loads((case_a / "expected.json").read_text())
    folders = ["--detections", case_a / "detections", "--masks", case_a / "masks_level5"]
    got = found(capsys, "froc", *folders, "--picture", case_a / "froc.png")
    assert got["slides"] == expected["slides"]
    for key in ("level", "resolution_um", "dilation_um", "itc_max_diameter_um"):
        assert got[key] == expected[key]
    for key, values in expected["curve"].items():
        assert got["curve"][key] == pytest.approx(values, abs=1e-6)
    assert got["sensitivity_at_fp"] == pytest.approx(expected["sensitivity_at_fp"], abs=1e-6)
    assert got["froc_score"] == pytest.approx(expected["froc_score"], abs=1e-6)
    assert got["froc_score_low"] < got["froc_score"] < got["froc_score_high"]
    with Image.open(case_a / "froc.png") as picture:
        assert picture.format == "PNG"
    lines = [f"{n},{'Normal' if n[0] == 'n' else 'Tumor'}" for n in expected["slides"]]
    (case_a / "reference.csv").write_text("\n".join(lines))
    again = found(capsys, "froc", *folders, "--reference", case_a / "reference.csv")
    assert again["curve"] == got["curve"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two slides of 3200 x 2560 px: one lesion of 40 x 40 mask pixels from (20, 10), and none."""
    (tmp_path / "detections").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "detections" / "test_001.csv").write_text("0.9,800,480\n0.4,3199.9,2559\n")
    (tmp_path / "detections" / "normal_001.csv").write_text("0.5,9,9\n")
    Image.fromarray(lesion()).save(tmp_path / "masks" / "test_001.png")
    return tmp_path


def lesion(tumour: int = 255) -> np.ndarray:
    mask = np.zeros((80, 100), np.uint8)
    mask[10:50, 20:60] = tumour
    return mask


def folders(place: Path) -> list[object]:
    return ["--detections", place / "detections", "--masks", place / "masks"]


@pytest.mark.parametrize(
    "name", ["test_001", "test_001_mask", "test_001_Mask", "test_001_evaluation_mask"]
)
@pytest.mark.parametrize("kind", ["1-bit", "grey", "rgb", "tiff"])
def test_names_and_kinds_of_masks(small: Path, capsys: Capture, name: str, kind: str) -> None:
    (small / "masks" / "test_001.png").unlink()
    if kind == "tiff":
        write_pyramid(small / "masks" / f"{name}.tif", lesion())
    else:
        image = Image.fromarray(lesion())
        image = {"1-bit": image.convert("1"), "rgb": image.convert("RGB")}.get(kind, image)
        image.save(small / "masks" / f"{name}.png")
    got = found(capsys, "froc", *folders(small))
    assert got["slides"]["test_001"] == {
        "n_detections": 2, "n_regions": 1, "itc_labels": [], "n_lesions": 1,
        "n_false_positives": 1, "n_lesions_hit": 1,
    }  # fmt: skip
    assert got["curve"]["avg_false_positives"] == [0.5, 0.0, 0.0]  # 0.4 is the lowest: no threshold
    assert got["curve"]["threshold"] == [0.5, pytest.approx(0.9), None]
    assert got["froc_score"] == 1.0


def write_pyramid(path: Path, level5: np.ndarray, downsample: int = 32) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for factor in (downsample, 4, 1):
            level = level5.repeat(factor, 0).repeat(factor, 1)
            tiff.write(
                level, tile=(256, 256), compression="adobe_deflate", photometric="minisblack",
                subfiletype=int(factor != downsample), metadata=None,
            )  # fmt: skip


def test_masks_of_0_1_2_name_the_flag(small: Path, capsys: Capture) -> None:
    mask = lesion(2)
    mask[60:, :5] = 1
    Image.fromarray(mask).save(small / "masks" / "test_001.png")
    message = refused(capsys, "froc", *folders(small))
    assert "test_001.png: holds the values 1, 2, where 0 and 255 are needed" in message
    assert "--tumour-value 2" in message
    got = found(capsys, "froc", *folders(small), "--tumour-value", 2)
    assert got["slides"]["test_001"]["n_lesions_hit"] == 1
    (small / "masks" / "test_001.png").unlink()
    write_pyramid(small / "masks" / "test_001.tif", mask)
    assert "test_001.tif: holds the values 1, 2" in refused(capsys, "froc", *folders(small))
    assert found(capsys, "froc", *folders(small), "--tumour-value", 2)["froc_score"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probability,x,y\n0.5,1,1", "line 1: 'probability,x,y' are not three numbers; there must"),
        ("0.5,1,1\n0.5,nan,1", "line 2: '0.5,nan,1' holds NaN or infinity"),
        ("nan,1,1", "line 1: 'nan,1,1' holds NaN"),
        ("0.5,1", "line 1: 2 columns; needed are probability,x,y"),
        ("1.5,1,1", "line 1: the probability is 1.5, not between 0 and 1"),
        ("0.5,3231,0", "line 1: (3231, 0) lies outside the slide of 3231 x 2591 px"),
        ("0.5,0,2591", "line 1: (0, 2591) lies outside"),
        ("0.5,-1,0", "line 1: (-1, 0) lies outside"),
    ],
)
def test_bad_detections(small: Path, capsys: Capture, text: str, message: str) -> None:
    (small / "detections" / "test_001.csv").write_text(text)
    assert f"test_001.csv, {message}" in refused(capsys, "froc", *folders(small))


def test_missing_detections_change_the_denominator_and_are_refused(
    small: Path, capsys: Capture
) -> None:
    lines = "slide,class\ntest_001,Tumor\nnormal_001,Normal\nnormal_002,Normal\n"
    (small / "reference.csv").write_text(lines)
    flags = [*folders(small), "--reference", small / "reference.csv"]
    message = refused(capsys, "froc", *flags)
    assert "no file for normal_002" in message
    assert "--allow-missing" in message
    official = found(capsys, "froc", *flags, "--allow-missing")
    assert official["missing"] == ["normal_002"]
    assert official["curve"]["avg_false_positives"] == [0.5, 0.0, 0.0]
    mended = found(capsys, "froc", *flags, "--allow-missing", "--corrected")
    assert mended["curve"]["avg_false_positives"] == pytest.approx([2 / 3, 1 / 3, 0, 0])
    (small / "detections" / "normal_002.csv").touch()  # an empty file is a slide without any
    assert found(capsys, "froc", *flags)["curve"]["avg_false_positives"][0] == pytest.approx(1 / 3)


def test_slides_and_masks_that_do_not_fit(small: Path, capsys: Capture) -> None:
    (small / "detections" / "test_002.csv").touch()
    message = refused(capsys, "froc", *folders(small))
    assert "no mask of test_002: without --reference only a slide whose name starts" in message
    assert found(capsys, "froc", *folders(small), "--exclude", "test_002")["froc_score"] == 1
    message = refused(capsys, "froc", *folders(small), "--exclude", "test_002", "test_2")
    assert "neither detections nor masks nor the reference name test_2;" in message
    reference = small / "reference.csv"
    for lines, message in (
        ("test_001,Tumor\nnormal_001,Normal", "no line for test_002, which have detections"),
        ("test_001,Tumor\nnormal_001,Normal\ntest_002,Tumor", "no mask of test_002, tumour slides"),
        ("test_001,Normal\nnormal_001,Normal\ntest_002,Normal", "some tumour in it, but test_001"),
        ("test_001,Tumor\ntest_001.tif,Tumor", "line 2: test_001 stands in the table already"),
        ("test_001,Tumor\ntest_002,Micro", "line 2: class is 'Micro'; use Tumor or Normal"),
        ("", "no slide in it"),
    ):
        reference.write_text(lines)
        flags = [*folders(small), "--reference", reference]
        assert message in refused(capsys, "froc", *flags), lines
    (small / "detections" / "test_002.csv").unlink()
    Image.fromarray(lesion()).save(small / "masks" / "test_001_mask.png")
    assert "two masks of test_001" in refused(capsys, "froc", *folders(small))
    (small / "masks" / "test_001_mask.png").unlink()
    (small / "masks" / "test_001.png").write_bytes(b"no picture")
    assert "test_001.png: cannot be read" in refused(capsys, "froc", *folders(small))
    (small / "masks" / "test_001.png").unlink()
    write_pyramid(small / "masks" / "test_001.tif", lesion(), downsample=16)
    message = refused(capsys, "froc", *folders(small))
    assert "no level with a downsample of 32 (there are 1, 4, 16)" in message
    assert "no such folder of masks" in refused(
        capsys, "froc", "--detections", small / "detections", "--masks", small / "none"
    )


def test_names_may_differ_by_capitals(small: Path, capsys: Capture) -> None:
    """The challenge has Test_001_Mask.tif, and test_001 in its reference."""
    expected = found(capsys, "froc", *folders(small))
    (small / "masks" / "test_001.png").rename(small / "masks" / "Test_001_Mask.png")
    assert found(capsys, "froc", *folders(small)) == expected
    reference = small / "reference.csv"
    reference.write_text("TEST_001.tif,Tumor\nNormal_001.tif,Normal\nTest_002,Normal\n")
    flags = [*folders(small), "--reference", reference]
    assert found(capsys, "froc", *flags, "--exclude", "test_002")["curve"] == expected["curve"]
    reference.write_text("test_001,Tumor\nTest_001,Tumor\nnormal_001,Normal\n")
    assert "reference.csv: names that differ by capitals only" in refused(capsys, "froc", *flags)


def test_a_detection_in_the_pixels_that_a_mask_rounds_off(small: Path, capsys: Capture) -> None:
    """A slide of 3231 px has 100 at level 5: its last column is the mask's last one."""
    (small / "detections" / "test_001.csv").write_text("0.9,800,480\n0.4,3230,2590\n")
    got = found(capsys, "froc", *folders(small))
    assert got["slides"]["test_001"]["n_false_positives"] == 1


def test_no_lesion_is_no_froc(small: Path, capsys: Capture) -> None:
    Image.fromarray(lesion(0)).save(small / "masks" / "test_001.png")
    assert "no slide has a lesion" in refused(capsys, "froc", *folders(small))


def write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def nodes(*classes: str, patient: str = "patient_000") -> list[tuple[object, ...]]:
    return [(f"{patient}_node_{i}.tif", c) for i, c in enumerate(classes)]


def test_stages_of_the_challenges_own_table(
    shared_data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The stage of all 100 patients follows from the classes of their nodes; kappa is 1."""
    table = shared_data / "camelyon_tables" / "camelyon17_stages.csv"
    with table.open() as file:
        truth = {r["patient"]: r["stage"] for r in csv.DictReader(file)}
    stages = found(capsys, "stage", table)
    assert stages == {k[:-4]: v for k, v in truth.items() if k.endswith(".zip")}
    assert camelyon("stage", table) == 0
    printed = dict(csv.reader(capsys.readouterr().out.splitlines()[1:]))
    assert printed == truth
    assert camelyon("stage", table, "-o", tmp_path / "submission.csv") == 0
    got = found(capsys, "kappa", table, tmp_path / "submission.csv")
    assert (got["kappa"], got["patients"]) == (1.0, 100)
    assert {c: v["patients"] for c, v in got["centers"].items()} == dict.fromkeys("01234", 20)


def test_kappa_of_a_perturbed_table_by_hand(tmp_path: Path, capsys: Capture) -> None:
    """Of five patients, one of each stage, the last is said to be pN0: d^2 = 16.

    By chance: rows 1 1 1 1 1, columns 2 1 1 1 0: the sum over stages i, j of r_i c_j (i - j)^2 is
    2 * (0+1+4+9+16) + (1+0+1+4+9) + (4+1+0+1+4) + (9+4+1+0+1) = 100, / 5 = 20.
    """
    truth = [(f"patient_{i}.zip", s) for i, s in enumerate(STAGES)]
    said = [*truth[:4], ("patient_4.ZIP", "PN0"), ("patient_9.zip", "pN2")]
    header = ("patient", "stage")
    got = found(
        capsys, "kappa", write(tmp_path / "t.csv", [header, *truth]),
        write(tmp_path / "p.csv", [header, *nodes("itc"), *said]),
    )  # fmt: skip
    assert got["kappa"] == pytest.approx(1 - 16 / 20)
    assert got["not_scored"] == ["patient_9.zip"]
    assert got["centers"] == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (nodes("itc", "itc", "itc", "itc"), "patient_000 has 4 nodes; a stage needs all 5"),
        ([("patient_001.zip", "pN1")], "patient_001 has 0 nodes"),
        (nodes("itc", "pN1"), "line 3: stage is 'pN1'; of a node it is one of negative, itc"),
        ([*nodes("itc"), *nodes("itc")], "line 3: patient_000_node_0.tif stands in the table"),
        ([("patient_000", "itc")], "line 2: 'patient_000' is no node"),
        ([], "no node in it"),
    ],
)
def test_bad_nodes(
    tmp_path: Path, capsys: Capture, rows: list[tuple[object, ...]], message: str
) -> None:
    path = write(tmp_path / "n.csv", [("patient", "stage"), *rows])
    assert message in refused(capsys, "stage", path)


def test_a_table_of_nodes_without_a_header(tmp_path: Path, capsys: Capture) -> None:
    table = write(tmp_path / "nodes.csv", nodes(*["micro"] * 5))
    message = refused(capsys, "stage", table)
    assert "the first line names no column stage, nor diameter_mm; it is patient_000" in message


def test_nodes_by_size(tmp_path: Path, capsys: Capture) -> None:
    sizes = nodes("0", "0.19", "0.2", "2.5", "0.5")
    rows = [(*row, cells) for row, cells in zip(sizes, ["", "", "", "", "150"], strict=True)]
    path = write(tmp_path / "n.csv", [("patient", "diameter_mm", "cells"), *rows])
    assert camelyon("stage", path) == 0
    assert [row[1] for row in csv.reader(capsys.readouterr().out.splitlines()[1:])] == [
        "pN1", "negative", "itc", "micro", "macro", "itc",
    ]  # fmt: skip
    write(path, [("patient", "diameter_mm"), ("patient_0_node_0.tif", "big")])
    assert "line 2: diameter_mm is 'big' and cells ''; numbers" in refused(capsys, "stage", path)


def test_bad_stages(tmp_path: Path, capsys: Capture) -> None:
    header, row = ("patient", "stage"), ("patient_000.zip", "pN1")
    good = write(tmp_path / "good.csv", [header, row])
    for rows, message in (
        ([header], "no patient in it; their rows are as patient_000.zip,pN1"),
        ([header, ("patient_001.zip", "pN1")], "no row for patient_000.zip of good.csv"),
        ([header, row, row], "line 3: patient_000.zip stands in the table already"),
        ([header, ("patient_000.zip", "pN9")], "stage 'pN9' is none of pN0"),
        ([("patient",), ("a",)], "no column stage; there are patient"),
    ):
        path = write(tmp_path / "bad.csv", rows)
        assert message in refused(capsys, "kappa", good, path)


def test_auroc_by_hand_and_in_every_layout(tmp_path: Path, capsys: Capture) -> None:
    """3 of 4 pairs in the right order, and one tie of the four others as a half: 3.5 / 4."""
    pairs = [("test_001", 0.9), ("test_002", 0.4), ("test_003", 0.4), ("test_004", 0.1)]
    classes = [("test_001", "Tumor"), ("test_002", "Normal"), ("test_003", "Tumor"),
               ("test_004", "Normal")]  # fmt: skip
    scores = write(tmp_path / "scores.csv", pairs)
    reference = write(tmp_path / "reference.csv", [(*c, "IDC", "Macro") for c in classes])
    got = found(capsys, "auc", scores, reference)
    assert (got["auroc"], got["slides"], got["tumour"]) == (0.875, 4, 2)
    layouts = [
        [("slide", "score"), *pairs],
        [("image_name", "tumor_probability"), *pairs],
        [("slide_id", "label", "score"), *((f"{n}.tif", "x", s) for n, s in reversed(pairs))],
        [*pairs, ("test_049", 0.3)],  # the duplicate that the challenge withdrew
        [(f"T{n[1:]}.tif", s) for n, s in pairs],
    ]
    for layout in layouts:
        assert found(capsys, "auc", write(scores, layout), reference)["auroc"] == 0.875
    assert got["left_out"] == []
    write(scores, pairs[:3])
    assert "no score for test_004; add it, or pass --allow-missing" in refused(
        capsys, "auc", scores, reference
    )
    got = found(capsys, "auc", scores, reference, "--allow-missing")
    assert (got["auroc"], got["missing"]) == (0.75, ["test_004"])
    for rows, message in (
        ([*pairs, ("odd", 1)], "no line for odd of scores.csv"),
        ([*pairs[:3], ("test_004", "nan")], "line 4: the score is 'nan', no finite number"),
        ([("slide", "a", "b"), ("x", "1", "2")], "columns slide, a, b; needed are slide and score"),
        ([("test_001",)], "one column; two are needed"),
        ([*pairs, ("Test_001", 1)], "scores.csv: names that differ by capitals only"),
    ):
        assert message in refused(capsys, "auc", write(scores, rows), reference)
    assert "no normal slide has a score: no AUROC" in refused(
        capsys, "auc", write(scores, pairs), write(reference, [(n, "Tumor") for n, _ in pairs])
    )


def test_the_challenges_own_reference(shared_data: Path, tmp_path: Path, capsys: Capture) -> None:
    reference = shared_data / "camelyon_tables" / "camelyon16_test_reference.csv"
    with reference.open() as file:
        rows = [(r["slide"], r["label"]) for r in csv.DictReader(file)]
    got = found(capsys, "auc", write(tmp_path / "s.csv", [("slide", "score"), *rows]), reference)
    assert (got["auroc"], got["tumour"], got["normal"]) == (1.0, 49, 80)


def test_configuration_of_a_group_of_commands(small: Path, capsys: Capture) -> None:
    config = small / "wsi.toml"
    config.write_text("[camelyon.froc]\ncorrected = true\n")
    assert found(capsys, "froc", *folders(small), "--config", config)["variant"] == "corrected"
    config.write_text("[camelyon.froc]\ncorrect = true\n")
    assert "[camelyon.froc] has no option 'correct'" in refused(
        capsys, "froc", *folders(small), "--config", config
    )
    config.write_text("[camelyon.frog]\ncorrected = true\n")
    assert "[camelyon.frog] is no command; use labels, froc, auc, stage, kappa" in refused(
        capsys, "froc", *folders(small), "--config", config
    )


def test_what_people_see(small: Path, capsys: Capture) -> None:
    assert camelyon("froc", *folders(small)) == 0
    out = capsys.readouterr().out
    assert "FROC score (official): 1.0000" in out
    assert "2 slides, 1 of 1 lesions found, 0 groups of isolated tumour cells" in out
