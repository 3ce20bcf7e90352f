"""`wsi camelyon evaluate` and `auc --stores`: figures that the single commands give too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.wsi_pipeline.camelyon.conftest import LESIONS, NORMAL, Archive, rows, wsi

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def predicted(archive: Archive, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated") / "predicted"
    assert wsi("camelyon", "predict", "--stores", archive.out, "--model", model, "-o", out,
               "--threshold", "0.3") == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def manifest(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `check` writes it: with slide_id, split and centre."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    lines = ["slide_id,label,split,site"]
    for i, row in enumerate(rows(archive.root / "manifest.csv")):
        split = "train" if i < 2 else "test"
        lines.append(f"{row['patient_id']},{row['label']},{split},{row['site']}")
    path.write_text("\n".join(lines) + "\n")
    return path


def found(capsys: Capture, *tokens: object) -> dict[str, Any]:
    capsys.readouterr()
    code = wsi("camelyon", *tokens, "--json")
    out, err = capsys.readouterr()
    assert code == 0, err
    read: dict[str, Any] = json.loads(out)
    return read


def test_the_same_figures_as_the_single_commands(
    archive: Archive, predicted: Path, manifest: Path, capsys: Capture
) -> None:
    masks, reference = archive.root / "masks", archive.root / "reference.csv"
    both = found(capsys, "evaluate", predicted, "--manifest", manifest, "--masks", masks)
    area = found(capsys, "auc", predicted / "scores.csv", reference)
    assert both["slides"] == area
    lesions = ["--detections", predicted / "detections", "--masks", masks]
    assert both["lesions"]["official"] == found(capsys, "froc", *lesions)
    assert both["lesions"]["corrected"] == found(capsys, "froc", *lesions, "--corrected")
    assert json.loads((predicted / "figures.json").read_text())["slides"] == area
    assert [r["slide"] for r in both["rows"]] != sorted(r["slide"] for r in both["rows"])
    by_name = {r["slide"]: r for r in both["rows"]}
    assert set(by_name) == {*NORMAL, *LESIONS}
    assert (by_name["tumor_003"]["lesions"], by_name["tumor_003"]["itc"]) == (1, 1)
    assert by_name["normal_001"]["false_positives"] == len(
        (predicted / "detections" / "normal_001.csv").read_text().split()
    )
    wrong = [r["score"] if r["tumour"] else 1 - r["score"] for r in both["rows"]]
    assert wrong == sorted(wrong)


def test_by_centre_and_by_split(
    archive: Archive, predicted: Path, manifest: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A centre's figures are those of its slides alone; slides of another split are not judged."""
    masks = archive.root / "masks"
    both = found(capsys, "evaluate", predicted, "--manifest", manifest, "--masks", masks)
    own = [r for r in rows(manifest) if r["site"] == "a"]
    part = tmp_path / "a"
    (part / "detections").mkdir(parents=True)
    for row in own:
        name = f"{row['slide_id']}.csv"
        shutil.copy(predicted / "detections" / name, part / "detections" / name)
    reference = tmp_path / "reference.csv"
    reference.write_text("".join(f"{r['slide_id']},{r['label']}\n" for r in own))
    alone = found(capsys, "froc", "--detections", part / "detections", "--masks", masks,
                  "--reference", reference)  # fmt: skip
    assert both["centers"]["a"]["slides"] == len(own) == 4
    assert both["centers"]["a"]["froc_score"] == alone["froc_score"]
    test = found(capsys, "evaluate", predicted, "--manifest", manifest, "--split", "test")
    assert test["slides"]["slides"] == 6
    assert test["not_judged"] == ["normal_001", "normal_002"]
    assert "lesions" not in test
    with_both = found(capsys, "evaluate", predicted, "--manifest", manifest, "--split", "test",
                      "--reference", archive.root / "reference.csv")  # fmt: skip
    assert with_both["slides"] == test["slides"]


def test_patients_are_scored_where_there_is_a_submission(
    archive: Archive, predicted: Path, manifest: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy, stages = tmp_path / "p", tmp_path / "stages.csv"
    shutil.copytree(predicted, copy)
    table = "patient,stage,center\npatient_000.zip,pN1,0\npatient_001.zip,pN0,1\n"
    stages.write_text(table)
    flags = ["evaluate", copy, "--manifest", manifest, "--stages", stages]
    assert wsi("camelyon", *flags) == 2
    assert "no submission.csv" in " ".join(capsys.readouterr().err.split())
    (copy / "submission.csv").write_text(table.replace("pN1", "pN2"))
    assert found(capsys, *flags)["patients"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "what is true? pass --reference or --manifest"),
        (["--reference", "{r}", "--split", "test"], "--split needs --manifest"),
        (["--manifest", "{r}"], "no column slide_id"),
        (["--manifest", "{m}", "--split", "val"], "no slide of split val"),
        (["--reference", "{longer}"], "no score for test_900"),
        (["--reference", "{r}", "--masks", "{r}"], "no such folder of masks"),
    ],
)
def test_what_is_refused(
    archive: Archive, predicted: Path, manifest: Path, tmp_path: Path, capsys: Capture,
    flags: list[str], message: str,
) -> None:  # fmt: skip
    reference = archive.root / "reference.csv"
    longer = tmp_path / "longer.csv"
    longer.write_text(reference.read_text() + "test_900,Normal\n")
    words = [f.format(r=reference, m=manifest, longer=longer) for f in flags]
    assert wsi("camelyon", "evaluate", predicted, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert wsi("camelyon", "evaluate", tmp_path, *words) == 2
    assert "no predictions of" in " ".join(capsys.readouterr().err.split())


def test_auc_from_stores(archive: Archive, model: Path, tmp_path: Path, capsys: Capture) -> None:
    """What `wsi predict` left in the stores, scored by the model that was trained on them."""
    out = tmp_path / "out"
    shutil.copytree(archive.out, out)
    reference = archive.root / "reference.csv"
    assert wsi("camelyon", "auc", reference, "--stores", out) == 3  # nothing is stored yet
    assert "no finished predictions" in " ".join(capsys.readouterr().err.split())
    assert wsi("predict", "--stores", out, "--model", model, "--progress", "none") == 0
    got = found(capsys, "auc", reference, "--stores", out)
    table = {r["slide_id"]: r["score_tumor"] for r in rows(out / "predictions.csv")}
    scores = tmp_path / "scores.csv"
    scores.write_text("".join(f"{n},{s}\n" for n, s in table.items()))
    expected = found(capsys, "auc", scores, reference)
    assert got["auroc"] == expected["auroc"]
    assert sorted(got["seen_in_training"]) == sorted({*NORMAL, *LESIONS})
    assert wsi("camelyon", "auc", reference) == 2
    assert wsi("camelyon", "auc", scores, reference, "--stores", out) == 2
    assert wsi("camelyon", "auc", reference, "--stores", out, "--prediction", "abmil") == 3
