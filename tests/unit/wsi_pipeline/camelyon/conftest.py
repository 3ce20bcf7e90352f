"""A small archive as CAMELYON16's, of which every tile's truth is known."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import MultiPolygon, box

from mil_models.lesions import DOWNSAMPLE
from tests.unit.tiling.test_store import make_store
from tiling import TileSpec
from tiling.annotations import area_fractions, area_mask
from tiling.nodes import node_name
from tiling.store import SlideStore, iter_stores
from wsi_pipeline.cli import run_tokens

WIDTH, TILE = 16, 128
SIZE = (2051, 1537)
"""Of tissue_path, whose tissue is the 64 tiles from (512, 256)."""
LESIONS = {
    "tumor_001": [(512, 256, 1024, 256)],
    "tumor_002": [(512, 768, 1024, 256)],
    "tumor_003": [(640, 256, 256, 1024), (1408, 256, 128, 128)],
    "tumor_004": [(1024, 256, 384, 1024)],
}
"""x0, y0, width and height in level-0 px, whole tiles; one is a group of isolated cells."""
NORMAL = [f"normal_00{n}" for n in range(1, 5)]


@dataclass(frozen=True)
class Archive:
    """Slides, their stores (in `out`), outlines, masks at level 5, and the table of labels."""

    root: Path

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def stores(self) -> dict[str, SlideStore]:
        return {store.slide_id: store for store in iter_stores(self.out)}


def lesion_area(name: str) -> MultiPolygon:
    boxes = [box(x, y, x + w, y + h) for x, y, w, h in LESIONS.get(name, [])]
    return MultiPolygon(boxes)


def write_embeddings(store: SlideStore, seed: int) -> None:
    """Write noise, of which four numbers are higher in tiles of tumour."""
    contract = {"encoder": {"name": "made up", "width": WIDTH}, "tiles": {"tile_px": TILE}}
    rows = store.create_rows(
        f"embeddings/{node_name('made-up', contract)}", row_shape=(WIDTH,), dtype=np.float32,
        block=128, fill=np.nan, attrs=contract,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(store), WIDTH)).astype(np.float32)
    share = area_fractions(lesion_area(store.slide_id), store.grid.coords, store.grid.extent)
    values[share > 0.5, :4] += 3
    rows.write(0, values, np.ones(len(store), np.uint8))
    rows.finish(bad_tiles=0)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, tissue_path: Path) -> Archive:
    root = tmp_path_factory.mktemp("archive")
    for folder in ("slides", "annotations", "masks", "out/stores"):
        (root / folder).mkdir(parents=True)
    lines = []
    for index, name in enumerate([*NORMAL, *LESIONS]):
        slide = root / "slides" / f"{name}.tif"
        slide.write_bytes(tissue_path.read_bytes() + b"\0" * index)  # each another file
        path = root / "out" / "stores" / f"{name}.zarr"
        write_embeddings(make_store(slide, path, TileSpec(TILE, 0.5, min_tissue=0.5), name), index)
        area = lesion_area(name)
        if not area.is_empty:
            outlines = [{"name": f"{i}", "vertices": list(p.exterior.coords)[:-1]}
                        for i, p in enumerate(area.geoms)]  # fmt: skip
            (root / "annotations" / f"{name}.json").write_text(json.dumps({"positive": outlines}))
            size = SIZE[0] // DOWNSAMPLE, SIZE[1] // DOWNSAMPLE
            mask = area_mask(area, size, DOWNSAMPLE)
            Image.fromarray(mask).save(root / "masks" / f"{name}_mask.png")
        label = name.partition("_")[0]
        lines.append(f"slides/{name}.tif,{name},{name},{label},{'a' if index % 2 else 'b'}")
    header = "path,slide_id,patient_id,label,site"
    (root / "manifest.csv").write_text("\n".join([header, *lines]) + "\n")
    reference = [f"{n},{'Tumor' if n in LESIONS else 'Normal'}" for n in [*NORMAL, *LESIONS]]
    (root / "reference.csv").write_text("\n".join(reference) + "\n")
    return Archive(root)


def wsi(*tokens: object) -> int:
    return run_tokens([str(token) for token in tokens])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def model(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weakly trained: additive MIL on the slides' labels, two folds."""
    folder = tmp_path_factory.mktemp("weak") / "model"
    flags = ["--head", "additive", "--folds", "2", "--epochs", "8", "--learning-rate", "5e-3",
             "--device", "cpu", "--json"]  # fmt: skip
    labels = archive.root / "manifest.csv"
    assert wsi("train", "--stores", archive.out, "--labels", labels, "-o", folder, *flags) == 0
    return folder
