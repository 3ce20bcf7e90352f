"""Draw what a store holds: OME-NGFF heatmap, PNG over the slide, tile sheet, GeoJSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tiling.exchange import tile_features, write_geojson
from tiling.heatmap import ScoreMap, percentile_rank, score_map, write_heatmap
from tiling.slide import Slide
from tiling.store import Prediction, SlideStore
from tiling.tiles import read_tiles
from viewers.colours import heat_colours, tissue_colours
from viewers.render import overview_figure, save_png, sheet_figure

THUMBNAIL_PX = 1600
SHEET_TILES = 8


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where a slide's pictures are; None for what there was nothing to draw of."""

    overview: Path
    sheet: Path | None = None
    geojson: Path | None = None


def draw_store(store: SlideStore, slide: Slide, prediction: Prediction | None, out: Path) -> Drawn:
    """Draw a slide's heatmap, or without a prediction its tissue.

    Writes ``heatmaps/<slide_id>.png``, ``heatmaps/<slide_id>_tiles.png`` and
    ``geojson/<slide_id>.geojson`` below `out`, and the heatmap into the store.
    """
    grid = store.grid
    if prediction is None:
        scores, label, colours = grid.tissue_fraction, "share of tissue", tissue_colours()
        title = f"{store.slide_id}\n{len(store)} tiles{': ' if grid.reason else ''}{grid.reason}"
    else:
        scores, colours = percentile_rank(prediction.attention), heat_colours()
        label = "attention, percentile rank"
        title = f"{store.slide_id}\n{score_text(prediction)}"
    found = _map_of(store, scores)
    figure = overview_figure(
        slide.thumbnail(THUMBNAIL_PX),
        slide_size=store.slide_size,
        mpp=store.slide_mpp,
        title=title,
        found=found if len(store) else None,
        colours=colours,
        label=label,
    )
    overview = save_png(figure, out / "heatmaps" / f"{store.slide_id}.png")
    if prediction is None:
        return Drawn(overview)
    write_heatmap(store, prediction.name, _map_of(store, prediction.attention))
    sheet = save_png(
        _sheet(store, slide, prediction), out / "heatmaps" / f"{store.slide_id}_tiles.png"
    )
    measurements = {"attention": prediction.attention, "attention percentile": 100 * scores}
    collection = tile_features(
        store.slide_id, grid.coords, grid.extent, measurements, slide_size=store.slide_size
    )
    geojson = write_geojson(out / "geojson" / f"{store.slide_id}.geojson", collection)
    return Drawn(overview, sheet, geojson)


def score_text(prediction: Prediction) -> str:
    """Return a prediction in words, e.g. ``"tumor 0.93 · normal 0.07"``."""
    ordered = sorted(prediction.scores.items(), key=lambda item: -item[1])
    return " · ".join(f"{name} {score:.2f}" for name, score in ordered)


def extreme_tiles(
    attention: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the tiles of highest and of lowest attention, without overlap.

    Examples
    --------
    >>> top, bottom = extreme_tiles(np.array([0.2, np.nan, 0.5, 0.1, 0.2]), 2)
    >>> top.tolist(), bottom.tolist()
    ([2, 0], [3, 4])
    """
    real = np.flatnonzero(np.isfinite(attention))
    order = real[np.argsort(-attention[real], kind="stable")]
    top = order[:count]
    bottom = order[len(top) :][::-1][:count]
    return top, bottom


def _map_of(store: SlideStore, scores: NDArray[np.float32]) -> ScoreMap:
    grid = store.grid
    return score_map(
        grid.coords, scores, extent=grid.extent, stride=grid.stride, slide_size=grid.slide_size
    )


def _sheet(store: SlideStore, slide: Slide, prediction: Prediction) -> Figure:
    coords, attention = store.grid.coords, prediction.attention
    ranks = percentile_rank(attention)
    rows = []
    for heading, chosen in zip(
        ("highest attention", "lowest attention"),
        extreme_tiles(attention, SHEET_TILES),
        strict=True,
    ):
        pixels, _ = read_tiles(slide, coords[chosen], store.geometry)
        captions = [
            f"{attention[i]:.2e} · P{100 * ranks[i]:.0f}\nx0 {coords[i][0]}  y0 {coords[i][1]}"
            for i in chosen
        ]
        rows.append((heading, list(zip(pixels, captions, strict=True))))
    title = f"{store.slide_id}   {score_text(prediction)}"
    return sheet_figure([row for row in rows if row[1]], title=title)
