"""A slide's job, and the job at work: what every stage is given and what it gives back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiling.grid import TileSpec, tile_grid
from tiling.slide import Slide, open_slide
from tiling.store import Prediction, SlideStore, create_store, open_store
from tiling.tissue import TissueMask
from wsi_pipeline.config import EncoderOptions, TileOptions
from wsi_pipeline.errors import UsageError
from wsi_pipeline.manifest import SlideEntry

if TYPE_CHECKING:
    from wsi_pipeline.segmentation.options import SegmentJob

OnTiles = Callable[[str, int, int], None]
"""Called with (stage, tiles done, tiles in all)."""


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide and all that is to be done to it; travels to a worker."""

    entry: SlideEntry
    out: Path
    stages: tuple[str, ...]
    tiles: TileOptions
    spec: TileSpec
    encoder: EncoderOptions = EncoderOptions()
    model: Path | None = None
    segment: SegmentJob | None = None
    within: Path | None = None
    """Outlines: only tiles inside are scored."""
    live: bool = False
    """Score what is embedded so far, again and again, for a viewer that looks on."""

    @property
    def slide_id(self) -> str:
        """The slide's unique name in its run."""
        return self.entry.slide_id

    @property
    def store_path(self) -> Path:
        """Where the slide's store is, or will be."""
        return self.out / "stores" / f"{self.slide_id}.zarr"

    def require_model(self) -> Path:
        """Return the model's folder, or raise `UsageError` where the job has none."""
        if self.model is None:
            raise UsageError("predict needs a model; pass --model")
        return self.model


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """What a stage reports; `reason` without failure means that there was nothing to do."""

    tiles: int
    bad_tiles: int = 0
    reason: str = ""
    embedded: int = 0
    encoder_seconds: float = 0.0


class SlideWork:
    """A job at work: its slide and store, opened when a stage first asks for them."""

    def __init__(self, job: SlideJob, on_tiles: OnTiles | None) -> None:
        self.job = job
        self.on_tiles = on_tiles
        self.prediction: Prediction | None = None

    @functools.cached_property
    def slide(self) -> Slide:
        """The open slide."""
        job = self.job
        mpp = job.entry.mpp if job.entry.mpp is not None else job.tiles.slide_mpp
        return open_slide(job.entry.path, reader=job.tiles.reader, mpp=mpp)

    @functools.cached_property
    def store(self) -> SlideStore:
        """The slide's store, which must be there."""
        store = open_store(self.job.store_path)
        store.sweep()
        return store

    def progress(self, stage: str) -> Callable[[int, int], None] | None:
        """Return what a stage calls with (tiles done, tiles in all)."""
        return None if self.on_tiles is None else functools.partial(self.on_tiles, stage)

    def close(self) -> None:
        """Release the slide."""
        if "slide" in self.__dict__:
            self.slide.close()


def make_store(work: SlideWork, mask: TissueMask) -> None:
    """Lay the job's grid over the slide's tissue and make its store."""
    grid = tile_grid(work.slide, work.job.spec, mask)
    create_store(work.job.store_path, work.slide, grid, mask, slide_id=work.job.slide_id)
