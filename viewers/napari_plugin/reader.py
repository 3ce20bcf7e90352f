"""napari's reader: slides and slide stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from viewers.layers import LayerData, slide_layers, store_layers

ReadFunction = Callable[[str | Sequence[str]], list[LayerData]]


def get_reader(path: str | Sequence[str]) -> ReadFunction | None:
    """Return a function that reads `path`, or None if it is not ours. Never raises."""
    paths = [path] if isinstance(path, str) else list(path)
    if not paths or not all(_is_ours(p) for p in paths):
        return None
    return _read


def _is_ours(path: str) -> bool:
    from tiling.errors import WSIError
    from tiling.slide import open_slide
    from tiling.store import is_store

    try:
        if not is_store(path):
            open_slide(path).close()
    except (WSIError, OSError):
        return False
    return True


def _read(path: str | Sequence[str]) -> list[LayerData]:
    paths = [path] if isinstance(path, str) else list(path)
    return [layer for one in paths for layer in read_layers(one)]


def read_layers(path: str) -> list[LayerData]:
    """Return the layers of a slide or a slide store; both may be folders called ``*.zarr``."""
    from tiling.store import is_store

    return store_layers(path) if is_store(path) else slide_layers(path)
