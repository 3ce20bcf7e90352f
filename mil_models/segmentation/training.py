"""Train a segmentation model and save it; a killed training goes on where it was."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from mil_models.checkpoint import check_new
from mil_models.resume import ResumeFolder
from mil_models.segmentation.checkpoint import save_segmentation
from mil_models.segmentation.loop import OnEpoch, TileSource, Trained, train_network
from mil_models.segmentation.network import create_network
from mil_models.segmentation.options import NetworkOptions, SegmentationOptions
from tiling.nodes import Json


@dataclass(frozen=True, slots=True, eq=False)
class TrainingTiles:
    """What is trained on: tiles, those of other slides to judge by, and a record of the slides."""

    tiles: TileSource
    validation: TileSource | None
    record: Json


def train_segmentation(
    source: TrainingTiles,
    out: Path,
    *,
    network: NetworkOptions = NetworkOptions(),
    options: SegmentationOptions = SegmentationOptions(),
    weights: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
) -> Trained:
    """Train a network on labelled tiles and write it to the folder `out`.

    Parameters
    ----------
    source
        Tiles of the network's size and pixel size; `record` says of which slides, goes into the
        card, and makes another training of another record.
    weights, random_weights
        The encoder's weights to start from: a file, or none, in place of the published ones.
    seed
        Seed of every random choice.

    Raises
    ------
    ModelError
        There is something at `out` already, or another process trains it.
    """
    check_new(out)
    built, identity = create_network(
        network, weights=weights, random_weights=random_weights, seed=seed
    )
    training: Json = {
        **source.record,
        "options": asdict(options),
        "encoder_weights": identity,
        "seed": seed,
    }
    resume = ResumeFolder(out, {"network": network.to_dict(), **training})
    try:
        trained = train_network(
            built, source.tiles, source.validation, options,
            seed=seed, resume=resume, on_epoch=on_epoch,
        )  # fmt: skip
        metrics = {"epoch": trained.epoch, "validation_dice": trained.dice}
        save_segmentation(
            out, trained.network, {"training": training, "metrics": metrics}, trained.history
        )
        resume.remove()
    finally:
        resume.close()
    return trained
