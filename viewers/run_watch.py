"""What a run has written of a slide so far, as maps that grow. Nothing here needs napari."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.errors import WSIError
from tiling.grid import TileGrid
from tiling.heatmap import percentile_rank, score_map
from tiling.nodes import Rows
from tiling.source import read_source
from tiling.store import Prediction, SlideStore, iter_stores, open_store
from tiling.tiles import TileStatus
from viewers.layers import LayerData, attention_layers
from viewers.overlays import colour_map, first_colours, shown

DONE, GROWING = "tiles done", "attention so far"


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """What is there by now.

    Attributes
    ----------
    done
        How many tiles are embedded.
    layers
        The attention so far, where the run scores what it has; else the tiles that are done.
    text
        The score so far; "" without one.
    """

    done: int
    layers: list[LayerData]
    text: str


class RunWatch:
    """Looks into the store of one slide while a run fills it; for a thread of its own.

    Parameters
    ----------
    out
        Output folder of the run.
    slide
        Path of the slide.
    """

    def __init__(self, out: str, slide: str) -> None:
        self._out, self._slide = out, slide
        self._store: SlideStore | None = None
        self._grid: TileGrid | None = None
        self._seen = (-1, -1)

    def look(self) -> Growth | None:
        """Return what is there; None where nothing is new, or there is no store yet."""
        store = self._find_store()
        if store is None:
            return None
        try:
            return self._growth(store)
        except (WSIError, OSError, KeyError, ValueError):
            return None  # a node that is being made at this moment: the next look sees it

    def _growth(self, store: SlideStore) -> Growth | None:
        names = store.embedding_names(finished=False)
        if not names:
            return None
        rows = store.rows(f"embeddings/{names[-1]}")
        done = _is_done(rows)
        said = store.growing_prediction()
        seen = (int(done.sum()), 0 if said is None else int(said.attrs["tiles"]))
        if seen == self._seen:
            return None
        self._seen = seen
        if self._grid is None:
            self._grid = store.grid
        if said is None:
            return Growth(seen[0], [_done_layer(store, self._grid, done)], "")
        layers = [_growing_layer(store, self._grid, said)]
        scores = " · ".join(f"{name} {score:.3f}" for name, score in said.scores.items())
        return Growth(seen[0], layers, f"{scores} from {seen[1]} tiles so far")

    def finished(self, shown_already: set[str]) -> tuple[Prediction, list[LayerData]] | None:
        """Return the last of the predictions that are not shown yet, and the layers of all those.

        None where there is none.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        found = self._find_store()
        if found is None:
            return None
        store = open_store(found.path)
        new = [name for name in store.prediction_names() if name not in shown_already]
        if not new:
            return None
        layers = [layer for name in new for layer in attention_layers(store, name)]
        return store.prediction(new[-1]), layers

    def _find_store(self) -> SlideStore | None:
        """Return the store of the slide that is run, as soon as there is one."""
        if self._store is None:
            wanted = read_source(self._slide).quick_hash
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # one that is just being made
                try:
                    stores = [s for s in iter_stores(self._out) if s.source.quick_hash == wanted]
                except WSIError:
                    return None
            self._store = next(iter(stores), None)
        return self._store


def _is_done(rows: Rows) -> NDArray[np.bool_]:
    done: NDArray[np.bool_] = rows.read_status() != TileStatus.NOT_DONE
    return done


def _placed(grid: TileGrid, values: NDArray[np.floating]) -> Any:
    return score_map(
        grid.coords, values, extent=grid.extent, stride=grid.stride, slide_size=grid.slide_size
    )


def _arguments(store: SlideStore, found: Any) -> dict[str, Any]:
    return {
        "scale": found.cell_um(store.slide_mpp),
        "translate": found.center_um(store.slide_mpp),
        "units": ("um", "um"),
        "blending": "translucent",
        "interpolation2d": "nearest",
    }


def _done_layer(store: SlideStore, grid: TileGrid, done: NDArray[np.bool_]) -> LayerData:
    found = _placed(grid, done.astype(float))
    colours = [[0.0, 0.0, 0.0, 0.0], [0.0, 0.9, 1.0, 0.35]]
    arguments = {
        "name": DONE,
        "colormap": {"name": DONE, "colors": colours, "nan_color": (0.0, 0.0, 0.0, 0.0)},
        "contrast_limits": (0.0, 1.0),
        "metadata": {"kind": DONE},
        **_arguments(store, found),
    }
    return found.values, arguments, "image"


def _growing_layer(store: SlideStore, grid: TileGrid, said: Prediction) -> LayerData:
    raw = _placed(grid, said.attention)
    ranks = _placed(grid, percentile_rank(said.attention))
    metadata: dict[str, Any] = {
        "kind": "overlay",
        "is_growing": True,
        "store": store.path,
        "slide_id": store.slide_id,
        "prediction": said.name,
        "what": "attention",
        "raw": raw.values,
        "ranks": ranks.values,
        "scale": "percentile",
        "threshold": 0.0,
        "colours": first_colours("attention"),
        "attention": raw.values,
        "scores": said.scores,
        "label": said.label,
    }
    data, limits = shown(metadata)
    arguments = {
        "name": GROWING,
        "colormap": colour_map(metadata),
        "contrast_limits": limits,
        "metadata": metadata,
        **_arguments(store, raw),
    }
    return data, arguments, "image"
