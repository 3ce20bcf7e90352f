"""Find what `wsi view` shows: the slide, and the store that belongs to it."""

from __future__ import annotations

from pathlib import Path

from tiling.slide import read_source
from tiling.store import iter_stores
from wsi_pipeline.errors import UsageError


def view_slide(slide: str, *, stores: Path | None = None, mpp: float | None = None) -> None:
    """Open napari on a slide or a slide store, and return when the window is closed."""
    from viewers.launch import view

    store = find_store(slide, stores) if stores is not None else None
    view(slide, store, mpp=mpp)


def find_store(slide: str, stores: Path) -> Path:
    """Return the path of the store in `stores` that was made from `slide`.

    Raises
    ------
    UsageError
        There is none.
    """
    wanted = read_source(slide).quick_hash
    for store in iter_stores(stores):
        if store.source.quick_hash == wanted:
            return Path(store.path)
    raise UsageError(f"{stores}: holds no store of {slide}; make one with `wsi run`")
