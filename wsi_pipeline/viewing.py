"""Find what `wsi view` shows: the slide, and the store that belongs to it."""

from __future__ import annotations

from pathlib import Path

from tiling.source import read_source
from tiling.store import SlideStore, iter_stores
from wsi_pipeline.errors import UsageError


def view_slide(slide: str, *, stores: Path | None = None, mpp: float | None = None) -> None:
    """Open napari on a slide or a slide store, and return when the window is closed.

    Raises
    ------
    UsageError
        `stores` holds no store of the slide, or one that was made with another `mpp`.
    """
    from viewers.launch import view

    store = None if stores is None else find_store(slide, stores)
    if store is not None and mpp is not None and store.slide_mpp != (mpp, mpp):
        raise UsageError(f"slide_mpp={mpp}: {store.slide_id}'s store was made with "
                         f"{store.slide_mpp}; leave --slide-mpp out")  # fmt: skip
    view(slide, None if store is None else store.path, mpp=mpp)


def find_store(slide: str, stores: Path) -> SlideStore:
    """Return the store in `stores` that was made from `slide`.

    Raises
    ------
    UsageError
        There is none.
    """
    wanted = read_source(slide).quick_hash
    for store in iter_stores(stores):
        if store.source.quick_hash == wanted:
            return store
    raise UsageError(f"{stores}: holds no store of {slide}; make one with `wsi run`")
