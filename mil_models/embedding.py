"""Turn a store's tiles into embeddings, block by block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mil_models.encoders import Encoder
from mil_models.registry import EncoderContract
from tiling.errors import SlideReadError
from tiling.grid import TileSpec
from tiling.nodes import Json, Rows, as_json, count_unreadable, node_name
from tiling.store import SlideStore
from tiling.tiles import TileStatus, read_tiles

if TYPE_CHECKING:
    from tiling.slide import Slide

BLOCK = 128
"""Tiles in a block, a chunk of the store; a larger forward batch makes a larger block."""
READING_THREADS = 2
PIXEL_PARAMETERS = ("tile_px", "mpp", "edge", "exact")
"""What of a tile specification decides a tile's pixels."""

OnProgress = Callable[[int, int], None]
Block = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding a slide did.

    `computed` is the number of tiles that were not there yet; `waited` the share of the time that
    the encoder waited for pixels.
    """

    name: str
    tiles: int
    bad_tiles: int
    computed: int
    seconds: float
    waited: float


def embed(
    store: SlideStore,
    slide: Slide,
    encoder: Encoder,
    *,
    allow_mismatch: bool = False,
    on_progress: OnProgress | None = None,
) -> EmbedSummary:
    """Embed the tiles of `store` that are not embedded yet.

    A tile that cannot be decoded gets an embedding of NaN and is counted. A run that was killed
    and started again ends with the same bytes.

    Parameters
    ----------
    allow_mismatch
        Take tiles that the encoder was not made for; how they differ is kept with the embeddings
        as `allowed_mismatch`.
    on_progress
        Called with (tiles done, tiles in all) after each block.

    Raises
    ------
    EncoderMismatchError
        The encoder was not made for such tiles, and `allow_mismatch` is false.
    SlideReadError
        Not one tile could be decoded.
    """
    spec = store.spec
    contract = encoder.contract
    mismatch = contract.check_tiles(spec.tile_px, spec.mpp, allow_mismatch=allow_mismatch)
    identity = made_with(contract, spec)
    name = node_name(contract.name, identity)
    block = -(-BLOCK // contract.batch) * contract.batch
    rows = store.create_rows(
        f"embeddings/{name}",
        row_shape=(contract.width,),
        dtype=np.float32,
        block=block,
        fill=np.nan,
        attrs=identity | ({"allowed_mismatch": mismatch} if mismatch else {}),
    )
    started = time.perf_counter()
    if rows.is_complete:
        return EmbedSummary(name, len(rows), int(rows.attrs["bad_tiles"]), 0, 0.0, 0.0)
    missing = rows.missing_blocks()
    done = len(rows) - _tiles_in(rows, missing)
    computed, waited = 0, 0.0
    read = _blocks_ahead if encoder.device.type != "cpu" else _blocks_in_turn
    for index, (pixels, status), wait in read(slide, store, rows, missing):
        waited += wait
        embeddings = encoder.embed(pixels)
        embeddings[status == TileStatus.UNREADABLE] = np.nan
        rows.write(index, embeddings, status)
        computed += len(status)
        if on_progress is not None:
            on_progress(done + computed, len(rows))
    bad = count_unreadable(np.asarray(rows.status[:]))
    if len(rows) and bad == len(rows):
        raise SlideReadError(f"{slide.name}: none of the {bad} tiles can be decoded")
    rows.finish(bad_tiles=bad)
    seconds = time.perf_counter() - started
    return EmbedSummary(name, len(rows), bad, computed, seconds, waited / max(seconds, 1e-9))


def made_with(contract: EncoderContract, spec: TileSpec) -> Json:
    """Return all that decides an embedding's numbers, as JSON: the encoder's part, the tiles'."""
    tiles = spec.to_dict()
    return as_json(
        {"encoder": asdict(contract), "tiles": {key: tiles[key] for key in PIXEL_PARAMETERS}}
    )


def _tiles_in(rows: Rows, blocks: Sequence[int]) -> int:
    return sum(rows.rows_of(b).stop - rows.rows_of(b).start for b in blocks)


def _blocks_in_turn(
    slide: Slide, store: SlideStore, rows: Rows, missing: Sequence[int]
) -> Iterator[tuple[int, Block, float]]:
    """Read a block with all threads, then hand it on: reading and encoder share the cores."""
    coords, geometry = store.grid.coords, store.geometry
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for index in missing:
            started = time.perf_counter()
            parts = np.array_split(coords[rows.rows_of(index)], READING_THREADS)
            found = list(pool.map(lambda part: read_tiles(slide, part, geometry), parts))
            block = np.concatenate([p for p, _ in found]), np.concatenate([s for _, s in found])
            yield index, block, time.perf_counter() - started


def _blocks_ahead(
    slide: Slide, store: SlideStore, rows: Rows, missing: Sequence[int]
) -> Iterator[tuple[int, Block, float]]:
    """Read one block ahead while the device works on the last one."""
    coords, geometry = store.grid.coords, store.geometry

    def begin(index: int) -> Future[Block]:
        return pool.submit(read_tiles, slide, coords[rows.rows_of(index)], geometry)

    with ThreadPoolExecutor(1) as pool:
        ahead = begin(missing[0]) if missing else None
        for position, index in enumerate(missing):
            started = time.perf_counter()
            block = ahead.result() if ahead is not None else begin(index).result()
            wait = time.perf_counter() - started
            ahead = begin(missing[position + 1]) if position + 1 < len(missing) else None
            yield index, block, wait
