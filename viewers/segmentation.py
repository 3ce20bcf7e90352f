"""A slide's segmentation as a picture: the map over the slide, outlines around what is inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from shapely import MultiPolygon

from tiling.probability_map import SCALE, ProbabilityMap
from tiling.slide import Slide
from viewers.colours import heat_colours
from viewers.render import overview_figure, save_png

THUMBNAIL_PX = 1600
MAP_PX = 1 << 22
"""Pixels of the map's level that is drawn, at most."""
FOUND, TRUE = "#1f1fd6", "#00a046"


def draw_segmentation(
    path: str | Path,
    slide: Slide,
    found: ProbabilityMap,
    outlines: MultiPolygon,
    *,
    title: str,
    truth: MultiPolygon | None = None,
) -> Path:
    """Write a slide's thumbnail with its map and outlines as PNG.

    Parameters
    ----------
    outlines
        What was found, level-0 px, drawn in blue.
    truth
        What is annotated, drawn in green.
    """
    figure = overview_figure(
        slide.thumbnail(THUMBNAIL_PX), slide_size=slide.size, mpp=found.grid.slide_mpp, title=title
    )
    _add_map(figure, found)
    for area, colour in ((truth, TRUE), (outlines, FOUND)):
        if area is not None:
            rings = [r for p in area.geoms for r in (p.exterior, *p.interiors)]
            lines = LineCollection(
                [np.asarray(r.coords) for r in rings], colors=colour, linewidths=0.8
            )
            figure.axes[0].add_collection(lines, autolim=False)
    return save_png(figure, path)


def _add_map(figure: Figure, found: ProbabilityMap) -> None:
    level = found.level_within(MAP_PX)
    values = found.read(level, slice(None), slice(None)) / SCALE
    height, width = values.shape
    x, y = found.pixel(level)
    axes = figure.axes[0]
    image = axes.imshow(
        values, extent=(0, width * x, height * y, 0), cmap=ListedColormap(heat_colours()),
        vmin=0, vmax=1, interpolation="nearest",
    )  # fmt: skip
    size = found.grid.slide_size
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.015, aspect=30)
    bar.set_label("probability", fontsize=9)
    bar.ax.tick_params(labelsize=8)
