"""A patient's slides, scored as one bag."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mil_models import load_model, predict_patient, train
from tests.unit.mil_models.conftest import MakeStores, make_stores, tiny, write_labels  # noqa: F401
from wsi_pipeline.cli import run_tokens


def test_a_patients_score_is_that_of_all_its_slides_as_one_bag(
    make_stores: MakeStores,  # noqa: F811
    write_labels: Callable[[str], Path],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stores = make_stores(8)
    table = "slide_id,patient_id,label\n" + "".join(
        f"{s.slide_id},p{i // 2},{'tumor' if i // 2 % 2 else 'normal'}\n"
        for i, s in enumerate(stores)
    )
    labels, folder = write_labels(table), tmp_path / "model"
    train(stores, labels, folder, folds=2, epochs=2, bag="patient")
    model = load_model(folder)
    assert model.takes_patients
    values = np.concatenate([s.embeddings().data[:] for s in stores[:2]])
    bag, mask = torch.from_numpy(values)[None], torch.ones(1, len(values), dtype=torch.bool)
    wanted = np.mean([h(bag, mask).logits[0].softmax(0).numpy() for h in model.heads], axis=0)
    assert predict_patient(stores[:2], model).scores == pytest.approx(wanted, abs=1e-6)

    labels.write_text(table + "gone,p9,tumor\n")
    out = tmp_path / "out"
    command = ["predict", "--stores", str(tmp_path / "stores"), "--model", str(folder), "-o",
               str(out), "--progress", "none"]  # fmt: skip
    assert run_tokens([*command, "--patients", str(labels)]) == 1
    with (out / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["patient_id"] for row in rows] == ["p0", "p1", "p2", "p3", "p9"]
    assert float(rows[0]["score_tumor"]) == pytest.approx(wanted[1], abs=1e-6)
    assert rows[0]["slides"] == "2"
    assert (rows[4]["label"], rows[4]["reason"]) == ("", "no store of gone; embed it first")
    with pytest.warns(UserWarning, match="each slide is scored alone"):
        assert run_tokens(command) == 0
