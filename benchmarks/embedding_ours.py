"""Our side of the embedding benchmarks: `wsi embed`'s own path over a given list of tiles."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from mil_models import Encoder, create_encoder, embed
from mil_models.engines.base import Embeddings, Engine, Tiles
from tiling import Slide, TileSpec, open_slide, tile_grid
from tiling.grid import TileGrid
from tiling.store import SlideStore, create_store
from tiling.tissue import TissueMask, tissue_mask


class FreeEngine(Engine):
    """A network that costs nothing: what is left is what a GPU could be fed."""

    name: ClassVar[str] = "free"

    @classmethod
    def version(cls) -> str:
        return "free"

    @classmethod
    def precisions_here(cls) -> tuple[str, ...]:
        return ("float32",)

    def at(self, precision: str) -> FreeEngine:
        return self

    def run(self, tiles: Tiles) -> Embeddings:
        return np.zeros((len(tiles), 1), np.float32)


@dataclass(frozen=True)
class SlideTiles:
    """Some tiles of a slide, that can be embedded again and again, each time into a new store."""

    slide: Slide
    mask: TissueMask
    grid: TileGrid
    folder: Path

    @classmethod
    def of(cls, path: Path, tile_px: int, folder: Path, *, mpp: float = 0.5) -> SlideTiles:
        """Return all tissue tiles of a slide; `folder` takes the stores."""
        slide = open_slide(path)
        mask = tissue_mask(slide)
        return cls(slide, mask, tile_grid(slide, TileSpec(tile_px, mpp), mask), folder)

    def at(self, coords: NDArray[np.int64]) -> SlideTiles:
        """Return the tiles at `coords` in place of these."""
        fraction = np.ones(len(coords), np.float32)
        grid = dataclasses.replace(self.grid, coords=coords, tissue_fraction=fraction)
        return dataclasses.replace(self, grid=grid)

    def first(self, count: int) -> SlideTiles:
        """Return the first `count` of the tiles."""
        return self.at(self.grid.coords[:count])

    def new_store(self) -> SlideStore:
        """Return a store that holds the grid and no embedding."""
        path = self.folder / "ours.zarr"
        shutil.rmtree(path, ignore_errors=True)
        return create_store(path, self.slide, self.grid, self.mask, slide_id="benchmark")

    def embed(self, encoder: Encoder) -> int:
        """Embed all the tiles; return how many."""
        return embed(self.new_store(), self.slide, encoder).computed


def encoder_of(name: str, precision: str, *, threads: int, engine: str = "auto") -> Encoder:
    """Return the encoder with seeded random weights."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return create_encoder(
        name, random_weights=True, device="cpu", engine=engine, precision=precision
    )


def free_encoder(encoder: Encoder) -> Encoder:
    """Return an encoder of no cost that is fed as a GPU is: tiles are read ahead."""
    contract = dataclasses.replace(encoder.contract, width=1)
    engine = FreeEngine(
        torch.nn.Identity(),
        mean=contract.mean,
        std=contract.std,
        batch=contract.batch,
        precision="float32",
        device=torch.device("meta"),
    )
    return Encoder(contract, engine)
