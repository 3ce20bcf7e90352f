"""What a store says of its tiles, as maps over the slide: values, ranks, colours and threshold.

Nothing here needs napari: a map is made of plain arrays, and a layer of a plain tuple.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from viewers.colours import MAPS, colours, colours_from

if TYPE_CHECKING:
    from tiling.store import SlideStore

LayerData = tuple[Any, dict[str, Any], str]
Scale = Literal["percentile", "raw"]
CLEAR = (0.0, 0.0, 0.0, 0.0)
_SIGNED = frozenset({"contribution"})
"""Values whose 0 means nothing: shown in two colours, clear between them."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """One map of a store.

    Attributes
    ----------
    what
        Name of the values in the store, e.g. ``"attention"``.
    prediction
        Full name of the prediction they belong to; "" for what the tiling said.
    values, ranks
        float32, shape ``(rows, columns)``: as stored, and their percentile rank among the slide's
        tiles, 0 to 1; NaN where there is no tile.
    cell_um, center_um
        Size of a cell, and where the first one's centre lies, (y, x) in µm.
    """

    what: str
    prediction: str
    values: NDArray[np.float32]
    ranks: NDArray[np.float32]
    cell_um: tuple[float, float]
    center_um: tuple[float, float]

    @property
    def title(self) -> str:
        """What the layer list shows."""
        return title_of(self.what, self.prediction)


def store_overlays(store: SlideStore, prediction: str | None = None) -> Iterator[Overlay]:
    """Yield the maps that `store` can show: each prediction's, then the tiling's own.

    Parameters
    ----------
    prediction
        Full name, or slug, of one prediction: its maps alone.
    """
    from tiling.heatmap import percentile_rank, score_map

    grid, mpp = store.grid, store.slide_mpp
    shape = {"extent": grid.extent, "stride": grid.stride, "slide_size": grid.slide_size}
    nodes: list[str | None] = [*store.prediction_names(), None]
    if prediction is not None:
        nodes = [store.prediction(prediction).name]
    for node in nodes:
        found = store.tile_values(node)
        for name in sorted(found, key=lambda n: (n != "attention", n)):
            values = score_map(grid.coords, found[name], **shape)
            ranks = score_map(grid.coords, percentile_rank(found[name]), **shape)
            yield Overlay(
                name,
                node or "",
                values.values,
                ranks.values,
                values.cell_um(mpp),
                values.center_um(mpp),
            )


def overlay_layers(
    store: SlideStore | str | Path, prediction: str | None = None
) -> list[LayerData]:
    """Return a store's maps as one image layer each, a pixel per tile; the first alone is shown.

    Parameters
    ----------
    prediction
        Full name, or slug, of one prediction; all of them, and the tiling's maps, if not given.
    """
    from tiling.store import SlideStore, open_store

    found = store if isinstance(store, SlideStore) else open_store(store)
    overlays = list(store_overlays(found, prediction))
    layers: list[LayerData] = [
        (*_layer(found, overlay, is_shown=number == 0 and bool(overlay.prediction)), "image")
        for number, overlay in enumerate(overlays)
    ]
    return layers if prediction is not None else [*layers, *segmentation_layers(found)]


def segmentation_layers(store: SlideStore) -> list[LayerData]:
    """Return a store's finished segmentations as one multiscale layer each, lazy, not shown yet.

    Their values are probabilities times 255.
    """
    from tiling.probability_map import SCALE, map_names, open_map

    layers: list[LayerData] = []
    for name in map_names(store):
        found = open_map(store, name)
        levels = [found.group[str(level)] for level in range(found.levels)]
        (x, y), (mpp_x, mpp_y) = found.mpp(0), found.grid.slide_mpp
        metadata = {
            "kind": "overlay",
            "store": store.path,
            "slide_id": store.slide_id,
            "prediction": name,
            "what": "segmentation",
            "raw": None,
            "ranks": None,
            "full": float(SCALE),
            "scale": "raw",
            "threshold": 0.0,
            "colours": first_colours("segmentation"),
        }
        arguments = {
            "name": title_of("segmentation", name),
            "multiscale": len(levels) > 1,
            "rgb": False,
            "scale": (y, x),
            "translate": ((y - mpp_y) / 2, (x - mpp_x) / 2),
            "units": ("um", "um"),
            "colormap": colour_map(metadata),
            "contrast_limits": (0.0, float(SCALE)),
            "blending": "translucent",
            "interpolation2d": "nearest",
            "visible": False,
            "metadata": metadata,
        }
        layers.append((levels if len(levels) > 1 else levels[0], arguments, "image"))
    return layers


def _layer(store: SlideStore, overlay: Overlay, *, is_shown: bool) -> tuple[Any, dict[str, Any]]:
    metadata: dict[str, Any] = {
        "kind": "overlay",
        "store": store.path,
        "slide_id": store.slide_id,
        "prediction": overlay.prediction,
        "what": overlay.what,
        "raw": overlay.values,
        "ranks": overlay.ranks,
        "scale": first_scale(overlay.what),
        "threshold": 0.0,
        "colours": first_colours(overlay.what),
    }
    if overlay.what == "attention":
        said = store.prediction(overlay.prediction)
        metadata |= {"attention": overlay.values, "scores": said.scores, "label": said.label}
    data, limits = shown(metadata)
    arguments: dict[str, Any] = {
        "name": overlay.title,
        "scale": overlay.cell_um,
        "translate": overlay.center_um,
        "units": ("um", "um"),
        "colormap": colour_map(metadata),
        "contrast_limits": limits,
        "blending": "translucent",
        "interpolation2d": "nearest",
        "visible": is_shown,
        "metadata": metadata,
    }
    return data, arguments


def tile_box_um(
    x0: float, y0: float, extent: tuple[float, float], mpp: tuple[float, float]
) -> NDArray[np.float64]:
    """Return the outline of a tile, corners (y, x) in µm, shape ``(4, 2)``.

    Level-0 pixel (0, 0) has its centre at 0, as in every layer: a tile at 0 begins half a pixel
    before.

    Parameters
    ----------
    x0, y0, extent
        Top left corner and (width, height), level-0 px.
    mpp
        Pixel size (x, y), µm.

    Examples
    --------
    >>> tile_box_um(0, 100, (10, 20), (0.5, 0.5)).tolist()
    [[49.75, -0.25], [49.75, 4.75], [59.75, 4.75], [59.75, -0.25]]
    """
    left, top = x0 - 0.5, y0 - 0.5
    right, bottom = left + extent[0], top + extent[1]
    corners = [[top, left], [top, right], [bottom, right], [bottom, left]]
    return np.array(corners) * (mpp[1], mpp[0])


def title_of(what: str, prediction: str) -> str:
    """Return how a map is called.

    Examples
    --------
    >>> title_of("tissue_fraction", ""), title_of("attention", "abmil-0a0a0a0a")
    ('tissue fraction', 'attention abmil-0a0a0a0a')
    """
    return f"{what.replace('_', ' ')} {prediction}".strip()


def first_scale(what: str) -> Scale:
    """Return how values of that name are shown first: attention by rank, what has a unit raw."""
    return "percentile" if what == "attention" else "raw"


def first_colours(what: str) -> str:
    """Return the colours that values of that name are shown in first."""
    if what in _SIGNED:
        return "blue-red"
    found = {"attention": "heat", "segmentation": "heat", "tissue_fraction": "tissue"}
    return found.get(what, "viridis")


def shown(metadata: dict[str, Any]) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return the values that are drawn, and the (low, high) that the colours span.

    Ranks span 0 to 1, and so do values that lie within it and come near to it; signed values span
    as far below 0 as above; others from 0, or their lowest, to their highest.
    """
    if metadata["scale"] == "percentile":
        return metadata["ranks"], (0.0, 1.0)
    values: NDArray[np.float32] = metadata["raw"]
    real = values[np.isfinite(values)]
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    if metadata["what"] in _SIGNED:
        high = max(abs(low), abs(high))
        low = -high
    else:
        low = min(low, 0.0)
        if low == 0 and 0.5 < high <= 1:
            high = 1.0
    return values, (low, high if high > low else low + 1.0)


