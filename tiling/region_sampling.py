"""Tiles drawn at random for training: half with their centre in what is annotated, half outside."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from tiling.errors import SlideReadError, WSIError
from tiling.grid import TileSpec, tile_extent
from tiling.region_masks import OutlineMask, RegionMask
from tiling.slide import Slide, SlideRef
from tiling.tiles import TileGeometry, TileStatus, read_tiles
from tiling.tissue import TissueMask

OPEN_SLIDES = 128
"""Kept open by a pool: each tile comes from another slide, and opening takes longer than a tile."""
ATTEMPTS = 16
"""Draws in place of a tile that cannot be decoded, before it is an error."""


class SamplingError(WSIError, ValueError):
    """A slide has neither tissue nor anything annotated, so there is no tile to draw."""


@dataclass(frozen=True, slots=True, eq=False)
class CellSet:
    """Cells of a map, a bit each: small to keep for hundreds of slides, quick to draw from.

    `bits` uint8 ``(rows, columns / 8)``; `below` int64 ``(rows,)``: cells up to each row's end.
    """

    bits: NDArray[np.uint8]
    below: NDArray[np.int64]

    @classmethod
    def of(cls, cells: NDArray[np.bool_]) -> CellSet:
        """Return the set of the cells ``(rows, columns)`` that are True."""
        return cls(np.packbits(cells, axis=1), np.cumsum(cells.sum(axis=1, dtype=np.int64)))

    def __len__(self) -> int:
        return int(self.below[-1])

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return (column, row) of a cell, each as likely as another."""
        number = int(rng.integers(len(self)))
        row = int(np.searchsorted(self.below, number, side="right"))
        before = int(self.below[row - 1]) if row else 0
        return int(np.flatnonzero(np.unpackbits(self.bits[row]))[number - before]), row


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlideTiles:
    """A slide that tiles are drawn from; made by :func:`labelled_tiles`.

    `inside` and `outside` are pixels of the tissue mask, each `cell` (width, height) level-0 px
    large: what is annotated, and tissue that is not.
    """

    ref: SlideRef
    truth: RegionMask
    geometry: TileGeometry
    cell: tuple[float, float]
    inside: CellSet
    outside: CellSet

    def draw(self, *, inside: bool, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return x0, y0 of a tile whose centre lies inside, or on tissue outside; ``(2,)``."""
        cell = (self.inside if inside else self.outside).draw(rng)
        centre = (np.asarray(cell) + rng.random(2)) * self.cell
        return np.floor(centre - np.asarray(self.geometry.extent) / 2).astype(np.int64)

    def read(
        self, slide: Slide, corner: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
        """Return one tile ``(H, W, 3)`` and its mask ``(H, W)``; None if it cannot be decoded."""
        coords, size = corner[None], (self.geometry.tile_px,) * 2
        pixels, status = read_tiles(slide, coords, self.geometry)
        if status[0] == TileStatus.UNREADABLE:
            return None
        return pixels[0], self.truth.read(coords, self.geometry.extent, size)[0]


def labelled_tiles(
    slide: Slide, truth: RegionMask, tissue: TissueMask, *, tile_px: int, mpp: float
) -> LabelledSlideTiles:
    """Return what to draw tiles of `tile_px` at `mpp` µm from, a few MB for the largest slide.

    Raises
    ------
    SamplingError
        There is neither tissue nor anything annotated.
    """
    rows, columns = tissue.mask.shape
    origin = np.zeros((1, 2), np.int64)
    inside = truth.read(origin, slide.size, (columns, rows))[0]
    if isinstance(truth, OutlineMask):
        # An outline that holds no pixel's centre is drawn from all the same.
        parts = [p for p in truth.area.geoms if not p.is_empty]
        points = shapely.get_coordinates([p.representative_point() for p in parts])
        cells = np.floor(points / tissue.downsample).astype(np.int64)
        on_slide = ((cells >= 0) & (cells < (columns, rows))).all(axis=1)
        inside[cells[on_slide, 1], cells[on_slide, 0]] = True
    outside = tissue.mask & ~inside
    if not inside.any() and not outside.any():
        raise SamplingError(
            f"{slide.name}: no tissue found and nothing annotated, so there is no tile to train "
            "on; leave the slide out"
        )
    extent, _ = tile_extent(TileSpec(tile_px=tile_px, mpp=mpp), slide.require_mpp())
    geometry = TileGeometry(extent, tile_px, slide.size)
    return LabelledSlideTiles(
        slide.ref, truth, geometry, tissue.downsample, CellSet.of(inside), CellSet.of(outside)
    )


class TilePool:
    """Labelled tiles from several slides, each as likely as another; the same seed, the same."""

    def __init__(self, slides: Sequence[LabelledSlideTiles]) -> None:
        if not slides:
            raise SamplingError("no slide to draw tiles from")
        self._slides = {
            True: [s for s in slides if len(s.inside)],
            False: [s for s in slides if len(s.outside)],
        }
        self._open: OrderedDict[SlideRef, Slide] = OrderedDict()
        self._lock = threading.Lock()

    def batch(
        self, count: int, *, inside_share: float, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return tiles ``(count, H, W, 3)`` and their masks ``(count, H, W)``.

        Parameters
        ----------
        inside_share
            Share of the tiles whose centre is annotated, 0 to 1, rounded at random; all are of the
            other kind where the slides have but one.
        seed
            Decides which tiles.

        Raises
        ------
        SlideReadError
            Many tiles in a row cannot be decoded.
        """
        rng = np.random.default_rng(seed)
        with self._lock:
            return self._batch(count, inside_share, rng)

    def _batch(
        self, count: int, inside_share: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        wanted = int(np.floor(inside_share * count + rng.random()))
        kinds = [place < wanted for place in range(count)]
        found = [self._tile(inside, rng) for inside in kinds]
        return np.stack([p for p, _ in found]), np.stack([m for _, m in found])

    def _tile(
        self, inside: bool, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        inside = inside if self._slides[inside] else not inside
        slides = self._slides[inside]
        for _ in range(ATTEMPTS):
            slide = slides[int(rng.integers(len(slides)))]
            found = slide.read(self._opened(slide.ref), slide.draw(inside=inside, rng=rng))
            if found is not None:
                return found
        raise SlideReadError(
            f"{slide.ref.path}: {ATTEMPTS} tiles in a row cannot be decoded; leave the slide out"
        )

    def _opened(self, ref: SlideRef) -> Slide:
        """Return a slide that stays open for the tiles to come; the one least used is closed."""
        slide = self._open.pop(ref, None) or Slide(ref)
        self._open[ref] = slide
        if len(self._open) > OPEN_SLIDES:
            self._open.popitem(last=False)[1].close()
        return slide
