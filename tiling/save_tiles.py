"""Stream tile pixels into the store (`--save-tiles`): optional, no later stage needs them."""

from __future__ import annotations

from collections.abc import Callable

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from tiling.errors import SlideReadError
from tiling.nodes import Rows, count_unreadable
from tiling.slide import Slide, SlideRef
from tiling.store import SlideStore
from tiling.tiles import TILES_PER_BLOCK, TileGeometry, block_lengths, read_tiles

READING_THREADS = 2


def save_tiles(
    store: SlideStore, slide: Slide, *, on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Write every tile's pixels to the node ``tiles`` and return how many could not be decoded.

    One Dask task reads one shard's tiles and is its only writer; shards that are there already
    are left alone. Memory stays at a few shards, whatever the slide's size.

    Parameters
    ----------
    on_progress
        Called with (tiles done, tiles in all) after each shard.

    Raises
    ------
    SlideReadError
        Not one tile could be decoded.
    StoreMismatchError
        The store's tiles were made otherwise.
    """
    geometry = store.geometry
    rows = store.create_rows(
        "tiles",
        row_shape=(geometry.tile_px, geometry.tile_px, 3),
        dtype=np.uint8,
        block=TILES_PER_BLOCK,
        fill=0,
        attrs={"spec": store.spec.to_dict(), "reader": slide.reader},
        lossless=True,
    )
    if rows.is_complete:
        return int(rows.attrs["bad_tiles"])
    missing = rows.missing_blocks()
    if missing:
        statuses = da.map_blocks(
            _save_block,
            dtype=np.uint8,
            meta=np.empty(0, np.uint8),
            chunks=(block_lengths(len(rows), rows.block),),
            ref=slide.ref,
            coords=store.grid.coords,
            geometry=geometry,
            rows=rows,
            on_done=_Counter(len(rows), on_progress, len(rows) - _pending(rows, missing)),
        )
        statuses.blocks[missing].compute(scheduler="threads", num_workers=READING_THREADS)
    bad = count_unreadable(rows.read_status())
    if len(rows) and bad == len(rows):
        raise SlideReadError(
            f"{slide.name}: none of the {bad} tiles can be decoded; copy the damaged file again"
        )
    rows.finish(bad_tiles=bad)
    return bad


class _Counter:
    """Counts tiles as tasks finish and tells the caller."""

    def __init__(
        self, total: int, on_progress: Callable[[int, int], None] | None, done: int
    ) -> None:
        self.total, self.done, self.on_progress = total, done, on_progress

    def add(self, tiles: int) -> None:
        self.done += tiles
        if self.on_progress is not None:
            self.on_progress(self.done, self.total)


def _pending(rows: Rows, missing: list[int]) -> int:
    return sum(rows.rows_of(b).stop - rows.rows_of(b).start for b in missing)


def _save_block(
    *,
    ref: SlideRef,
    coords: NDArray[np.int64],
    geometry: TileGeometry,
    rows: Rows,
    on_done: _Counter,
    block_id: tuple[int, ...],
) -> NDArray[np.uint8]:
    here = rows.rows_of(block_id[0])
    pixels, status = read_tiles(ref.open(), coords[here], geometry)
    rows.write(block_id[0], pixels, status)
    on_done.add(len(status))
    return status
