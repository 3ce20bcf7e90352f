"""napari's reader: slides and slide stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from viewers.layers import LayerData, slide_layers, store_layers

ReadFunction = Callable[[str | Sequence[str]], list[Any]]
ONLY_SLIDES = frozenset({".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"})
"""Suffixes that nothing but a slide has: one that cannot be opened is told, not passed on."""
NOTHING: list[Any] = [(None,)]
"""napari's way of saying that a file was read and there is no layer."""


def get_reader(path: str | Sequence[str]) -> ReadFunction | None:
    """Return a function that reads `path`, or None if it is not ours. Never raises."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(_is_ours(p) for p in paths):
        return None
    return _read


def _is_ours(path: str) -> bool:
    from tiling.errors import UnsoundSlideError, WSIError
    from tiling.slide import open_slide

    try:
        if not _is_store(path):
            open_slide(path).close()
    except UnsoundSlideError:
        return True  # a slide, and broken: reading it says so
    except (WSIError, OSError):
        return Path(path).suffix.lower() in ONLY_SLIDES and Path(path).exists()
    return True


def _is_store(path: str) -> bool:
    from tiling.readers.kinds import is_zarr

    if not is_zarr(path):
        return False  # without importing zarr, which takes longer than opening a slide
    from tiling.store import is_store

    return is_store(path)


def _read(path: str | Sequence[str]) -> list[Any]:
    """Read `path`; in a window, say what is wrong with a file and go on with the others."""
    from tiling.errors import WSIError

    paths = [path] if isinstance(path, str) else list(path)
    layers: list[Any] = []
    for one in paths:
        try:
            found = read_layers(one)
            layers += _without_open_slides(found) if _is_store(one) else found
        except (WSIError, OSError) as err:
            if not _has_window():
                raise
            from napari.utils.notifications import show_error

            show_error(f"{Path(one).name} was not opened: {err}")
    if _has_window():
        attend(layers)
    return layers or NOTHING


def read_layers(path: str) -> list[LayerData]:
    """Return the layers of a slide or a slide store; both may be folders called ``*.zarr``.

    A slide without a pixel size is shown with the one that was told of it before.
    """
    if _is_store(path):
        return store_layers(path)
    layers = slide_layers(path)
    if layers[0][1]["metadata"]["mpp"] is None:
        from viewers.pixel_sizes import remembered_mpp

        mpp = remembered_mpp(path)
        return layers if mpp is None else slide_layers(path, mpp=mpp)
    return layers


def _without_open_slides(layers: list[LayerData]) -> list[LayerData]:
    """Leave out a store's slide where it is open already: its maps lie over that."""
    if not _has_window():
        return layers
    import napari

    def identity(said: dict[str, Any]) -> tuple[str, Any] | None:
        is_slide = said.get("kind") == "slide" and said["mpp"] is not None
        return (os.path.realpath(said["path"]), tuple(said["mpp"])) if is_slide else None

    shown = [identity(layer.metadata) for layer in napari.current_viewer().layers]
    return [x for x in layers if (own := identity(x[1]["metadata"])) is None or own not in shown]


def attend(layers: list[LayerData]) -> None:
    """Let the window tell what cannot be decoded, draw previews, ask for missing pixel sizes."""
    from napari.utils.notifications import show_warning

    from viewers.napari_plugin.pixel_size_dialog import ask_later

    for data, arguments, _ in layers:
        said = arguments["metadata"]
        if said.get("kind") == "slide":
            level = data[0] if isinstance(data, list) else data
            level.pyramid.on_unreadable = show_warning
            preview = level.pyramid.start_preview()
            if preview is not None:
                from viewers.napari_plugin.preview_progress import follow

                follow(level.pyramid, preview)
            if said["mpp"] is None:
                ask_later(said["path"])


def _has_window() -> bool:
    """Whether napari shows a window that can ask and tell."""
    import sys

    napari = sys.modules.get("napari")
    return napari is not None and napari.current_viewer() is not None
