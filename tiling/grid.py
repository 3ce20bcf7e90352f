"""Where the tiles lie: a regular grid in level-0 pixels, kept where there is tissue."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideTooLargeError
from tiling.geometry import tile_starts
from tiling.resolution import PLAUSIBLE_MPP
from tiling.slide import Slide
from tiling.tissue import TissueMask, tissue_mask

MAX_CANDIDATES = 1 << 24
"""Places for tiles on one slide, tissue or not."""
CANDIDATES_PER_STEP = 1 << 20
SQUARE = 8
"""Tiles a side that are kept together: 64 consecutive tiles share most of what is decoded."""


@dataclass(frozen=True, slots=True)
class TileSpec:
    """What a tile is: `tile_px` pixels at `mpp` µm per pixel.

    Parameters
    ----------
    tile_px
        Tile edge in pixels of the result.
    mpp
        Pixel size of the result, µm; at least 0.05.
    overlap
        Pixels of the result shared by neighbours, less than `tile_px`.
    min_tissue
        Smallest share of tissue, 0 to 1; 0 keeps every tile.
    edge
        ``"drop"`` leaves out tiles that reach over the slide's end, ``"pad"`` fills them white.
    exact
        Decode at full resolution and average, where a reader could decode at a coarser scale.
    """

    tile_px: int = 256
    mpp: float = 0.5
    overlap: int = 0
    min_tissue: float = 0.1
    edge: Literal["drop", "pad"] = "drop"
    exact: bool = False

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise ValueError(f"tile_px={self.tile_px}: must be at least 1")
        if not 0 < self.mpp < float("inf"):
            raise ValueError(f"mpp={self.mpp}: must be positive, in µm per pixel")
        if self.mpp < PLAUSIBLE_MPP[0]:
            raise ValueError(f"mpp={self.mpp}: no slide has pixels that fine; from "
                             f"{PLAUSIBLE_MPP[0]} µm, e.g. 0.5")  # fmt: skip
        if not 0 <= self.overlap < self.tile_px:
            raise ValueError(f"overlap={self.overlap}: must be 0 to {self.tile_px - 1} px")
        if not 0 <= self.min_tissue <= 1:
            raise ValueError(f"min_tissue={self.min_tissue}: must be 0 to 1")
        if self.edge not in ("drop", "pad"):
            raise ValueError(f"edge={self.edge!r}: choose drop or pad")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class TileGrid:
    """The tiles of one slide, in squares of 8 x 8, row by row in each.

    So consecutive tiles lie around each other, and a block of them shares what must be decoded.

    Attributes
    ----------
    coords
        int64, shape ``(N, 2)``: x0, y0 of each tile's top left pixel, level 0.
    tissue_fraction
        float32, shape ``(N,)``: share of the tile's pixels inside the slide that are tissue.
    extent, stride
        (x, y) in level-0 px: what a tile covers, and the step from one to the next.
    slide_size, slide_mpp
        (width, height) in px and pixel size (x, y) in µm, level 0.
    candidates
        Tiles before the tissue filter.
    reason
        Why there is no tile; "" if there is one.
    """

    spec: TileSpec
    coords: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    extent: tuple[int, int]
    stride: tuple[int, int]
    slide_size: tuple[int, int]
    slide_mpp: tuple[float, float]
    candidates: int
    reason: str = ""

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def effective_mpp(self) -> tuple[float, float]:
        """Pixel size (x, y) of the tiles in µm, after rounding the extent to whole pixels."""
        return (
            self.extent[0] * self.slide_mpp[0] / self.spec.tile_px,
            self.extent[1] * self.slide_mpp[1] / self.spec.tile_px,
        )

    @property
    def is_padded(self) -> NDArray[np.bool_]:
        """Which tiles reach over the slide's end, shape ``(N,)``."""
        ends = self.coords + np.asarray(self.extent)
        return np.asarray((ends > np.asarray(self.slide_size)).any(axis=1))


