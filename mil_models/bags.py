"""Bags of embeddings, read from the stores when they are needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from mil_models.errors import EmbeddingValueError, EmptyBagError, ModelMismatchError
from mil_models.labels import LabelledSlide
from tiling.nodes import Json, Rows
from tiling.store import SlideStore
from tiling.tiles import TileStatus

READ_AHEAD = 2
"""Bags read before they are asked for, each by a thread."""
FINITE_ROWS = 256
"""Rows looked at together: they stay in the processor's cache."""
CONTRACT_KEYS = ("encoder", "tiles")


@dataclass(frozen=True, slots=True)
class Draw:
    """At most `limit` instances of a bag, drawn without repeats as `seed` decides."""

    limit: int
    seed: int

    def of(self, count: int) -> Tensor | None:
        """Return which of `count` instances are drawn, shape ``(limit,)``; None if all are."""
        if count <= self.limit:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)[: self.limit]


@dataclass(frozen=True, slots=True)
class Bag:
    """The real instances of a slide, or of all slides of a patient.

    Attributes
    ----------
    values
        Embeddings, float32, shape ``(N, D)``.
    coords
        x0, y0 of the tiles at level 0, int64, shape ``(N, 2)``; the slides of a patient lie side
        by side, left to right, so that no two tiles are in one place.
    """

    values: Tensor
    coords: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def sampled(self, draw: Draw) -> Bag:
        """Return the instances that are drawn."""
        drawn = draw.of(len(self))
        return self if drawn is None else Bag(self.values[drawn], self.coords[drawn])

    def to(self, device: torch.device) -> Bag:
        """Return the bag on `device`."""
        if device.type == "cpu":
            return self
        return Bag(self.values.to(device), self.coords.to(device))


