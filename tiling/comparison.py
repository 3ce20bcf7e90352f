"""Do all readers see the same slide? The answer in numbers, for a report or a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideError, SlideReadError
from tiling.readers.registry import READERS
from tiling.slide import Slide, open_slide
from tiling.urls import public_url

REGION_PX = 256
CORNER_PX = 1024
"""Edge of the one region that is compared where a level's pixels lie between level-0 pixels."""
RATIO = 2.058
"""Level-0 px per px of the compared tiles: 0.243 to 0.5 µm, as in CAMELYON; never aligned."""
OVERVIEW_PX = 512
GLASS = 230
"""Brightness of the darkest colour from which a part of the overview is taken for empty glass."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Difference:
    """Grey levels, of 255, by which a reader's pixels differ from the reference's.

    Attributes
    ----------
    places
        Places that both could read.
    mean, largest
        Of the absolute difference; None if there is no such place.
    brightness
        Mean of the signed difference.
    unreadable
        Places that only one of the two could read.
    """

    places: int
    mean: float | None
    largest: int | None
    brightness: float | None
    unreadable: int

    @property
    def is_exact(self) -> bool:
        """Whether every pixel is the same, and what one reads the other reads."""
        return self.largest == 0 and not self.unreadable

    def __str__(self) -> str:
        alone = f"; {self.unreadable} places that only one can read" if self.unreadable else ""
        if self.largest is None:
            return f"nothing that both can read{alone}"
        if self.largest == 0:
            return f"exact{alone}"
        return (
            f"differs by {self.mean:.2f} on average, {self.largest} at most, "
            f"brightness {self.brightness:+.2f}{alone}"
        )


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """What one reader makes of a slide, beside the reference.

    Attributes
    ----------
    problem
        Why it does not open the slide; "" if it does.
    levels
        The difference at each of the reference's levels, at the level's own scale; None where the
        reader has no level of that size.
    exact, default
        The difference of tiles at `RATIO`, averaged from full resolution, and as read by default;
        both from the reference's exact tiles.
    """

    reader: str
    problem: str = ""
    decoder: str = ""
    level_sizes: tuple[tuple[int, int], ...] = ()
    mpp: tuple[float, float] | None = None
    levels: tuple[Difference | None, ...] = ()
    exact: Difference | None = None
    default: Difference | None = None

    @property
    def at_own_scale(self) -> str:
        """The levels in words."""
        if self.levels and all(d is not None and d.is_exact for d in self.levels):
            return f"exact on {len(self.levels)} level{'s' * (len(self.levels) > 1)}"
        named = ("not there" if d is None else str(d) for d in self.levels)
        return "\n".join(f"level {number}: {text}" for number, text in enumerate(named))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What every reader makes of one slide; `reference` is what the others are compared with."""

    reference: str
    places: int
    ratio: float
    readers: tuple[ReaderReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def compare_readers(
    path: str,
    *,
    reference: str = "openslide",
    places: int = 24,
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> Comparison:
    """Open a slide with every reader and compare what they read at random places on tissue.

    Levels are compared at their own scale, without any resampling. Where a level's pixels do not
    start on whole level-0 pixels (1303 px, shrunk to 325), OpenSlide interpolates at every place
    but the corner: there, the corner is compared.

    Parameters
    ----------
    reference
        The reader that the others are compared with; where it does not open the slide, the first
        that does.
    places
        Random places on each level, and tiles.

    Raises
    ------
    SlideOpenError
        No reader opens it.
    """
    reports: dict[str, ReaderReport] = {}
    with ExitStack() as stack:
        slides: dict[str, Slide] = {}
        for name in READERS:
            try:
                opened = open_slide(path, reader=name, storage_options=storage_options)
                slides[name] = stack.enter_context(opened)
            except SlideError as err:
                reports[name] = ReaderReport(name, problem=_reason(err, path, name))
        if not slides:
            open_slide(path, storage_options=storage_options)  # raises with every reader's reason
        base = reference if reference in slides else next(iter(slides))
        expected = _Sample(slides[base], _places_on_tissue(slides[base], places, seed))
        for name, slide in slides.items():
            reports[name] = _report(name, slide, expected)
    return Comparison(base, places, RATIO, tuple(reports[name] for name in READERS))


def _reason(error: SlideError, path: str, reader: str) -> str:
    reason = str(error).removeprefix(f"{public_url(path)}: ").removeprefix(f"{reader}: ")
    return reason.removesuffix("; try reader='auto'")


class _Sample:
    """What the reference reads at some places of level 0, ``(N, 2)``, read once for all readers."""

    def __init__(self, slide: Slide, places: NDArray[np.int64]) -> None:
        self.places = places
        self.level_sizes = slide.level_sizes
        self.levels = [_regions(slide, level, places) for level in range(len(slide.level_sizes))]
        self.tiles = _tiles(slide, places, exact=True)


def _report(name: str, slide: Slide, expected: _Sample) -> ReaderReport:
    def at_level(level: int) -> Difference | None:
        sizes = slide.level_sizes
        if level >= len(sizes) or sizes[level] != expected.level_sizes[level]:
            return None
        return _difference(_regions(slide, level, expected.places), expected.levels[level])

    places = expected.places
    return ReaderReport(
        reader=name,
        decoder=slide.decoder,
        level_sizes=slide.level_sizes,
        mpp=slide.mpp,
        levels=tuple(at_level(level) for level in range(len(expected.levels))),
        exact=_difference(_tiles(slide, places, exact=True), expected.tiles),
        default=_difference(_tiles(slide, places, exact=False), expected.tiles),
    )


def _places_on_tissue(slide: Slide, count: int, seed: int) -> NDArray[np.int64]:
    """Return random level-0 places, on tissue as far as there is any: glass is the same for all."""
    try:
        overview = slide.thumbnail(OVERVIEW_PX)
    except SlideReadError:
        overview = np.zeros((1, 1, 3), np.uint8)
    rows, columns = np.nonzero(overview.min(axis=2) < GLASS)
    if not len(rows):
        rows, columns = np.nonzero(overview.min(axis=2) >= 0)
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(rows), count)
    within = rng.random((count, 2)) + np.stack([columns, rows], axis=1)[chosen]
    shape = np.array([overview.shape[1], overview.shape[0]])
    places: NDArray[np.int64] = (within / shape * np.asarray(slide.size)).astype(np.int64)
    return places


def _regions(slide: Slide, level: int, places: NDArray[np.int64]) -> list[Pixels | None]:
    """Return pixels of a level where no reader has to interpolate; None where unreadable."""
    downsample = slide.level_downsamples[level]
    width, height = slide.level_sizes[level]
    if not float(downsample).is_integer():
        corner = min(CORNER_PX, width), min(CORNER_PX, height)
        return [_region(slide, (0, 0), level, corner)]
    step = int(downsample)
    size = min(REGION_PX, width), min(REGION_PX, height)
    # Centred on the place, and within the level.
    corners = np.clip(places // step - np.asarray(size) // 2, 0, np.subtract((width, height), size))
    return [_region(slide, (x * step, y * step), level, size) for x, y in corners.tolist()]


def _region(
    slide: Slide, location: tuple[int, int], level: int, size: tuple[int, int]
) -> Pixels | None:
    try:
        return slide.read_region(location, level=level, size=size)
    except SlideReadError:
        return None


def _tiles(slide: Slide, places: NDArray[np.int64], *, exact: bool) -> list[Pixels | None]:
    px = min(REGION_PX, *(max(int(length / RATIO), 1) for length in slide.size))
    extent = (round(px * RATIO),) * 2
    room = np.maximum(np.subtract(slide.size, extent), 0)
    coords = np.clip(places - np.asarray(extent) // 2, 0, room)
    tiles = np.empty((len(places), px, px, 3), np.uint8)
    errors = slide.read_into(tiles, coords, extent, exact=exact)
    return [None if index in errors else tile for index, tile in enumerate(tiles)]


def _difference(found: Sequence[Pixels | None], expected: Sequence[Pixels | None]) -> Difference:
    pairs = list(zip(found, expected, strict=True))
    both = [one.astype(np.int16) - other for one, other in pairs
            if one is not None and other is not None]  # fmt: skip
    unreadable = sum((one is None) != (other is None) for one, other in pairs)
    if not both:
        return Difference(0, None, None, None, unreadable)
    values = np.concatenate([difference.ravel() for difference in both])
    return Difference(
        places=len(both),
        mean=float(np.abs(values).mean()),
        largest=int(np.abs(values).max()),
        brightness=float(values.mean()),
        unreadable=unreadable,
    )
