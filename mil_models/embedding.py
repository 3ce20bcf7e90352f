"""Turn a store's tiles into embeddings, block by block."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mil_models.encoders import Encoder
from mil_models.engines.base import Engine, cpu_lanes
from mil_models.errors import EncoderOutputError
from mil_models.registry import EncoderContract
from tiling.errors import SlideReadError
from tiling.grid import TileSpec
from tiling.nodes import Json, Rows, as_json, count_unreadable, node_name
from tiling.store import SlideStore
from tiling.tiles import TileGeometry, TileStatus, read_tiles

if TYPE_CHECKING:
    from tiling.slide import Slide

BLOCK = 128
"""Tiles in a block, a chunk of the store; a larger forward batch makes a larger block."""
BLOCKS_AHEAD = 4
"""Blocks that are read while a GPU works: 25 MB each at 256 px."""
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
    EncoderOutputError
        The encoder gave something that is no number for a tile that could be decoded.
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
    computed, busy = 0, 0.0
    work = SlideTiles(slide, store, rows)
    if encoder.device.type == "cpu":
        lanes, blocks = encoder.engine.lanes, _embed_in_lanes(work, encoder.engine, missing)
    else:
        lanes, blocks = 1, _embed_ahead(work, encoder.engine, missing)
    with closing(blocks):
        for tiles, seconds in blocks:
            computed += tiles
            busy += seconds
            if on_progress is not None:
                on_progress(done + computed, len(rows))
    bad = count_unreadable(np.asarray(rows.status[:]))
    if len(rows) and bad == len(rows):
        raise SlideReadError(
            f"{slide.name}: none of the {bad} tiles can be decoded; copy the damaged file again"
        )
    rows.finish(bad_tiles=bad)
    seconds = time.perf_counter() - started
    waited = max(1 - busy / max(lanes * seconds, 1e-9), 0.0)
    return EmbedSummary(name, len(rows), bad, computed, seconds, waited)


def made_with(contract: EncoderContract, spec: TileSpec) -> Json:
    """Return all that decides an embedding's numbers, as JSON: the encoder's part, the tiles'."""
    tiles = spec.to_dict()
    return as_json(
        {"encoder": asdict(contract), "tiles": {key: tiles[key] for key in PIXEL_PARAMETERS}}
    )


def _tiles_in(rows: Rows, blocks: Sequence[int]) -> int:
    return sum(rows.rows_of(b).stop - rows.rows_of(b).start for b in blocks)


@dataclass(frozen=True, slots=True)
class SlideTiles:
    """The tiles of a slide and the node that takes their embeddings."""

    slide: Slide
    store: SlideStore
    rows: Rows
    coords: NDArray[np.int64] = field(init=False)
    geometry: TileGeometry = field(init=False)

    def __post_init__(self) -> None:
        grid = self.store.grid
        object.__setattr__(self, "coords", grid.coords)
        object.__setattr__(self, "geometry", TileGeometry.of(grid))

    def read(self, block: int) -> Block:
        """Return the pixels and the status of a block's tiles."""
        return read_tiles(self.slide, self.coords[self.rows.rows_of(block)], self.geometry)

    def write(self, block: int, embeddings: NDArray[np.float32], status: NDArray[np.uint8]) -> int:
        """Write a block, tiles that could not be decoded as NaN; return how many tiles it has."""
        unreadable = status == TileStatus.UNREADABLE
        wrong = ~np.isfinite(embeddings).all(axis=1) & ~unreadable
        if wrong.any():
            x0, y0 = self.coords[self.rows.rows_of(block)][wrong][0].tolist()
            raise EncoderOutputError(
                f"{self.slide.name}: the encoder gave NaN or infinity for {int(wrong.sum())} "
                f"tiles, the first at level-0 ({x0}, {y0}); check its weights, or use "
                "--precision float32"
            )
        embeddings[unreadable] = np.nan
        self.rows.write(block, embeddings, status)
        return len(status)


def _embed_in_lanes(
    work: SlideTiles, engine: Engine, missing: Sequence[int]
) -> Generator[tuple[int, float], None, None]:
    """Embed blocks on a CPU, one lane a core: each reads a block, encodes it and writes it.

    Reading and encoding share the cores, so nothing is gained by reading ahead, and a lane that
    does one after the other keeps its core's caches. Yields (tiles, seconds of the encoder).
    """

    def one(block: int) -> tuple[int, float]:
        pixels, status = work.read(block)
        started = time.perf_counter()
        embeddings = engine.embed(pixels)
        seconds = time.perf_counter() - started
        return work.write(block, embeddings, status), seconds

    with ThreadPoolExecutor(engine.lanes) as pool:
        futures = [pool.submit(one, block) for block in missing]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _embed_ahead(
    work: SlideTiles, engine: Engine, missing: Sequence[int]
) -> Generator[tuple[int, float], None, None]:
    """Embed blocks on a GPU, which never waits while the cores read the next blocks."""
    with ThreadPoolExecutor(cpu_lanes()) as readers, ThreadPoolExecutor(1) as writer:
        ahead = deque(readers.submit(work.read, b) for b in missing[:BLOCKS_AHEAD])
        writing: Future[int] | None = None
        try:
            for position, block in enumerate(missing):
                pixels, status = ahead.popleft().result()
                for later in missing[position + BLOCKS_AHEAD : position + BLOCKS_AHEAD + 1]:
                    ahead.append(readers.submit(work.read, later))
                started = time.perf_counter()
                embeddings = engine.embed(pixels)
                seconds = time.perf_counter() - started
                if writing is not None:
                    writing.result()
                writing = writer.submit(work.write, block, embeddings, status)
                yield len(status), seconds
            if writing is not None:
                writing.result()
        finally:
            readers.shutdown(cancel_futures=True)