def tile_extent(
    spec: TileSpec, slide_mpp: tuple[float, float]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return what a tile covers and the step to the next, both (x, y) in level-0 px.

    Examples
    --------
    >>> tile_extent(TileSpec(tile_px=256, mpp=0.5, overlap=64), (0.243, 0.243))
    ((527, 527), (395, 395))
    """
    extent_x, extent_y = (max(round(spec.tile_px * spec.mpp / m), 1) for m in slide_mpp)
    shared_x, shared_y = (round(spec.overlap * spec.mpp / m) for m in slide_mpp)
    return (extent_x, extent_y), (max(extent_x - shared_x, 1), max(extent_y - shared_y, 1))


def in_squares(x_starts: NDArray[np.int64], y_starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every (x, y) of a grid, shape ``(N, 2)``, square by square of `SQUARE` tiles a side.

    Examples
    --------
    >>> in_squares(np.arange(9), np.arange(2)).tolist()[6:11]
    [[6, 0], [7, 0], [0, 1], [1, 1], [2, 1]]
    >>> in_squares(np.arange(9), np.arange(2)).tolist()[-3:]
    [[7, 1], [8, 0], [8, 1]]
    """
    row, column = np.indices((len(y_starts), len(x_starts))).reshape(2, -1)
    order = np.lexsort((column, row, column // SQUARE, row // SQUARE))
    return np.stack([x_starts[column[order]], y_starts[row[order]]], axis=1)


def tile_grid(slide: Slide, spec: TileSpec, mask: TissueMask | None = None) -> TileGrid:
    """Lay a grid over `slide` and keep the tiles with enough tissue.

    Parameters
    ----------
    slide
        The slide; its pixel size must be known.
    spec
        What a tile is.
    mask
        Where there is tissue; found by :func:`tiling.tissue_mask` if not given.

    Returns
    -------
    A grid, possibly of no tile; then `reason` says why.

    Raises
    ------
    MissingMppError, ImplausibleMppError, ConflictingMppError
        The slide has no pixel size that can be believed.
    SlideTooLargeError
        The slide has room for more than `MAX_CANDIDATES` such tiles.
    """
    slide_mpp = slide.require_mpp()
    extent, stride = tile_extent(spec, slide_mpp)
    pads = spec.edge == "pad"
    x_starts, y_starts = (
        tile_starts(slide.size[axis], extent[axis], stride[axis], overhang=pads) for axis in (0, 1)
    )
    candidates = len(x_starts) * len(y_starts)
    if candidates > MAX_CANDIDATES:
        raise SlideTooLargeError(
            f"{slide.name}: {slide.size[0]} x {slide.size[1]} px have room for {candidates} tiles "
            f"(at most {MAX_CANDIDATES}); ask for larger tiles or less overlap"
        )
    coords, fraction = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if candidates:
        coords, fraction = _with_tissue(
            mask or tissue_mask(slide), x_starts, y_starts, extent, spec.min_tissue
        )
    reason = ""
    if not candidates:
        reason = (
            f"the slide is {slide.size[0]} x {slide.size[1]} px, narrower than a tile of "
            f"{extent[0]} x {extent[1]} px at level 0"
        )
    elif not len(coords):
        reason = f"no tile of {candidates} has at least {spec.min_tissue:.0%} tissue"
    return TileGrid(
        spec=spec,
        coords=coords,
        tissue_fraction=fraction,
        extent=extent,
        stride=stride,
        slide_size=slide.size,
        slide_mpp=slide_mpp,
        candidates=candidates,
        reason=reason,
    )


def _with_tissue(
    mask: TissueMask,
    x_starts: NDArray[np.int64],
    y_starts: NDArray[np.int64],
    extent: tuple[int, int],
    min_tissue: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the tiles with enough tissue and their share of it, some rows of squares at a time."""
    rows = max(CANDIDATES_PER_STEP // len(x_starts) // SQUARE, 1) * SQUARE
    coords, fractions = [], []
    for first in range(0, len(y_starts), rows):
        here = in_squares(x_starts, y_starts[first : first + rows])
        fraction = mask.fraction(here, extent)
        keep = fraction >= min_tissue
        coords.append(here[keep])
        fractions.append(fraction[keep])
    return np.concatenate(coords), np.concatenate(fractions)
