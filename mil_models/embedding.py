"""Turn a store's tiles into embeddings, block by block."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mil_models.encoder_spec import EncoderContract
from mil_models.encoders import Encoder
from mil_models.engines.base import Engine, cpu_lanes
from mil_models.errors import EncoderOutputError
from tiling.errors import SlideReadError
from tiling.grid import TileSpec
from tiling.nodes import Json, Rows, as_json, count_unreadable, node_name
from tiling.store import SlideStore
from tiling.tiles import TILES_PER_BLOCK, TileGeometry, TileStatus, read_tiles

if TYPE_CHECKING:
    from tiling.slide import Slide

BLOCK = 128
"""Tiles in a block, a chunk of the store; a larger forward batch makes a larger block."""
PART = TILES_PER_BLOCK
"""Tiles that a core reads at once for a GPU: a square of neighbours, 13 MB at 256 px."""
PIXEL_PARAMETERS = ("tile_px", "mpp", "edge", "exact")
"""What of a tile specification decides a tile's pixels."""

OnProgress = Callable[[int, int], None]
Block = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What embedding a slide did.

    `computed` is the number of tiles that were not there yet; `busy` the seconds in which the
    encoder had pixels, of a lane's time where it has several.
    """

    name: str
    tiles: int
    bad_tiles: int
    computed: int
    busy: float


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
    if rows.is_complete:
        return EmbedSummary(name, len(rows), int(rows.attrs["bad_tiles"]), 0, 0.0)
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
    bad = count_unreadable(rows.read_status())
    if len(rows) and bad == len(rows):
        raise SlideReadError(
            f"{slide.name}: none of the {bad} tiles can be decoded; copy the damaged file again"
        )
    rows.finish(bad_tiles=bad)
    return EmbedSummary(name, len(rows), bad, computed, busy / lanes)


def made_with(contract: EncoderContract, spec: TileSpec) -> Json:
    """Return all that decides an embedding's numbers, as JSON: the encoder's part, the tiles'."""
    tiles = spec.to_dict()
    return as_json(
        {"encoder": asdict(contract), "tiles": {key: tiles[key] for key in PIXEL_PARAMETERS}}
    )


def _tiles_in(rows: Rows, blocks: Sequence[int]) -> int:
    return sum(rows.rows_of(b).stop - rows.rows_of(b).start for b in blocks)


@dataclass(frozen=True, slots=True)
class PendingBlock:
    """A block that is being read: its pixels, and the status of its parts once they are there."""

    block: int
    pixels: NDArray[np.uint8]
    parts: list[Future[NDArray[np.uint8]]]

    def status(self) -> NDArray[np.uint8]:
        """Wait for the pixels; return the status of each tile."""
        return np.concatenate([part.result() for part in self.parts])


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

    def read_by(self, pool: ThreadPoolExecutor, block: int) -> PendingBlock:
        """Let the threads of `pool` read a block, each a part of it at a time."""
        coords = self.coords[self.rows.rows_of(block)]
        tile_px = self.geometry.tile_px
        pixels = np.empty((len(coords), tile_px, tile_px, 3), np.uint8)

        def read(start: int) -> NDArray[np.uint8]:
            rows = slice(start, start + PART)
            return read_tiles(self.slide, coords[rows], self.geometry, out=pixels[rows])[1]

        parts = [pool.submit(read, start) for start in range(0, len(coords), PART)]
        return PendingBlock(block, pixels, parts)

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

    futures = [engine.pool.submit(one, block) for block in missing]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:  # another slide may be at work in the same lanes
        for future in futures:
            future.cancel()
        wait(futures)


def _embed_ahead(
    work: SlideTiles, engine: Engine, missing: Sequence[int]
) -> Generator[tuple[int, float], None, None]:
    """Embed blocks on a GPU, which never waits while the cores read the next blocks.

    As many tiles are under way as the cores can read at once, and a block more. Yields (tiles,
    seconds in which the encoder had pixels).
    """
    lanes = cpu_lanes()
    with ThreadPoolExecutor(lanes) as readers, ThreadPoolExecutor(1) as writer:
        later = iter(missing)
        ahead = 1 + -(-lanes * PART // work.rows.block)
        pending = deque(work.read_by(readers, block) for block in islice(later, ahead))
        read: deque[tuple[int, NDArray[np.uint8]]] = deque()
        waited = 0.0

        def pixels_of_blocks() -> Generator[NDArray[np.uint8], None, None]:
            nonlocal waited
            while pending:
                asked = time.perf_counter()
                block = pending.popleft()
                read.append((block.block, block.status()))
                waited += time.perf_counter() - asked
                pending.extend(work.read_by(readers, b) for b in islice(later, 1))
                yield block.pixels

        writing: Future[int] | None = None
        started = time.perf_counter()
        try:
            for embeddings in engine.embed_each(pixels_of_blocks()):
                if writing is not None:
                    writing.result()
                number, status = read.popleft()
                writing = writer.submit(work.write, number, embeddings, status)
                now = time.perf_counter()
                yield len(status), max(now - started - waited, 0.0)
                started, waited = now, 0.0
            if writing is not None:
                writing.result()
        finally:
            readers.shutdown(cancel_futures=True)
