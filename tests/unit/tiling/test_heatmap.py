from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from ome_zarr_models.v05.image import Image as OMEImage

from tests.unit.tiling.test_store import make_store
from tiling import TileSpec, open_store
from tiling.exchange import tile_features, write_geojson
from tiling.heatmap import percentile_rank, score_map, write_heatmap

NAN = float("nan")


def test_without_overlap_a_cell_is_a_tile_and_rows_are_y() -> None:
    coords = np.array([[0, 0], [200, 0], [100, 100]])
    scores = np.array([0.1, 0.2, 0.3])
    found = score_map(coords, scores, extent=(100, 100), stride=(100, 100), slide_size=(301, 199))
    assert found.cell == (100, 100)
    expected = [[0.1, NAN, 0.2, NAN], [NAN, 0.3, NAN, NAN]]
    assert found.values == pytest.approx(np.array(expected, np.float32), nan_ok=True)


def test_with_overlap_a_cell_is_the_mean_of_the_tiles_that_cover_it() -> None:
    """Tiles of 150 at a step of 100: the second half of a tile's end is half a cell."""
    coords = np.array([[0, 0], [100, 0]])
    scores = np.array([1.0, 4.0])
    found = score_map(coords, scores, extent=(150, 100), stride=(100, 100), slide_size=(300, 100))
    assert found.values.tolist() == [[1.0, (1.0 * 0.5 + 4.0) / 1.5, 4.0]]


def test_tiles_of_nan_count_as_none() -> None:
    coords = np.array([[0, 0], [50, 0]])
    found = score_map(
        coords, np.array([NAN, 2.0]), extent=(100, 50), stride=(50, 50), slide_size=(150, 50)
    )
    assert found.values == pytest.approx(np.array([[NAN, 2.0, 2.0]]), nan_ok=True)


def test_off_the_grid_or_of_another_length() -> None:
    sizes = {"extent": (9, 9), "stride": (9, 9), "slide_size": (99, 99)}
    with pytest.raises(ValueError, match=r"\(9, 10\) does not lie on a grid"):
        score_map(np.array([[0, 0], [9, 10]]), np.zeros(2), **sizes)
    with pytest.raises(ValueError, match="2 tiles, but scores"):
        score_map(np.array([[0, 0], [9, 9]]), np.zeros(3), **sizes)


def test_a_hundred_thousand_overlapping_tiles_are_quick() -> None:
    steps = np.arange(320) * 128
    coords = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    started = time.perf_counter()
    score_map(
        coords, np.ones(len(coords)), extent=(512, 512), stride=(128, 128), slide_size=(41_000,) * 2
    )
    assert time.perf_counter() - started < 5  # seconds, not minutes


def test_percentile_rank_shares_ties_and_keeps_nan() -> None:
    ranks = percentile_rank(np.array([5.0, NAN, 1.0, 1.0, 9.0], np.float32))
    assert ranks == pytest.approx(np.array([2 / 3, NAN, 1 / 6, 1 / 6, 1.0]), nan_ok=True)
    assert percentile_rank(np.array([3.0])).tolist() == [1.0]
    assert np.isnan(percentile_rank(np.array([NAN]))).all()


def test_the_ngff_image_is_valid_and_lies_where_the_slide_is(
    tissue_path: Path, tmp_path: Path
) -> None:
    """Pixel centres: the first cell's centre is half a cell less half a level-0 pixel from 0."""
    store = make_store(tissue_path, tmp_path / "a.zarr", TileSpec(64, 1.0, min_tissue=0.5))
    grid = store.grid
    found = score_map(
        grid.coords, np.arange(len(grid), dtype=np.float32), extent=grid.extent, stride=grid.stride,
        slide_size=grid.slide_size,
    )  # fmt: skip
    group = write_heatmap(store, "abmil-00000000", found)
    image = OMEImage.from_zarr(group)
    dataset = image.ome_attributes.multiscales[0].datasets[0]
    scale, translation = dataset.coordinateTransformations
    assert scale.scale == [64.0, 64.0]
    assert translation.translation == [(128 - 1) / 2 * 0.5] * 2
    assert [axis.unit for axis in image.ome_attributes.multiscales[0].axes] == ["micrometer"] * 2
    assert np.array_equal(np.asarray(group["0"][:]), found.values, equal_nan=True)
    before = {p: p.read_bytes() for p in Path(store.path).rglob("*") if p.is_file()}
    write_heatmap(open_store(store.path), "abmil-00000000", found)
    assert {p: p.read_bytes() for p in Path(store.path).rglob("*") if p.is_file()} == before


def test_geojson_tiles_are_closed_rings_in_level_0_pixels(tmp_path: Path) -> None:
    collection = tile_features(
        "s", np.array([[0, 0], [100, 50]]), (100, 50), {"attention": np.array([0.5, NAN])},
        slide_size=(180, 100),
    )  # fmt: skip
    first, second = collection["features"]
    assert second["geometry"]["coordinates"] == [
        [[100, 50], [180, 50], [180, 100], [100, 100], [100, 50]]
    ]
    assert first["properties"]["measurements"] == {"attention": 0.5}
    assert second["properties"]["measurements"] == {}
    assert first["properties"]["objectType"] == "tile"
    assert first["id"] != second["id"]
    path = write_geojson(tmp_path / "geojson" / "s.geojson", collection)
    assert json.loads(path.read_text()) == collection
    assert [p.name for p in path.parent.iterdir()] == ["s.geojson"]