@dataclass(frozen=True, slots=True)
class BagPart:
    """One slide of a bag but for its values: little enough to be kept when they are not.

    Attributes
    ----------
    keep
        Which rows are real, shape ``(all rows,)``.
    coords
        x0, y0 of these in the bag's frame, int64, shape ``(N, 2)``.
    """

    store: SlideStore
    rows: Rows
    keep: NDArray[np.bool_]
    coords: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def nbytes(self) -> int:
        """Memory of its values and places when they are read."""
        return len(self) * int(self.rows.data.shape[1]) * 4 + self.coords.nbytes

    def values(self, wanted: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Read the embeddings ``(N, D)`` of the real rows, or of those `wanted` among them.

        Raises
        ------
        EmbeddingValueError
            One holds NaN or infinity.
        """
        rows = None if len(self) == len(self.keep) else np.flatnonzero(self.keep)
        if wanted is not None:
            rows = wanted if rows is None else rows[wanted]
        values = np.asarray(self.rows.read(rows), np.float32)
        wrong = np.flatnonzero(~_finite(values))
        if len(wrong):
            raise _no_numbers(self.store, self.rows, wrong if rows is None else rows[wrong])
        return values


class BagCache:
    """The bags of a training set; those that fit into `limit_bytes` are read once.

    Of the others everything but the embeddings is kept, so that reading one again is reading just
    these.

    Parameters
    ----------
    limit_bytes
        :func:`cache_bytes` if not given.
    """

    def __init__(self, embeddings: str | None = None, *, limit_bytes: int | None = None) -> None:
        self._name = embeddings
        self._room = cache_bytes() if limit_bytes is None else limit_bytes
        self._bags: dict[str, Bag] = {}
        self._parts: dict[str, list[BagPart]] = {}
        self._keeping = threading.Lock()

    def bag(self, slide: LabelledSlide, draw: Draw | None = None) -> Bag:
        """Return the bag of a slide or patient, unreadable tiles left out, or a draw from it."""
        bag = self._bags.get(slide.slide_id)
        if bag is None:
            parts = self._parts_of(slide)
            size = sum(part.nbytes for part in parts)
            if size > self._room:
                return _read(parts, draw)
            bag = _read(parts)
            with self._keeping:  # several threads read ahead
                if slide.slide_id not in self._bags and size <= self._room:
                    self._bags[slide.slide_id] = bag
                    self._room -= size
        return bag if draw is None else bag.sampled(draw)

    def stream(
        self, wanted: Iterable[tuple[LabelledSlide, Draw | None]], *, ahead: int = READ_AHEAD
    ) -> Generator[Bag, None, None]:
        """Yield bags, or draws from them, in order; threads read on while the caller works."""
        with ExitStack() as stack:
            pool: ThreadPoolExecutor | None = None
            pending: deque[Bag | Future[Bag]] = deque()
            for slide, draw in wanted:
                if slide.slide_id in self._bags:
                    pending.append(self.bag(slide, draw))
                else:
                    if pool is None:
                        pool = stack.enter_context(ThreadPoolExecutor(max(ahead, 1), "bags"))
                    pending.append(pool.submit(self.bag, slide, draw))
                if len(pending) > ahead:
                    yield _ready(pending.popleft())
            while pending:
                yield _ready(pending.popleft())

    def _parts_of(self, slide: LabelledSlide) -> list[BagPart]:
        found = self._parts.get(slide.slide_id)
        if found is None:
            found = bag_parts([(store, store.embeddings(self._name)) for store in slide.stores])
            self._parts[slide.slide_id] = found
        return found


def cache_bytes() -> int:
    """Return how much memory embeddings may take between epochs: a quarter of what is free."""
    return int(psutil.virtual_memory().available) // 4


def joined_bag(stores: Sequence[tuple[SlideStore, Rows]]) -> Bag:
    """Return the bag of one slide, or of several that lie side by side.

    Raises
    ------
    EmptyBagError, EmbeddingValueError
        Of one of the slides.
    """
    return _read(bag_parts(stores))


def slide_bag(store: SlideStore, rows: Rows) -> tuple[Bag, NDArray[np.bool_]]:
    """Return the bag of one slide, and which of the store's tiles ``(N,)`` are in it.

    Raises
    ------
    EmptyBagError, EmbeddingValueError
        As :func:`read_bag`.
    """
    parts = bag_parts([(store, rows)])
    return _read(parts), parts[0].keep


def bag_parts(stores: Sequence[tuple[SlideStore, Rows]]) -> list[BagPart]:
    """Return the slides of a bag, side by side; raises `EmptyBagError` as `real_rows` does."""
    parts, left = [], 0
    for store, rows in stores:
        keep = real_rows(store, rows)
        parts.append(BagPart(store, rows, keep, store.grid.coords[keep] + np.array([left, 0])))
        if len(stores) > 1:
            left += int(store.attrs["slide"]["width"])
    return parts


def _read(parts: Sequence[BagPart], draw: Draw | None = None) -> Bag:
    """Read a bag, or only what is drawn of it."""
    drawn = None if draw is None else draw.of(sum(len(part) for part in parts))
    if drawn is None:
        found = [part.values() for part in parts]
        places = [part.coords for part in parts]
        if len(parts) == 1:
            return Bag(torch.from_numpy(found[0]), torch.from_numpy(places[0]))
        return Bag(
            torch.from_numpy(np.concatenate(found)), torch.from_numpy(np.concatenate(places))
        )
    wanted = drawn.numpy()
    values = np.empty((len(wanted), parts[0].rows.data.shape[1]), np.float32)
    coords = np.empty((len(wanted), 2), np.int64)
    start = 0
    for part in parts:
        here = (start <= wanted) & (wanted < start + len(part))
        values[here] = part.values(wanted[here] - start)
        coords[here] = part.coords[wanted[here] - start]
        start += len(part)
    return Bag(torch.from_numpy(values), torch.from_numpy(coords))


def _ready(bag: Bag | Future[Bag]) -> Bag:
    return bag if isinstance(bag, Bag) else bag.result()


def check_readable(slides: Iterable[LabelledSlide], embeddings: str | None) -> None:
    """Make sure, before hours of training, that every slide has an embedding.

    Raises
    ------
    EmptyBagError
        Not one tile of a slide could be read.
    """
    for slide in slides:
        for store in slide.stores:
            real_rows(store, store.embeddings(embeddings))


def real_rows(store: SlideStore, rows: Rows) -> NDArray[np.bool_]:
    """Return which embeddings are real ``(N,)``: those of tiles that could be decoded.

    Raises
    ------
    EmptyBagError
        Not one is.
    """
    keep: NDArray[np.bool_] = rows.read_status() != TileStatus.UNREADABLE
    if not keep.any():
        reason = store.grid.reason or "no tile could be decoded"
        raise EmptyBagError(f"{store.slide_id}: no embedding ({reason}); leave the slide out")
    return keep


def read_bag(store: SlideStore, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return all embeddings ``(N, D)`` of a slide and which of them are real ``(N,)``.

    Raises
    ------
    EmptyBagError
        Not one is.
    EmbeddingValueError
        The embedding of a tile that could be decoded holds NaN or infinity.
    """
    keep = real_rows(store, rows)
    values = np.asarray(rows.read(), np.float32)
    wrong = np.flatnonzero(keep & ~_finite(values))
    if len(wrong):
        raise _no_numbers(store, rows, wrong)
    return values, keep


def _finite(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows are numbers throughout, shape ``(N,)``."""
    found = np.empty(len(values), np.bool_)
    for start in range(0, len(values), FINITE_ROWS):
        here = slice(start, start + FINITE_ROWS)
        found[here] = np.isfinite(values[here]).all(axis=1)
    return found


def _no_numbers(store: SlideStore, rows: Rows, wrong: NDArray[np.int64]) -> EmbeddingValueError:
    x0, y0 = store.grid.coords[wrong[0]].tolist()
    return EmbeddingValueError(
        f"{store.slide_id}: {len(wrong)} embeddings hold NaN or infinity, though their tiles were "
        f"read, one at level-0 ({x0}, {y0}); delete {rows.name}, embed again"
    )


def contract_of(rows: Rows) -> Json:
    """Return what embeddings were made with: the encoder's and the tiles' contract."""
    return {key: rows.attrs[key] for key in CONTRACT_KEYS}


def common_contract(stores: list[SlideStore], embeddings: str | None) -> Json:
    """Return what all stores' embeddings were made with.

    Raises
    ------
    ModelMismatchError
        They differ; features of different contracts never meet in one data set.
    """
    first = contract_of(stores[0].embeddings(embeddings))
    for store in stores[1:]:
        differing = differences(first, contract_of(store.embeddings(embeddings)))
        if differing:
            raise ModelMismatchError(
                f"{store.slide_id}: embeddings made otherwise than {stores[0].slide_id}'s "
                f"({'; '.join(differing)}); embed all slides alike"
            )
    return first


def differences(wanted: Json, found: Json) -> list[str]:
    """Return the fields in which two contracts differ, with both values.

    A field that only one of them has differs too.
    """
    return [
        f"{section} {key}: {found[section].get(key)!r}, not {wanted[section].get(key)!r}"
        for section in CONTRACT_KEYS
        for key in {**wanted[section], **found[section]}
        if key not in wanted[section]
        or key not in found[section]
        or found[section][key] != wanted[section][key]
    ]
