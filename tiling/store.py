"""The slide store: one Zarr v3 group per slide, where all stages meet.

A stage reads what an earlier stage wrote and adds nodes of its own; it never rewrites another's.
Rows of a node are written in blocks, and a block is done when its chunk exists, so that any stage
resumes after a kill. The layout is described in ``docs/architecture.md``.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import BloscCodec
from zarr.errors import GroupNotFoundError
from zarr.storage import LocalStore

from tiling.errors import (
    MissingNodeError,
    StoreError,
    StoreMismatchError,
    StoreOpenError,
    StoreSchemaError,
)
from tiling.grid import TileGrid, TileSpec
from tiling.nodes import ATTRIBUTES, Json, Rows, as_json, attributes_of, slug_of
from tiling.readers.kinds import is_zarr
from tiling.resolution import objective_power
from tiling.slide import Slide
from tiling.source import Source, read_source
from tiling.tiles import TileGeometry
from tiling.tissue import TissueMask
from tiling.urls import is_url, public_url

SCHEMA_VERSION = 1
GROUPS = ("grid", "embeddings", "status", "predictions", "heatmaps")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one model said of one slide.

    Attributes
    ----------
    scores
        Probability of each class, in the model's order; or what else the model says (a risk, a
        number).
    attention
        float32, shape ``(N,)``: attention of each tile to the predicted class, sums to 1 over the
        tiles in the bag; NaN for tiles that were left out.
    attrs
        The model's identity and all else that was recorded.
    """

    name: str
    scores: dict[str, float]
    attention: NDArray[np.float32]
    attrs: Json

    @property
    def label(self) -> str:
        """The answer in a word: the model's own, or the class of the highest score."""
        if "label" in self.attrs:
            return str(self.attrs["label"])
        return max(self.scores, key=lambda name: self.scores[name])


