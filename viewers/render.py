"""Pictures of slides: heatmap over the thumbnail, sheets of tiles. Arrays in, PNG out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tiling.atomic import replacing
from tiling.heatmap import ScoreMap
from viewers.colours import heat_colours

DPI = 120
RESEARCH_ONLY = "Research use only"
_ROUND_LENGTHS_UM = [m * 10**e for e in range(6) for m in (1, 2, 5)]


def overview_figure(
    thumbnail: NDArray[np.uint8],
    *,
    slide_size: tuple[int, int],
    mpp: tuple[float, float],
    title: str,
    found: ScoreMap | None = None,
    colours: NDArray[np.float32] | None = None,
    label: str = "",
) -> Figure:
    """Draw a slide's thumbnail, with a map of values in 0..1 laid over it.

    Parameters
    ----------
    thumbnail
        The whole slide, uint8, shape ``(h, w, 3)``.
    slide_size, mpp
        (width, height) in level-0 px, and their size (x, y) in µm.
    found
        What to lay over; NaN shows the slide.
    colours
        RGBA of 0 to 1, shape ``(n, 4)``; heat if not given.
    label
        What the colour bar says.
    """
    width, height = slide_size
    # Pixels that are no squares are drawn as they lie on the glass.
    aspect = mpp[1] / mpp[0]
    ratio = min(max(aspect * height / width, 0.3), 2.5)
    figure = Figure(figsize=(8, 8 * ratio * 0.88 + 0.7), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(thumbnail, extent=(0, width, height, 0), interpolation="antialiased")
    if found is not None:
        rows, columns = found.values.shape
        colour_map = ListedColormap(heat_colours() if colours is None else colours)
        image = axes.imshow(
            found.values,
            extent=(0, columns * found.cell[0], rows * found.cell[1], 0),
            cmap=colour_map.with_extremes(bad=(0, 0, 0, 0)),
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.015, aspect=30)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        bar.outline.set_linewidth(0.5)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect=aspect, xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color="0.6")
    _draw_scale_bar(axes, slide_size, mpp)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(RESEARCH_ONLY, fontsize=7, color="0.45", loc="right")
    return figure


def sheet_figure(
    rows: Sequence[tuple[str, Sequence[tuple[NDArray[np.uint8], str]]]], *, title: str
) -> Figure:
    """Draw rows of captioned tiles, each row with a heading.

    Parameters
    ----------
    rows
        (heading, [(tile uint8 ``(h, w, 3)``, caption), …]).
    """
    columns = max((len(tiles) for _, tiles in rows), default=1) or 1
    figure = Figure(figsize=(1.45 * columns + 0.2, 2.05 * len(rows) + 0.5), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.01, 0.985, title, fontsize=9, va="top")
    figure.text(0.99, 0.01, RESEARCH_ONLY, fontsize=6, color="0.45", ha="right")
    top = 1 - 0.42 / figure.get_figheight()
    band = (top - 0.02) / max(len(rows), 1)
    for number, (heading, tiles) in enumerate(rows):
        upper = top - number * band
        figure.text(0.01, upper, heading, fontsize=8, weight="bold", va="top")
        for position, (tile, caption) in enumerate(tiles):
            left = (position + 0.04) / columns
            axes = figure.add_axes((left, upper - band * 0.98, 0.92 / columns, band * 0.87))
            axes.imshow(tile)
            axes.set(xticks=[], yticks=[])
            axes.set_anchor("N")
            axes.set_xlabel(caption, fontsize=6.5, labelpad=2)
            for spine in axes.spines.values():
                spine.set(linewidth=0.4, color="0.6")
    return figure


def scale_bar_length(width_um: float) -> float:
    """Return a round length in µm, between about a tenth and a quarter of `width_um`.

    Examples
    --------
    >>> scale_bar_length(1500.0)
    200
    """
    return max((v for v in _ROUND_LENGTHS_UM if v <= width_um / 5), default=width_um / 5)


def length_text(length_um: float) -> str:
    """Return a length as people write it.

    Examples
    --------
    >>> length_text(200), length_text(2000)
    ('200 µm', '2 mm')
    """
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


def save_png(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG, whole or not at all, the same bytes for the same picture."""
    path = Path(path)
    with replacing(path) as partial:
        partial.write_bytes(png_bytes(figure))
    return path


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_scale_bar(axes: Any, slide_size: tuple[int, int], mpp: tuple[float, float]) -> None:
    """Draw a scale bar on a white plate in the lower left corner."""
    width, height = slide_size
    length_um = scale_bar_length(width * mpp[0])
    length = length_um / mpp[0]
    margin, thickness = 0.02 * width, max(0.006 * height, 1)
    rows_per_column = mpp[0] / mpp[1]
    plate_height = 0.075 * max(height, 0.4 * width * rows_per_column)
    bottom = height - margin * rows_per_column
    axes.add_patch(
        Rectangle(
            (margin, bottom - plate_height),
            length + 2 * margin,
            plate_height,
            facecolor="white",
            alpha=0.8,
            linewidth=0,
        )
    )
    bar_top = bottom - plate_height * 0.28
    axes.add_patch(Rectangle((2 * margin, bar_top), length, thickness, color="black", linewidth=0))
    axes.text(
        2 * margin + length / 2,
        bar_top - plate_height * 0.08,
        length_text(length_um),
        ha="center",
        va="bottom",
        fontsize=8,
    )
