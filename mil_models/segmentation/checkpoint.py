"""A segmentation model is a folder: a card and one safetensors file. No pickle."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mil_models.checkpoint import CARD, INTENDED_USE, check_new
from mil_models.errors import ModelError, WeightsError
from mil_models.segmentation.network import SegmentationNetwork, create_network
from mil_models.segmentation.options import NetworkOptions
from tiling.nodes import Json

KIND = "segmentation"
SCHEMA_VERSION = 1
WEIGHTS, EPOCHS = "network.safetensors", "epochs.csv"


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationModel:
    """A trained network in evaluation mode, and the card that says what it is."""

    network: SegmentationNetwork
    card: Json

    @property
    def model_id(self) -> str:
        """Hash of the card and the weights."""
        return str(self.card["model_id"])

    @property
    def options(self) -> NetworkOptions:
        """What the network is, and the tiles that it takes."""
        return self.network.options

    @property
    def training_slides(self) -> frozenset[str]:
        """Part of the hash of every slide that it was trained or validated on."""
        return frozenset(self.card["training"]["sources"])


def save_segmentation(
    folder: Path, network: SegmentationNetwork, card: Json, history: Sequence[Json]
) -> Json:
    """Write a model folder, whole or not at all; return the whole card.

    Raises
    ------
    ModelError
        There is something at `folder` already.
    """
    check_new(folder)
    content = save({k: v.contiguous() for k, v in network.state_dict().items()})
    card = {
        "kind": KIND,
        "network": network.options.to_dict(),
        "intended_use": INTENDED_USE,
        **card,
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(content).hexdigest()},
    }
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    whole = {"schema_version": SCHEMA_VERSION, "model_id": digest[:16], **card}
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        (partial / WEIGHTS).write_bytes(content)
        (partial / CARD).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
        with (partial / EPOCHS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return whole


def load_segmentation(path: str | Path) -> SegmentationModel:
    """Load the segmentation model in folder `path`.

    Raises
    ------
    ModelError
        It is no model folder, one of another kind, or its weights do not fit its card.
    """
    folder = Path(path)
    card = _read_card(folder)
    file = folder / WEIGHTS
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["weights"]["sha256"]:
            raise ModelError(f"{file}: not the weights that the card names; copy the folder again")
        network, _ = create_network(NetworkOptions(**card["network"]), random_weights=True)
        network.load_state_dict(load_file(file), strict=True)
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, WeightsError) as err:
        raise ModelError(f"{file}: not the weights of this model: {err}") from err
    return SegmentationModel(network.eval().requires_grad_(False), card)


def _read_card(folder: Path) -> Json:
    try:
        card: Json = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(
            f"{folder}: not a model folder (no readable {CARD}); make one with `wsi segment train`"
        ) from err
    if not isinstance(card, dict) or card.get("kind") != KIND:
        kind = card.get("kind", "MIL") if isinstance(card, dict) else "unknown"
        raise ModelError(
            f"{folder}: a model of kind {kind}, not of segmentation; use one that "
            "`wsi segment train` made"
        )
    if card.get("schema_version") != SCHEMA_VERSION:
        raise ModelError(
            f"{folder}: its card has schema {card.get('schema_version')}, this version reads "
            f"{SCHEMA_VERSION}: train again, or use the version that made it"
        )
    missing = {"model_id", "network", "training", "weights"} - set(card)
    if missing:
        raise ModelError(f"{folder}: the card lacks {', '.join(sorted(missing))}")
    return card
