"""Do all readers see the same slide? The answer in numbers, for a report or a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideError, SlideReadError
from tiling.readers.registry import READERS
from tiling.slide import Slide, open_slide

REGION_PX = 256
RESAMPLING = 2.058
"""Level-0 px per result px of the resampled tiles: 0.243 to 0.5 µm, as in CAMELYON."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Grey levels (0 to 255) by which two readers differ over all compared pixels.

    Attributes
    ----------
    mean, largest
        Of the absolute difference; None if not one region could be read by both.
    shift
        Mean signed difference: a brightness offset.
    unreadable
        Regions that exactly one of the two could not read.
    """

    mean: float | None
    largest: int | None
    shift: float | None
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """What one reader makes of a slide, beside the reference.

    Attributes
    ----------
    problem
        Why it does not open the slide; "" if it does.
    levels
        The difference at each level's own scale; levels that the reference lacks are left out.
    exact, fast
        The difference of tiles at `RESAMPLING`, averaged from full resolution and as read by
        default, both against the reference's exact ones.
    """

    reader: str
    problem: str = ""
    decoder: str = ""
    level_sizes: tuple[tuple[int, int], ...] = ()
    mpp: tuple[float, float] | None = None
    levels: tuple[Difference, ...] = ()
    exact: Difference | None = None
    fast: Difference | None = None


def compare_readers(
    path: str,
    *,
    reference: str = "openslide",
    regions: int = 24,
    seed: int = 0,
) -> list[ReaderReport]:
    """Open a slide with every reader and compare what they read at random places.

    Parameters
    ----------
    reference
        The reader that the others are compared with; where it does not open the slide, the first
        that does.
    regions
        Random places on each level, and of resampled tiles.

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
                slides[name] = stack.enter_context(open_slide(path, reader=name))
            except SlideError as err:
                reports[name] = ReaderReport(name, problem=str(err).removeprefix(f"{path}: "))
        if not slides:
            open_slide(path)
        base = slides.get(reference) or next(iter(slides.values()))
        for name, slide in slides.items():
            reports[name] = _report(name, slide, base, regions, seed)
    return [reports[name] for name in READERS]


def _report(name: str, slide: Slide, base: Slide, regions: int, seed: int) -> ReaderReport:
    shared = [
        level
        for level, size in enumerate(slide.level_sizes)
        if level < len(base.level_sizes) and size == base.level_sizes[level]
    ]
    return ReaderReport(
        reader=name,
        decoder=slide.decoder,
        level_sizes=slide.level_sizes,
        mpp=slide.mpp,
        levels=tuple(
            _difference(_native(slide, level, regions, seed), _native(base, level, regions, seed))
            for level in shared
        ),
        exact=_difference(
            _resampled(slide, regions, seed, exact=True),
            _resampled(base, regions, seed, exact=True),
        ),
        fast=_difference(
            _resampled(slide, regions, seed, exact=False),
            _resampled(base, regions, seed, exact=True),
        ),
    )


def _places(slide: Slide, extent: tuple[int, int], count: int, seed: int) -> NDArray[np.int64]:
    room = [max(length - side, 0) + 1 for length, side in zip(slide.size, extent, strict=True)]
    return np.random.default_rng(seed).integers(0, room, (count, 2))


def _native(slide: Slide, level: int, count: int, seed: int) -> Iterator[NDArray[np.uint8] | None]:
    downsample = slide.level_downsamples[level]
    width, height = slide.level_sizes[level]
    size = min(REGION_PX, width), min(REGION_PX, height)
    extent = round(size[0] * downsample), round(size[1] * downsample)
    for place in _places(slide, extent, count, seed + level):
        # On the level's own pixels, where no reader has to interpolate.
        x0, y0 = (round(round(v / downsample) * downsample) for v in place.tolist())
        try:
            yield slide.read_region((x0, y0), level=level, size=size)
        except SlideReadError:
            yield None


def _resampled(
    slide: Slide, count: int, seed: int, *, exact: bool
) -> Iterator[NDArray[np.uint8] | None]:
    tile_px = min(REGION_PX, *(max(int(length / RESAMPLING), 1) for length in slide.size))
    extent = (round(tile_px * RESAMPLING),) * 2
    out = np.empty((1, tile_px, tile_px, 3), np.uint8)
    for place in _places(slide, extent, count, seed):
        errors = slide.read_into(out, place[None], extent, exact=exact)
        yield None if errors else out[0].copy()


def _difference(
    found: Iterator[NDArray[np.uint8] | None], expected: Iterator[NDArray[np.uint8] | None]
) -> Difference:
    total = signed = 0.0
    largest = pixels = unreadable = 0
    for one, other in zip(found, expected, strict=True):
        if one is None or other is None:
            unreadable += (one is None) != (other is None)
            continue
        difference = one.astype(np.int16) - other
        total += float(np.abs(difference).sum())
        signed += float(difference.sum())
        largest = max(largest, int(np.abs(difference).max()))
        pixels += difference.size
    if not pixels:
        return Difference(None, None, None, unreadable)
    return Difference(total / pixels, largest, signed / pixels, unreadable)
