"""What `wsi camelyon` can be told; imports nothing heavy, so that its help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsi_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """How a map becomes detections.

    Parameters
    ----------
    threshold
        Probability from which a cell of the map is tumour.
    method
        components: a detection for each connected part; lesions that touch in the map are one.
        nms: for each maximum that no higher one lies near; finds each of these, and alarms more.
    min_area_mm2
        Components below it are left out.
    radius_um
        How near, for nms.
    """

    threshold: float = 0.5
    method: Literal["components", "nms"] = "components"
    min_area_mm2: float = 0.0
    radius_um: float = 75.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"--threshold {self.threshold}: must be above 0 and at most 1")
        if not (self.min_area_mm2 >= 0 and self.radius_um >= 0):
            raise UsageError("--min-area-mm2 and --radius-um must not be negative")


@dataclass(frozen=True, slots=True)
class TileFlags:
    """What :class:`mil_models.options.TileTrainOptions` takes from the command line.

    Parameters
    ----------
    positive
        Share of a tile that must be tumour for it to count so; less, but some, counts as neither.
    per_slide
        Tiles of tumour, and of normal tissue, drawn from a slide; the most false positives of a
        slide that a round adds.
    rounds
        Rounds of hard negatives.
    hidden
        Width of the hidden layer; 0 for logistic regression.
    k
        A slide's score is the mean over so many of its highest tiles.
    """

    positive: float = 0.5
    per_slide: int = 1000
    rounds: int = 2
    hidden: int = 256
    k: int = 1
