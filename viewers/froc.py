"""The FROC curve as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tiling.atomic import replacing
from viewers.charts import BLUE, DPI

Floats = NDArray[np.float64]
SHOWN = (0.125, 8.0)
"""False positives per slide at the ends of the axis, which is logarithmic."""


def froc_figure(rates: Floats, sensitivities: Floats, points: Floats, *, title: str) -> Figure:
    """Draw the curve.

    Parameters
    ----------
    rates, sensitivities
        The curve: mean false positives per slide, descending, and the share of lesions found,
        ``(T,)``.
    points
        Rate and sensitivity of what the score averages, ``(P, 2)``.
    title
        What stands above.
    """
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.add_subplot()
    # Rates of 0 have no place on the axis: what is found without a false positive comes from left.
    axes.plot(np.maximum(rates, 1e-6), sensitivities, color=BLUE)
    axes.plot(*points.T, "o", color=BLUE, markersize=5)
    for rate, sensitivity in points:
        axes.annotate(f"{sensitivity:.3f}", (rate, sensitivity), (0, 7), fontsize=8, ha="center",
                      textcoords="offset points")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(SHOWN[0], SHOWN[1] * 1.15)
    ticks = [SHOWN[0], *points[:, 0]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set(xlabel="mean false positives per slide", ylabel="sensitivity to lesions",
             ylim=(0, 1.05))  # fmt: skip
    axes.set_title(title, fontsize=10)
    axes.grid(color="#e6e9ee")
    return figure


def draw_froc(
    path: str | Path, rates: Floats, sensitivities: Floats, points: Floats, *, title: str
) -> Path:
    """Write the curve of :func:`froc_figure` as PNG, in place of an existing file."""
    figure = froc_figure(rates, sensitivities, points, title=title)
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)
    return path
