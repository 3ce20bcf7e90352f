"""Which levels of a slide are shown.

Scanners store levels 4x apart. A viewer that finds none in between takes the finer one and reads
up to 16 times the pixels it shows, so levels at every factor of 2 are put between them, and above
the coarsest until it is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tiling.geometry import true_downsample

CHUNK_PX = 512
"""Wanted chunk edge: smaller suits jumps, larger suits slow panning."""
SMALL_PX = 1024
"""Longer edge at which a level is coarse enough to be the last."""
GAP = 3.0
"""Ratio of neighbouring levels from which one is put in between."""


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """One level of the pyramid that is shown.

    Attributes
    ----------
    size
        (width, height) in px.
    downsample
        Level-0 px per px, (x, y).
    chunk
        (width, height) of a chunk in px.
    stored
        The slide's own level that holds these pixels; None for one that is averaged.
    """

    size: tuple[int, int]
    downsample: tuple[float, float]
    chunk: tuple[int, int]
    stored: int | None


def plan_levels(
    level_sizes: Sequence[tuple[int, int]], tile_sizes: Sequence[tuple[int, int]]
) -> tuple[LevelPlan, ...]:
    """Return the levels to show: a slide's own, and others by factors of 2 in the gaps.

    A level's size is rounded, not floored: viewers place it by the ratio to level 0's size, and
    so it is off by half of one of its own px at most.

    Parameters
    ----------
    level_sizes, tile_sizes
        (width, height) of the slide's levels and of their stored tiles, finest first.

    Examples
    --------
    >>> plan = plan_levels([(9000, 6000), (2250, 1500)], [(256, 256), (256, 256)])
    >>> [(level.size, level.stored) for level in plan]
    [((9000, 6000), 0), ((4500, 3000), None), ((2250, 1500), 1), ((1125, 750), None),
     ((562, 375), None)]
    """
    base = level_sizes[0]
    plans: list[LevelPlan] = []
    for stored, (size, tile) in enumerate(zip(level_sizes, tile_sizes, strict=True)):
        scale = (true_downsample(base[0], size[0]), true_downsample(base[1], size[1]))
        if plans and min(size) >= min(plans[-1].size):
            continue  # viewers need levels that shrink
        while plans and max(s / d for s, d in zip(scale, plans[-1].downsample, strict=True)) > GAP:
            plans.append(_averaged(base, plans[-1].downsample))
        plans.append(LevelPlan(size, scale, chunk_size(tile), stored))
    while max(plans[-1].size) > SMALL_PX and min(plans[-1].size) > 1:
        plans.append(_averaged(base, plans[-1].downsample))
    return tuple(plans)


def _averaged(base: tuple[int, int], finer: tuple[float, float]) -> LevelPlan:
    scale = (2 * finer[0], 2 * finer[1])
    size = (max(round(base[0] / scale[0]), 1), max(round(base[1] / scale[1]), 1))
    return LevelPlan(size, scale, (CHUNK_PX, CHUNK_PX), None)


def chunk_size(tile: tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) of chunks that are whole stored tiles; long strips stay long.

    Examples
    --------
    >>> chunk_size((240, 240)), chunk_size((40000, 8))
    ((480, 480), (40000, 8))
    """
    width = max(round(min(CHUNK_PX, CHUNK_PX**2 // tile[1]) / tile[0]), 1) * tile[0]
    height = max(round(min(CHUNK_PX, CHUNK_PX**2 // width) / tile[1]), 1) * tile[1]
    return width, height
