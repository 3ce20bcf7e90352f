"""A model is a folder: card, one safetensors file per fold, out-of-fold scores. No pickle."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mil_models.bags import differences
from mil_models.calibration import Calibration, calibration_from_dict
from mil_models.errors import CalibrationError, ModelError, ModelMismatchError
from mil_models.heads import MILHead, create_head
from mil_models.operating_point import OperatingPoint
from mil_models.tasks import Task, task_from_json
from tiling.nodes import Json
from tiling.store import SlideStore

SCHEMA_VERSION = 2
CARD, PREDICTIONS = "card.json", "oof_predictions.csv"
INTENDED_USE = "Research only. Not a medical device; not for diagnosis."


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained model: one head per fold, and the card that says what it is."""

    heads: tuple[MILHead, ...]
    tasks: tuple[Task, ...]
    """What each head was asked, with what it took from its training part."""
    card: Json
    training_slides: frozenset[str]
    """The :func:`source_of` every slide it was trained on."""
    calibration: Calibration | None = None
    """What makes the heads' mean a probability; fitted out of fold."""
    operating_point: OperatingPoint | None = None
    """The calibrated score from which a slide is called positive."""

    @property
    def model_id(self) -> str:
        """Hash of the card and all weights."""
        return str(self.card["model_id"])

    @property
    def name(self) -> str:
        """The head's name."""
        return str(self.card["head"]["name"])

    @property
    def classes(self) -> list[str]:
        """Names of the predicted values, in order: the classes, where the task has some."""
        return list(self.card["classes"])

    @property
    def takes_patients(self) -> bool:
        """Whether a bag was all slides of a patient in training."""
        return bool(self.card["training"]["options"]["bag"] == "patient")

    @property
    def columns(self) -> dict[str, str]:
        """The column of each predicted value in a CSV, by name."""
        return self.tasks[0].outputs

    @property
    def positive(self) -> str:
        """The value that slides are sorted by: the positive class, the risk."""
        return self.tasks[0].positive

    @property
    def tile_spec(self) -> dict[str, Any]:
        """What of a tile decides its pixels, as in training."""
        return dict(self.card["tiles"])

    def calibrated(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values ``(N, P)`` of the task as probabilities, as far as the card tells."""
        return scores if self.calibration is None else self.calibration.apply(scores)

    def check_contract(self, contract: Json, name: str) -> None:
        """Make sure that embeddings (those of `name`) are made as the model's were.

        Raises
        ------
        ModelMismatchError
            They were not; the message names the fields.
        """
        wanted = {"encoder": self.card["encoder"], "tiles": self.card["tiles"]}
        differing = differences(wanted, contract)
        if differing:
            raise ModelMismatchError(
                f"{name}: the embeddings do not fit the model ({'; '.join(differing)}); "
                "embed as the model's card says"
            )


@dataclass(frozen=True, slots=True, eq=False)
class SavedHead:
    """A head to be saved under a name, and the JSON of its task."""

    name: str
    head: MILHead
    task: Json


def save_model(
    folder: Path,
    heads: Sequence[SavedHead],
    card: Json,
    predictions: Sequence[Mapping[str, Any]],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Write a model folder, whole or not at all.

    `tables` are further CSVs, by file name, none of them part of the model.

    Raises
    ------
    ModelError
        There is something at `folder` already.
    """
    check_new(folder)
    partial = _partial(folder)
    partial.mkdir(parents=True)
    try:
        weights = [{"file": f"{one.name}.safetensors", "task": one.task} for one in heads]
        card = {**card, "weights": weights}
        digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode())
        for one in heads:
            path = partial / f"{one.name}.safetensors"
            # Not save_file: its files are readable by their owner alone, whatever the umask.
            path.write_bytes(save({k: v.contiguous() for k, v in one.head.state_dict().items()}))
            digest.update(path.read_bytes())
        whole = {"schema_version": SCHEMA_VERSION, "model_id": digest.hexdigest()[:16], **card}
        (partial / CARD).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        for name, rows in {PREDICTIONS: predictions, **tables}.items():
            _write_rows(partial / name, rows)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_model(path: str | Path) -> Model:
    """Load the model in folder `path`.

    Raises
    ------
    ModelError
        It is not a model folder, a file is missing, or the weights do not fit the card.
    """
    folder = Path(path)
    card = _read_card(folder)
    heads, tasks = [], []
    for weights in card["weights"]:
        file = folder / Path(weights["file"]).name
        try:
            task = task_from_json(weights["task"])
            head = create_head(
                card["head"]["name"],
                dim=card["encoder"]["width"],
                classes=task.logits,
                **card["head"]["arguments"],
            )
            head.load_state_dict(load_file(file), strict=True)
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as err:
            raise ModelError(f"{file}: not the weights of this model: {err}") from err
        heads.append(head.eval().requires_grad_(False))
        tasks.append(task)
    if not heads:
        raise ModelError(f"{folder}: the card names no weights")
    # A slide that one of several folds tested was trained on by the others.
    trained_on = frozenset(
        source
        for row in read_predictions(folder)
        if card["folds"] > 1 or not row["fold"]
        for source in row["source"].split(";")
    )
    held_out = card.get("held_out", {})
    try:
        calibration, point = held_out.get("calibration"), held_out.get("operating_point")
        return Model(
            tuple(heads), tuple(tasks), card, trained_on,
            None if calibration is None else calibration_from_dict(calibration),
            None if point is None else OperatingPoint.from_dict(point),
        )  # fmt: skip
    except CalibrationError as err:
        raise ModelError(f"{folder}: {err}; train again") from err


def check_new(folder: Path) -> None:
    """Make sure that a model can be written to `folder`.

    Raises
    ------
    ModelError
        There is something already, or it cannot be made.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelError(f"{folder}: exists already; remove it, or choose another -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _partial(folder).mkdir()
        _partial(folder).rmdir()
    except OSError as err:
        raise ModelError(
            f"{folder}: cannot be made ({err.strerror or err}); choose another -o"
        ) from err


def source_of(store: SlideStore) -> str:
    """Return what tells a slide from all others, whatever its name: part of its hash."""
    return store.source.quick_hash[:16]


def read_predictions(folder: str | Path) -> list[dict[str, str]]:
    """Return the rows of a model's ``oof_predictions.csv``."""
    try:
        with (Path(folder) / PREDICTIONS).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), set(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ModelError(f"{folder}: no {PREDICTIONS} in it; not a whole model folder") from err
    missing = {"slide_id", "fold", "source"} - columns
    if missing:
        raise ModelError(f"{folder}: {PREDICTIONS} lacks {', '.join(sorted(missing))}; train again")
    return rows


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.partial")


def _read_card(folder: Path) -> Json:
    try:
        card: Json = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(f"{folder}: not a model folder (no readable {CARD})") from err
    if not isinstance(card, dict) or card.get("schema_version") != SCHEMA_VERSION:
        raise ModelError(
            f"{folder}: its card has another schema; this version reads {SCHEMA_VERSION}: train "
            "again, or use the version that made it"
        )
    missing = {"classes", "encoder", "folds", "head", "model_id", "task", "tiles", "weights"} - set(
        card
    )
    if missing:
        raise ModelError(f"{folder}: the card lacks {', '.join(sorted(missing))}")
    return card
