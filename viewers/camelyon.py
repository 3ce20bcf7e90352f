"""Pictures of `wsi camelyon report`: what was missed on a slide, and how scores lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from viewers.charts import BLUE, ORANGE, picture_uri
from viewers.render import scale_bar_length

Floats = NDArray[np.float64]
OUTLINE, FOUND = "#ffd400", "#00a2ff"
EDGE_INCHES = 3.6


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A part of a slide to look at.

    Attributes
    ----------
    pixels
        uint8 RGB, shape ``(h, w, 3)``, at whatever scale.
    x0, y0, width, height
        Where it lies, level-0 px.
    outlines
        Rings of what is tumour, each ``(N, 2)``, x and y in level-0 px.
    detections
        Score, x and y of what was found, ``(M, 3)``, level-0 px.
    mpp
        Pixel size at level 0, µm.
    """

    pixels: NDArray[np.uint8]
    x0: int
    y0: int
    width: int
    height: int
    outlines: Sequence[Floats]
    detections: Floats
    mpp: float


def crop_picture(crop: Crop) -> str:
    """Draw a crop: tumour's outlines yellow, detections as blue rings with their scores."""
    tall = crop.height / crop.width
    figure = Figure(figsize=(EDGE_INCHES, EDGE_INCHES * tall), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    right, bottom = crop.x0 + crop.width, crop.y0 + crop.height
    axes.imshow(crop.pixels, extent=(crop.x0, right, bottom, crop.y0), interpolation="antialiased")
    for ring in crop.outlines:
        axes.plot(*ring.T, color="black", linewidth=2.6)
        axes.plot(*ring.T, color=OUTLINE, linewidth=1.6)
    for score, x, y in crop.detections.tolist():
        axes.plot(x, y, "o", markersize=9, markerfacecolor="none", color="white", mew=3)
        axes.plot(x, y, "o", markersize=9, markerfacecolor="none", color=FOUND, mew=1.6)
        axes.annotate(f"{score:.2f}", (x, y), (7, 5), textcoords="offset points", fontsize=8,
                      color="black", bbox={"facecolor": "white", "alpha": 0.75, "pad": 1,
                                           "linewidth": 0})  # fmt: skip
    length = scale_bar_length(crop.width * crop.mpp) / crop.mpp
    x, y = crop.x0 + 0.04 * crop.width, bottom - 0.05 * crop.height
    axes.plot([x, x + length], [y, y], color="white", linewidth=5, solid_capstyle="butt")
    axes.plot([x, x + length], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.annotate(f"{length * crop.mpp:g} µm", (x, y), (0, 4), textcoords="offset points",
                  fontsize=8, bbox={"facecolor": "white", "alpha": 0.75, "pad": 1,
                                    "linewidth": 0})  # fmt: skip
    axes.set(xlim=(crop.x0, right), ylim=(bottom, crop.y0), xticks=[], yticks=[])
    axes.axis("off")
    return picture_uri(figure)


def score_chart(scores: Mapping[str, Floats]) -> str:
    """Draw the scores of groups of slides, a dot each, a group below the other."""
    figure = Figure(figsize=(4.6, 1.1 + 0.75 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for row, (values, colour) in enumerate(
        zip(scores.values(), (BLUE, ORANGE) * len(scores), strict=False)
    ):
        order = np.argsort(values, kind="stable")
        jitter = np.zeros(len(values))
        jitter[order] = 0.28 * np.sin(np.arange(len(values)) * 2.4)  # apart, and the same each time
        axes.plot(values, row + jitter, "o", color=colour, alpha=0.65, markersize=5, mew=0)
    axes.set_yticks(range(len(scores)), [f"{n} ({len(v)})" for n, v in scores.items()])
    axes.set(xlabel="score of the slide", xlim=(-0.02, 1.02), ylim=(len(scores) - 0.4, -0.6))
    axes.grid(axis="x", color="#e6e9ee")
    return picture_uri(figure)
