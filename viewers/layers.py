"""Slides and stores as napari layer data: plain tuples, made without napari or Qt."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiling.slide import Slide
    from tiling.store import SlideStore

LayerData = tuple[Any, dict[str, Any], str]
"""(data, keyword arguments, layer type), as napari's readers return it."""


def slide_layers(
    slide: Slide | str | Path, *, mpp: float | tuple[float, float] | None = None
) -> list[LayerData]:
    """Return a slide as one multiscale RGB image layer, lazy, in µm.

    Parameters
    ----------
    slide
        An open slide, or where one is.
    mpp
        Pixel size in µm, in place of what the slide states.

    Returns
    -------
    One image layer, its levels :class:`viewers.levels.SlideLevel`. Where no pixel size can be
    believed its unit is the pixel.
    """
    from tiling.resolution import objective_power
    from tiling.slide import Slide, open_slide
    from tiling.urls import public_url
    from viewers.levels import SlidePyramid

    found = slide if isinstance(slide, Slide) else open_slide(slide, mpp=mpp)
    levels = SlidePyramid(found).levels
    resolution = found.resolution
    known = resolution.mpp is not None and not resolution.problem
    size = resolution.mpp if known and resolution.mpp is not None else (1.0, 1.0)
    arguments: dict[str, Any] = {
        "name": Path(found.name).stem,
        "rgb": True,
        "multiscale": len(levels) > 1,
        "scale": (size[1], size[0]),
        "units": ("um", "um") if known else ("pixel", "pixel"),
        "metadata": {
            "kind": "slide",
            "path": public_url(found.path),
            "slide_id": Path(found.name).stem,
            "mpp": resolution.mpp if known else None,
            "mpp_source": resolution.source,
            "objective": objective_power(found.properties),
        },
    }
    return [(levels if len(levels) > 1 else levels[0], arguments, "image")]


def attention_layers(
    store: SlideStore | str | Path, prediction: str | None = None
) -> list[LayerData]:
    """Return a store's attention as one image layer per prediction, a pixel per tile.

    The colour is the percentile rank, clear where it is low; raw attention is in the layer's
    metadata.

    Parameters
    ----------
    prediction
        Name of one prediction; all of them if not given.
    """
    from viewers.overlays import overlay_layers

    found = overlay_layers(store, prediction)
    return [layer for layer in found if layer[1]["metadata"]["what"] == "attention"]


def store_layers(path: str | Path) -> list[LayerData]:
    """Return the slide that a store was made from, and its overlays over it.

    A slide that is no longer where it was, or is another file now, is left out with a warning.
    """
    from tiling.errors import WSIError
    from tiling.slide import open_slide
    from tiling.store import check_source, open_store
    from viewers.overlays import overlay_layers

    store = open_store(path)
    layers: list[LayerData] = []
    try:
        slide = open_slide(store.slide_path, mpp=store.slide_mpp)
        check_source(store, slide)
        layers += slide_layers(slide)
        layers[0][1]["metadata"]["slide_id"] = store.slide_id
    except WSIError as err:
        warnings.warn(
            f"{store.slide_id}: shown without its slide; open the slide from where it is now, "
            f"and the map lies over it ({err})",
            stacklevel=2,
        )
    return layers + overlay_layers(store)
