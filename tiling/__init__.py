"""Slides, tissue, tiles, annotations, the slide store. Names load on first use: import is cheap."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiling.annotation_files import read_annotations, write_annotations
    from tiling.annotations import Annotation, area_fractions, area_mask, tumour_area
    from tiling.as_zarr import slide_as_zarr
    from tiling.comparison import compare_readers
    from tiling.errors import SlideError, StoreError, WSIError
    from tiling.grid import TileGrid, TileSpec, tile_grid
    from tiling.heatmap import score_map
    from tiling.slide import Slide, open_slide
    from tiling.store import SlideStore, open_store
    from tiling.tiles import level_array, tile_array
    from tiling.tissue import TissueMask, tissue_mask

_HOMES = {
    "Annotation": "annotations",
    "Slide": "slide",
    "SlideError": "errors",
    "SlideStore": "store",
    "StoreError": "errors",
    "TileGrid": "grid",
    "TileSpec": "grid",
    "TissueMask": "tissue",
    "WSIError": "errors",
    "area_fractions": "annotations",
    "area_mask": "annotations",
    "compare_readers": "comparison",
    "level_array": "tiles",
    "open_slide": "slide",
    "open_store": "store",
    "read_annotations": "annotation_files",
    "score_map": "heatmap",
    "slide_as_zarr": "as_zarr",
    "tile_array": "tiles",
    "tile_grid": "grid",
    "tissue_mask": "tissue",
    "tumour_area": "annotations",
    "write_annotations": "annotation_files",
}

__all__ = [
    "Annotation",
    "Slide",
    "SlideError",
    "SlideStore",
    "StoreError",
    "TileGrid",
    "TileSpec",
    "TissueMask",
    "WSIError",
    "area_fractions",
    "area_mask",
    "compare_readers",
    "level_array",
    "open_slide",
    "open_store",
    "read_annotations",
    "score_map",
    "slide_as_zarr",
    "tile_array",
    "tile_grid",
    "tissue_mask",
    "tumour_area",
    "write_annotations",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
