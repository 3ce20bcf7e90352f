"""Stores with made-up embeddings, of which two classes can be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from mil_models.encoders import Encoder, create_encoder
from tests.unit.tiling.test_store import make_store
from tiling import SlideStore, TileSpec
from tiling.nodes import node_name

MakeStores = Callable[..., list[SlideStore]]


@pytest.fixture(scope="session")
def tiny() -> Encoder:
    return create_encoder(
        "resnet10t", random_weights=True, device="cpu", batch_size=4, engine="torch",
        precision="float32",
    )  # fmt: skip


@pytest.fixture
def make_stores(tissue_path: Path, tmp_path: Path, tiny: Encoder) -> MakeStores:
    """Return a function that makes stores a, b, …; every second one holds a bright instance."""

    def make(count: int, *, folder: str = "stores", **changes: object) -> list[SlideStore]:
        contract = asdict(tiny.contract) | changes
        stores = []
        for index in range(count):
            rng = np.random.default_rng(index)
            name = chr(ord("a") + index)
            path = tmp_path / folder / f"{name}.zarr"
            path.parent.mkdir(exist_ok=True)
            store = make_store(tissue_path, path, TileSpec(256, 0.5, min_tissue=0.5), name)
            attrs = {
                "encoder": contract,
                "tiles": {"tile_px": 256, "mpp": 0.5, "edge": "drop", "exact": False},
            }
            width = tiny.contract.width
            rows = store.create_rows(
                f"embeddings/{node_name('resnet10t', attrs)}", row_shape=(width,),
                dtype=np.float32, block=128, fill=np.nan, attrs=attrs,
            )  # fmt: skip
            values = rng.normal(size=(len(store), width)).astype(np.float32)
            values[5, :32] += 4 * (index % 2)
            rows.write(0, values, np.ones(len(store), np.uint8))
            rows.finish(bad_tiles=0)
            stores.append(store)
        return stores

    return make


@pytest.fixture
def write_labels(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write
