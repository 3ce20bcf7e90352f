"""Open napari on a slide and its heatmap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tiling.slide import open_slide
from tiling.store import check_source, open_store
from viewers.errors import ViewerError
from viewers.layers import slide_layers
from viewers.napari_plugin.reader import attend, read_layers
from viewers.overlays import overlay_layers

if TYPE_CHECKING:
    from napari import Viewer

DOCKS = ("Slide view", "Overlays")
"""What is opened with the window; the others are in its Plugins menu."""
INSTALL = "pip install 'wsi-pipeline[gui]'"


def create_viewer(
    path: str | Path,
    store: str | Path | None = None,
    *,
    mpp: float | None = None,
    show: bool = True,
) -> Viewer:
    """Return a napari viewer with a slide, its heatmap if `store` has one, and a scale bar.

    Whether it reads off the window's thread, napari's settings say, or ``NAPARI_ASYNC``.

    Parameters
    ----------
    path
        A slide, or a slide store, which brings its slide and its heatmaps.
    store
        The slide's store; its pixel size holds for both.
    mpp
        Without a store: pixel size in µm, in place of what the slide states.

    Raises
    ------
    ViewerError
        napari or a Qt binding is not installed.
    StoreMismatchError
        `store` was made from another slide.
    """
    try:
        import napari
        from napari.layers import Layer

        import_qt()
    except ImportError as err:
        raise ViewerError(f"the viewer is not installed ({err}); {INSTALL}") from err
    from tiling.store import is_store

    if store is not None:
        opened = open_store(store)  # its tiles were laid with its pixel size: both are shown so
        slide = open_slide(path, mpp=opened.slide_mpp)
        check_source(opened, slide)
        layers = slide_layers(slide) + overlay_layers(opened)
        layers[0][1]["metadata"]["slide_id"] = opened.slide_id
    elif is_store(path):
        layers = read_layers(str(path))
    else:
        layers = read_layers(str(path)) if mpp is None else slide_layers(path, mpp=mpp)
    viewer = napari.Viewer(title=f"{Path(path).name} · research use only", show=show)
    attend(layers)
    for layer in layers:
        viewer.add_layer(Layer.create(*layer))
    viewer.layers.selection.active = viewer.layers[0]  # keys and status are the slide's
    viewer.canvas.overlays.scale_bar.visible = True
    for dock in DOCKS:
        viewer.window.add_plugin_dock_widget("wsi-pipeline", dock)
    viewer.reset_view()
    return viewer


def view(path: str | Path, store: str | Path | None = None, *, mpp: float | None = None) -> None:
    """Open napari as :func:`create_viewer` does, and return when the window is closed.

    It reads off the window's thread unless ``NAPARI_ASYNC=0`` is set: panning blocks the window
    several times less. napari's settings are not touched: they are the user's and would keep it.
    """
    os.environ.setdefault("NAPARI_ASYNC", "1")
    create_viewer(path, store, mpp=mpp)
    import napari

    napari.run()


def import_qt() -> None:
    """Import the Qt binding that is installed; raise `ImportError` if there is none."""
    from qtpy import QtWidgets  # noqa: F401