def colour_map(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the layer's colour map: clear without a tile and below the threshold.

    The threshold takes colours away; it does not stretch the others, so that a colour means the
    same value whatever the threshold.
    """
    found = colours_from(colours(metadata["colours"]), metadata["threshold"])
    name = f"wsi-{metadata['colours']}-{metadata['threshold']:.3f}"
    return {"name": name, "colors": found, "nan_color": CLEAR}


def value_text(metadata: dict[str, Any], row: int, column: int) -> str:
    """Return what to say of one cell: the value as stored, and its rank; "" without a tile.

    Examples
    --------
    >>> raw, ranks = np.array([[0.0012, np.nan]]), np.array([[0.975, np.nan]])
    >>> found = {"raw": raw, "ranks": ranks, "what": "attention", "prediction": "abmil-0a0a0a0a"}
    >>> value_text(found, 0, 0), value_text(found, 0, 1), value_text(found, 5, 5)
    ('attention abmil-0a0a0a0a 0.0012, rank 97.5 %', '', '')
    """
    raw = metadata["raw"]
    inside = 0 <= row < raw.shape[0] and 0 <= column < raw.shape[1]
    if not inside or not np.isfinite(raw[row, column]):
        return ""
    title = title_of(metadata["what"], metadata["prediction"])
    rank = float(metadata["ranks"][row, column])
    return f"{title} {raw[row, column]:.3g}, rank {100 * rank:.1f} %"


def colour_names() -> tuple[str, ...]:
    """Return the names of the colours that a map can be shown in."""
    return tuple(MAPS)