class SlideStore:
    """One slide's store; made by :func:`create_store`, opened by :func:`open_store`."""

    def __init__(self, group: zarr.Group, path: str) -> None:
        self._group = group
        self.path = path
        self.attrs: Json = attributes_of(group)

    @property
    def slide_id(self) -> str:
        """The slide's unique name in its run."""
        return str(self.attrs["slide_id"])

    @property
    def source(self) -> Source:
        """Identity of the slide file."""
        return Source(**self.attrs["source"])

    @property
    def slide_path(self) -> str:
        """Where the slide was when the store was made; a URL without credentials or query."""
        return str(self.attrs["slide"]["path"])

    @property
    def slide_size(self) -> tuple[int, int]:
        """(width, height) of level 0."""
        return int(self.attrs["slide"]["width"]), int(self.attrs["slide"]["height"])

    @property
    def slide_mpp(self) -> tuple[float, float]:
        """Pixel size (x, y) at level 0 that the tiles were laid with, µm."""
        return float(self.attrs["slide"]["mpp_x"]), float(self.attrs["slide"]["mpp_y"])

    @property
    def spec(self) -> TileSpec:
        """What a tile is."""
        return TileSpec(**self.attrs["tiles"]["spec"])

    @property
    def grid(self) -> TileGrid:
        """The tiles, as :func:`tiling.tile_grid` returned them."""
        tiles = self.attrs["tiles"]
        return TileGrid(
            spec=self.spec,
            coords=self._read("grid/coords"),
            tissue_fraction=self._read("grid/tissue_fraction"),
            extent=(tiles["extent"][0], tiles["extent"][1]),
            stride=(tiles["stride"][0], tiles["stride"][1]),
            slide_size=self.slide_size,
            slide_mpp=self.slide_mpp,
            candidates=tiles["candidates"],
            reason=tiles["reason"],
        )

    @property
    def geometry(self) -> TileGeometry:
        """What reading this store's tiles needs to know."""
        return TileGeometry.of(self.grid)

    def __len__(self) -> int:
        return int(self.attrs["tiles"]["count"])

    def __repr__(self) -> str:
        return f"<SlideStore {self.slide_id}: {len(self)} tiles>"

    def create_rows(
        self,
        name: str,
        *,
        row_shape: tuple[int, ...],
        dtype: DTypeLike,
        block: int,
        fill: float,
        attrs: Json,
        lossless: bool = False,
    ) -> Rows:
        """Create the node `name` (``tiles`` or ``embeddings/<name>``), or open it to go on.

        Parameters
        ----------
        row_shape
            Shape of one tile's row.
        block
            Rows written together; one chunk, or one shard if `lossless`. Numbers are stored as
            they are: compressed, embeddings take 8 % less and seven times as long to read.
        fill
            Value of what is not written.
        attrs
            What the node was made with. A node that exists must have been made with the same.
        lossless
            Store images: one chunk per row, compressed by LZ4, a block of them in one shard.

        Raises
        ------
        StoreMismatchError
            The node exists and was made with other attributes.
        """
        status_name = f"status/{name.rpartition('/')[2]}"
        if name not in self._group:
            shape = (len(self), *row_shape)
            chunks = (1 if lossless else block, *row_shape)
            # The status is created first: a node that exists always has one.
            self._group.create_array(
                status_name, shape=shape[:1], dtype=np.uint8, chunks=(block,), fill_value=0,
                compressors=None, overwrite=True,
            )  # fmt: skip
            self._group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=chunks,
                shards=(block, *row_shape) if lossless else None,
                compressors=BloscCodec(cname="lz4", shuffle="noshuffle") if lossless else None,
                fill_value=fill,
                attributes={ATTRIBUTES: {**attrs, "block": block}},
            )
        rows = self.rows(name)
        recorded = {key: rows.attrs.get(key) for key in attrs}
        wanted = as_json(attrs)
        if recorded != wanted:
            changed = [key for key in wanted if recorded[key] != wanted[key]]
            raise StoreMismatchError(
                f"{self.slide_id}: {name} was made with other {', '.join(changed)} "
                f"({recorded[changed[0]]!r}, now {wanted[changed[0]]!r}); use another output folder"
            )
        return rows

    def rows(self, name: str) -> Rows:
        """Return the node `name`, finished or not.

        Raises
        ------
        MissingNodeError
            There is none.
        """
        if name not in self._group:
            raise MissingNodeError(f"{self.slide_id}: the store holds no {name}")
        data = self._array(name)
        status = self._array(f"status/{name.rpartition('/')[2]}")
        return Rows(name, data, status, int(attributes_of(data)["block"]))

    def embedding_names(self, *, finished: bool = True) -> list[str]:
        """Return the names of the finished embeddings, or of all of them, sorted."""
        names = _children(self._group, "embeddings")
        if not finished:
            return names
        return [n for n in names if self.rows(f"embeddings/{n}").is_complete]

    def embeddings(self, name: str | None = None) -> Rows:
        """Return finished embeddings by full name, by slug, or the only ones.

        Raises
        ------
        MissingNodeError
            There are none of that name, or several and the name does not tell them apart.
        """
        full = self._full_name("embeddings", name, self.embedding_names())
        return self.rows(f"embeddings/{full}")

    def prediction_names(self) -> list[str]:
        """Return the names of the finished predictions, sorted."""
        names = _children(self._group, "predictions")
        groups = {n: cast(zarr.Group, self._group[f"predictions/{n}"]) for n in names}
        return [n for n, group in groups.items() if attributes_of(group).get("complete")]

    def whole_slide_predictions(self) -> list[str]:
        """Return the names of the finished predictions that speak of all tiles, sorted."""
        return [n for n in self.prediction_names() if not self.prediction_attrs(n).get("within")]

    def prediction(self, name: str | None = None) -> Prediction:
        """Return a prediction by full name; or, of the whole slide, by slug or the only one.

        Raises
        ------
        MissingNodeError
            There is none of that name, or several and the name does not tell them apart.
        """
        full = name or ""
        if full not in self.prediction_names():
            full = self._full_name("predictions", name, self.whole_slide_predictions())
        attrs = self.prediction_attrs(full)
        return Prediction(
            full,
            {str(k): float(v) for k, v in attrs["scores"].items()},
            self._read(f"predictions/{full}/attention"),
            attrs,
        )

    def prediction_attrs(self, name: str) -> Json:
        """Return what was recorded with the prediction of that full name, its scores among it."""
        return attributes_of(cast(zarr.Group, self._group[f"predictions/{name}"]))

    def write_prediction(
        self,
        name: str,
        *,
        scores: Mapping[str, float],
        attention: NDArray[np.float32],
        attrs: Json,
        others: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Prediction:
        """Write what a model said; its name holds the model's hash, so the same name is the same.

        `attention` has shape ``(N,)``, NaN for tiles that were left out of the bag; so have the
        `others` that the model says of its tiles, by name, e.g. ``contribution``.
        """
        values = {"attention": attention, **(others or {})}
        for key, value in values.items():
            if value.shape != (len(self),):
                raise ValueError(f"{key} has shape {value.shape}, the store {len(self)} tiles")
        group = self._group.require_group(f"predictions/{name}")
        for key, value in values.items():
            self._write(f"predictions/{name}/{key}", value.astype(np.float32), fill=np.nan)
        recorded = {**attrs, "scores": dict(scores), "complete": True}
        group.attrs[ATTRIBUTES] = as_json(recorded)
        return self.prediction(name)

    def write_growing_prediction(
        self, name: str, *, scores: Mapping[str, float], attention: NDArray[np.float32], attrs: Json
    ) -> None:
        """Write what a model says of the tiles that are there so far.

        :meth:`prediction` does not know it: the finished one of that name takes its place, with
        the same bytes as if this had never been. A reader at the same time sees one or the next.

        Parameters
        ----------
        attention
            Shape ``(N,)``, NaN for tiles that are not there yet.
        """
        array = f"predictions/{name}/attention"
        if array in self._group:
            self._array(array)[...] = attention.astype(np.float32)
        else:
            self._write(array, attention.astype(np.float32), fill=np.nan)
        group = cast(zarr.Group, self._group[f"predictions/{name}"])
        group.attrs[ATTRIBUTES] = as_json({**attrs, "scores": dict(scores), "complete": False})

    def growing_prediction(self) -> Prediction | None:
        """Return what a run that is at work says so far; None if there is no such run."""
        for name in _children(self._group, "predictions"):
            attrs = self.prediction_attrs(name)
            if attrs.get("complete") is False:
                scores = {str(k): float(v) for k, v in attrs["scores"].items()}
                attention = self._read(f"predictions/{name}/attention")
                return Prediction(name, scores, attention, attrs)
        return None

    def tile_values(self, prediction: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Return all that was stored of the tiles as one number each, by name.

        Parameters
        ----------
        prediction
            Full name of a prediction, whose attention is among the values; without it, what the
            tiling said: the share of tissue, and of quality what was measured.

        Returns
        -------
        Arrays of shape ``(N,)``, by the names they have in the store.
        """
        node = "grid" if prediction is None else f"predictions/{prediction}"
        group = cast(zarr.Group, self._group[node])
        return {
            name: np.asarray(array[:], np.float32)
            for name, array in sorted(group.arrays())
            if array.shape == (len(self),)
        }

    def image_group(self, name: str, *, folder: str = "heatmaps") -> zarr.Group:
        """Return the group ``<folder>/<name>`` of an image, made if there is none."""
        return self._group.require_group(f"{folder}/{name}")

    def image_names(self, folder: str) -> list[str]:
        """Return the names of the images in a folder of the store, finished or not, sorted."""
        return _children(self._group, folder) if folder in self._group else []

    def sweep(self) -> int:
        """Remove what a killed writer left behind (``*.partial``); return how many files.

        Call only as the store's one writer.
        """
        store = self._group.store
        if not isinstance(store, LocalStore):
            return 0
        strays = list(store.root.rglob("*.partial"))
        for stray in strays:
            stray.unlink(missing_ok=True)
        return len(strays)

    def _full_name(self, kind: str, name: str | None, names: list[str]) -> str:
        if name is not None and name in names:
            return name
        matching = [n for n in names if name is None or slug_of(n) == name]
        if len(matching) == 1:
            return matching[0]
        wanted = f"{kind} called {name!r}" if name else kind
        if not matching:
            found = f"; it has {', '.join(names)}" if names else ""
            remedy = "embed" if kind == "embeddings" else "predict"
            raise MissingNodeError(
                f"{self.slide_id}: the store holds no finished {wanted}{found}; run `wsi {remedy}`"
            )
        raise MissingNodeError(
            f"{self.slide_id}: several {kind} fit; name one of {', '.join(matching)}"
        )

    def _array(self, name: str) -> zarr.Array[Any]:
        array = cast("zarr.Array[Any]", self._group[name])
        return array.with_config({"write_empty_chunks": True, "order": "C"})

    def _read(self, name: str) -> NDArray[Any]:
        return np.asarray(self._array(name)[:])

    def _write(self, name: str, values: NDArray[Any], *, fill: float) -> None:
        array = self._group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=tuple(max(n, 1) for n in values.shape),
            fill_value=fill,
            overwrite=True,
            config={"write_empty_chunks": True},
        )
        if values.size:
            array[...] = values


def open_store(path: str | Path) -> SlideStore:
    """Open a slide store at a local path or URL.

    Raises
    ------
    StoreOpenError
        There is none, or its writer was killed before it was whole.
    StoreSchemaError
        It was written with a schema that this version does not read.
    """
    text = str(path)
    try:
        group = zarr.open_group(text, mode="r+", zarr_format=3)
        attrs = attributes_of(group)
    except (GroupNotFoundError, FileNotFoundError, NotADirectoryError, ValueError) as err:
        raise StoreOpenError(f"{text}: no slide store here; make one with `wsi tile`") from err
    version = attrs.get("schema_version")
    if version is None:
        raise StoreOpenError(f"{text}: not a whole slide store; run `wsi tile` again")
    if version != SCHEMA_VERSION:
        raise StoreSchemaError(
            f"{text}: schema version {version}, this version reads {SCHEMA_VERSION}; "
            "update wsi-pipeline or make the store anew"
        )
    return SlideStore(group, text)


def is_store(path: str | Path) -> bool:
    """Whether a slide store is at `path`, whole, of whatever schema version."""
    if not is_zarr(path):
        return False
    try:
        open_store(path)
    except StoreSchemaError:
        return True
    except StoreError:
        return False
    return True


def create_store(
    path: str | Path, slide: Slide, grid: TileGrid, mask: TissueMask, *, slide_id: str
) -> SlideStore:
    """Write a new store of `slide`'s tiles, in place of an unfinished one.

    The attributes that make it a store are written last: a writer killed half-way leaves nothing
    that :func:`open_store` would take for one.
    """
    text = str(path)
    attrs = _store_attributes(slide, grid, mask, slide_id)
    if not is_url(text) and Path(text).exists():
        shutil.rmtree(text)  # an unfinished one: callers open a whole one instead
    group = zarr.open_group(text, mode="w", zarr_format=3)
    for name in GROUPS:
        group.create_group(name)
    store = SlideStore(group, text)
    store._write("grid/coords", grid.coords, fill=0)
    store._write("grid/tissue_fraction", grid.tissue_fraction, fill=np.nan)
    group.attrs[ATTRIBUTES] = as_json(attrs)
    return open_store(text)


def check_store(store: SlideStore, slide: Slide, spec: TileSpec) -> None:
    """Make sure that `store` holds the tiles of `slide` by `spec`.

    Raises
    ------
    StoreMismatchError
        The file's bytes, its pixel size or a tile parameter changed; the message says which.
    """
    check_source(store, slide)
    remedy = "use another output folder, or the parameters the store was made with"
    if slide.mpp != store.slide_mpp:
        raise StoreMismatchError(
            f"{store.slide_id}: mpp is {slide.mpp}, the store was made with {store.slide_mpp}; "
            f"{remedy}"
        )
    wanted, recorded = spec.to_dict(), store.spec.to_dict()
    for key, value in wanted.items():
        if recorded[key] != value:
            raise StoreMismatchError(
                f"{store.slide_id}: {key} is {value}, the store was made with {recorded[key]}; "
                f"{remedy}"
            )


def check_source(store: SlideStore, slide: Slide) -> None:
    """Make sure that `slide` is the file that `store` was made from.

    Raises
    ------
    StoreMismatchError
        Its bytes are others.
    """
    source = read_source(slide.path, storage_options=slide.ref.storage_options)
    if source.quick_hash != store.source.quick_hash:
        raise StoreMismatchError(
            f"{store.slide_id}: {slide.path} is not the file the store was made from; bring that "
            "back, or use another output folder"
        )


def _store_attributes(slide: Slide, grid: TileGrid, mask: TissueMask, slide_id: str) -> Json:
    source = read_source(slide.path, storage_options=slide.ref.storage_options)
    path = public_url(slide.path) if is_url(slide.path) else str(Path(slide.path).resolve())
    return {
        "schema_version": SCHEMA_VERSION,
        "slide_id": slide_id,
        "source": asdict(source),
        "slide": {
            "path": path,
            "width": slide.size[0],
            "height": slide.size[1],
            "mpp_x": grid.slide_mpp[0],
            "mpp_y": grid.slide_mpp[1],
            "mpp_source": slide.resolution.source,
            "mpp_candidates": [str(candidate) for candidate in slide.resolution.candidates],
            "objective_power": objective_power(slide.properties),
            "vendor": slide.vendor,
            "reader": slide.reader,
            "reader_version": slide.reader_version,
            "decoder": slide.decoder,
            "levels": [
                {"width": w, "height": h, "downsample": d}
                for (w, h), d in zip(slide.level_sizes, slide.level_downsamples, strict=True)
            ],
            "warnings": list(slide.warnings),
        },
        "tissue": {**mask.parameters, "area_mm2": round(mask.area_mm2, 6)},
        "tiles": {
            "spec": grid.spec.to_dict(),
            "count": len(grid),
            "candidates": grid.candidates,
            "extent": list(grid.extent),
            "stride": list(grid.stride),
            "effective_mpp": list(grid.effective_mpp),
            "reason": grid.reason,
        },
    }


def _children(group: zarr.Group, name: str) -> list[str]:
    return sorted(cast(zarr.Group, group[name]).keys())


def iter_stores(folder: str | Path) -> Iterator[SlideStore]:
    """Open every whole store of a run's output folder, or of its ``stores`` folder, by name.

    A store whose writer was killed is left out with a warning.

    Raises
    ------
    StoreOpenError
        There is no store in it.
    """
    root = Path(folder)
    root = root / "stores" if (root / "stores").is_dir() else root
    paths = sorted(root.glob("*.zarr"))
    if not paths:
        raise StoreOpenError(f"{folder}: no slide stores here; make them with `wsi embed`")
    for path in paths:
        try:
            store = open_store(path)
        except StoreOpenError as err:
            warnings.warn(f"{err}; left out", stacklevel=2)
            continue
        yield store
