"""What `wsi segment` can be told beyond the network's own options; imports nothing slow."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from wsi_pipeline.errors import UsageError

Names = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)]


@dataclass(frozen=True, slots=True)
class TruthOptions:
    """What of the annotations is inside.

    Parameters
    ----------
    inside
        Groups (classes) of outlines that are inside; those of tumour of CAMELYON16 and 17 if not
        given.
    outside
        Groups of outlines, most of them holes, that are not inside; those of CAMELYON if not given.
    mask_value
        The value of what is inside in masks that are not 1-bit or 0 and 255.
    normal
        Slides that hold nothing inside and need no annotation, as patterns: 'normal_*'.
    """

    inside: Names = ()
    outside: Names = ()
    mask_value: int | None = None
    normal: Names = ()

    def is_normal(self, slide_id: str) -> bool:
        """Whether the slide is one of those that hold nothing."""
        return any(fnmatch.fnmatchcase(slide_id, pattern) for pattern in self.normal)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """How slides are segmented.

    Parameters
    ----------
    threshold
        Probability from which a pixel is inside.
    overlap_px
        Pixels that neighbouring windows share, at most half; a quarter of the tile if not given.
    min_area_um2
        Smaller outlines are left out, and so are holes of that size.
    merge
        Foci up to 75 µm apart are measured as one lesion, as CAMELYON counts.
    group
        Class of the outlines for QuPath.
    device
        auto, cpu, cuda, cuda:1, mps.
    engine
        What runs the network: auto (OpenVINO on a CPU where it is installed), torch, openvino.
    precision
        float32, or bfloat16.
    """

    threshold: float = 0.5
    overlap_px: int | None = None
    min_area_um2: float = 0.0
    merge: bool = True
    group: str = "Tumor"
    device: str = "auto"
    engine: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"threshold={self.threshold}: must be above 0 and at most 1")
        if not self.min_area_um2 >= 0:
            raise UsageError(f"min_area_um2={self.min_area_um2}: must not be negative")

    def overlap(self, tile_px: int) -> int:
        """Return the pixels that windows of `tile_px` share."""
        return tile_px // 4 if self.overlap_px is None else self.overlap_px


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How segmentations are judged.

    Parameters
    ----------
    threshold
        Probability from which a pixel is inside.
    tolerance_um
        How far apart boundaries may be and still agree, µm.
    merge
        Foci up to 75 µm apart are one lesion, as CAMELYON counts.
    name
        The segmentation in the stores, where they hold several.
    seed
        Seed of the draws of patients for the intervals.
    resamples
        Draws of patients.
    """

    threshold: float = 0.5
    tolerance_um: float = 5.0
    merge: bool = True
    name: str | None = None
    seed: int = 0
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"threshold={self.threshold}: must be above 0 and at most 1")
        if not self.tolerance_um >= 0:
            raise UsageError(f"tolerance_um={self.tolerance_um}: must not be negative")
        if self.resamples < 0:
            raise UsageError(f"resamples={self.resamples}: must not be negative")


@dataclass(frozen=True, slots=True)
class SegmentJob:
    """What of a slide's job is about segmentation; travels to a worker."""

    model: Path
    options: PredictOptions

    def to_dict(self) -> dict[str, Any]:
        """Return what is recorded of a run, as JSON values."""
        return {"model": str(self.model), **asdict(self.options)}
