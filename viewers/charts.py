"""Charts of an evaluation, as PNG in a data URI: arrays in, picture out."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BLUE, ORANGE, GREY = "#1257b0", "#d9730d", "#8a93a0"
COLOURS = (BLUE, ORANGE, "#1b8a5a", "#8e44ad", "#b3261e", "#5d6673")
DPI = 150
SHOWN_CELLS = 14
"""Confusion matrices of more classes have no numbers in them."""
NAME_CHARACTERS = 18


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A line of a chart: `x` and `y` ``(N,)``, its name, and a band around `y` if known."""

    name: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None


def roc_chart(curves: Sequence[Curve], point: tuple[float, float] | None = None) -> str:
    """Draw ROC curves (x: 1 - specificity, y: sensitivity) and the operating point."""
    figure, axes = _square("1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    _curves(axes, curves, step=False)
    if point is not None:
        axes.plot(*point, "o", color="black", markersize=6, label="operating point", zorder=5)
    _legend(axes, "lower right")
    return picture_uri(figure)


def precision_recall_chart(curves: Sequence[Curve], prevalence: float | None) -> str:
    """Draw precision-recall curves (x: recall, y: precision); dotted, what chance would give."""
    figure, axes = _square("recall (sensitivity)", "precision")
    if prevalence is not None:
        axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=":")
    _curves(axes, curves, step=True)
    _legend(axes, "lower left")
    return picture_uri(figure)


def reliability_chart(bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Draw (score, frequency, slides) of bins; a point's area grows with its slides."""
    figure, axes = _square("mean score", "share that is so")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for (name, rows), colour in zip(bins.items(), COLOURS, strict=False):
        x, y, slides = np.array(rows, dtype=np.float64).reshape(-1, 3).T
        size = 16 + 160 * slides / max(slides.sum(), 1)
        axes.plot(x, y, color=colour, linewidth=1.2, label=_short(name))
        axes.scatter(x, y, s=size, color=colour, alpha=0.75, linewidths=0)
    _legend(axes, "upper left")
    return picture_uri(figure)


def confusion_chart(matrix: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw counts ``(C, C)``, rows what is, columns what was said; colour is the row's share."""
    count = len(classes)
    edge = min(3.2 + 0.45 * count, 9.0)
    figure = Figure(figsize=(edge + 0.6, edge), layout="constrained")
    axes = figure.add_subplot()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_short(name) for name in classes]
    axes.set_xticks(range(count), names)
    if max(map(len, names)) > 4:
        axes.tick_params(axis="x", labelrotation=45)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_yticks(range(count), names)
    axes.set(xlabel="said", ylabel="is")
    if count <= SHOWN_CELLS:
        for row, column in np.ndindex(count, count):
            dark = share[row, column] > 0.55
            text = (
                f"{matrix[row, column]}\n{share[row, column]:.0%}"
                if count < 8
                else str(matrix[row, column])
            )
            axes.text(column, row, text, ha="center", va="center", fontsize=9,
                      color="white" if dark else "black")  # fmt: skip
    return picture_uri(figure)


def survival_chart(curves: Sequence[Curve], note: str) -> str:
    """Draw Kaplan-Meier curves with their bands; `note` (the log-rank test) stands above."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for curve, colour in zip(curves, COLOURS, strict=False):
        axes.step(curve.x, curve.y, where="post", color=colour, label=_short(curve.name, 40))
        if curve.low is not None and curve.high is not None:
            axes.fill_between(
                curve.x, curve.low, curve.high, step="post", color=colour, alpha=0.15, linewidth=0
            )
    axes.set(xlabel="time", ylabel="share without event", ylim=(0, 1.03), xlim=(0, None))
    axes.set_title(note, fontsize=10)
    axes.grid(color="#e6e9ee")
    _legend(axes, "best")
    return picture_uri(figure)


def scatter_chart(values: Floats, predicted: Floats) -> str:
    """Draw predicted over true values, with the line on which they are equal."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(values.min(), predicted.min()), max(values.max(), predicted.max())]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=":")
    axes.scatter(values, predicted, s=14, color=BLUE, alpha=0.6, linewidths=0)
    axes.set(xlabel="true value", ylabel="predicted value")
    axes.grid(color="#e6e9ee")
    return picture_uri(figure)


def _square(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(color="#e6e9ee")
    return figure, axes


def _curves(axes: Axes, curves: Sequence[Curve], *, step: bool) -> None:
    for curve, colour in zip(curves, COLOURS * (1 + len(curves) // len(COLOURS)), strict=False):
        if step:
            axes.step(curve.x, curve.y, where="pre", color=colour, label=_short(curve.name, 34))
        else:
            axes.plot(curve.x, curve.y, color=colour, label=_short(curve.name, 34))


Place = Literal["lower right", "lower left", "upper left", "best"]


def _legend(axes: Axes, place: Place) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if 0 < len(handles) <= 9:
        axes.legend(loc=place, fontsize=9, framealpha=0.85)
    elif handles and isinstance(axes.figure, Figure):  # more would cover the curves
        columns = 2 if max(len(str(handle.get_label())) for handle in handles) < 20 else 1
        width, height = axes.figure.get_size_inches()
        axes.figure.set_size_inches(width, height + 0.19 * math.ceil(len(handles) / columns))
        axes.figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _short(name: str, limit: int = NAME_CHARACTERS) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def picture_uri(figure: Figure) -> str:
    """Return a figure as PNG in a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
