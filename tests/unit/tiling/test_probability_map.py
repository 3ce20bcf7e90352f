"""The node ``segmentations/<name>``: written strip by strip, resumed, valid OME-NGFF 0.5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ome_zarr_models.v05.image import Image as OMEImage
from shapely import contains_xy

from tests.unit.tiling.test_store import make_store
from tiling import SlideStore
from tiling.errors import MissingNodeError, StoreMismatchError
from tiling.outlines import map_outlines, mask_outlines, threshold_value
from tiling.probability_map import ProbabilityMap, create_map, halved, map_names, open_map
from tiling.windows import WindowGrid, window_grid

NAME = "unet-00000000"
GRID = window_grid((2051, 1537), (0.5, 0.5), tile_px=128, mpp=1.0, overlap_px=32)


@pytest.fixture
def store(tissue_path: Path, tmp_path: Path) -> SlideStore:
    return make_store(tissue_path, tmp_path / "a.zarr")


def values_of(grid: WindowGrid) -> np.ndarray:
    y, x = np.mgrid[0 : grid.size[1], 0 : grid.size[0]]
    return ((x * 3 + y * 7) % 256).astype(np.uint8)


def write(found: ProbabilityMap, values: np.ndarray, strips: range) -> None:
    step = found.grid.stride_px
    for strip in strips:
        rows = values[strip * step : (strip + 1) * step]
        cells = []
        for column in range(found.grid.cells[0]):
            cell = np.zeros((step, step), np.uint8)
            part = rows[:, column * step : (column + 1) * step]
            cell[: part.shape[0], : part.shape[1]] = part
            cells.append((column, cell))
        found.write_strip(strip, cells)
        found.finish_strip(strip, unreadable=strip % 2)


def test_a_killed_map_goes_on_with_the_strip_that_is_missing(store: SlideStore) -> None:
    found = create_map(store, NAME, GRID, {"model_id": "m"})
    assert (found.grid, GRID.cells) == (GRID, (11, 9))
    values = values_of(GRID)
    write(found, values, range(4))
    with pytest.raises(StoreMismatchError, match="5 strips are not written yet"):
        found.finish()
    assert map_names(store) == []
    again = create_map(store, NAME, GRID, {"model_id": "m"})
    assert again.missing_strips() == [4, 5, 6, 7, 8]
    write(again, values, range(4, 9))
    again.finish(windows=7)
    assert map_names(store) == [NAME]
    whole = open_map(store, "unet")
    assert np.array_equal(whole.read(0, slice(None), slice(None)), values)
    assert (whole.attrs["windows"], whole.attrs["unreadable"]) == (7, 4)
    with pytest.raises(StoreMismatchError, match="made with other model_id"):
        create_map(store, NAME, GRID, {"model_id": "other"})


def test_the_pyramid_is_a_valid_image_in_its_place(store: SlideStore) -> None:
    """Pixel centres: a pixel of 1 µm on a slide of 0.5 µm begins a quarter of a µm late."""
    found = create_map(store, NAME, GRID, {})
    values = values_of(GRID)
    write(found, values, range(9))
    found.finish()
    image = OMEImage.from_zarr(found.group)
    datasets = image.ome_attributes.multiscales[0].datasets
    assert [d.path for d in datasets] == ["0", "1", "2"]
    for level, dataset in enumerate(datasets):
        scale, translation = dataset.coordinateTransformations
        assert scale.scale == [2.0**level] * 2
        assert translation.translation == [(2.0**level - 0.5) / 2] * 2
    assert found.shape(1) == (385, 513)
    assert np.array_equal(found.read(1, slice(None), slice(None)), halved(values))
    assert np.array_equal(found.read(2, slice(None), slice(None)), halved(halved(values)))
    assert found.level_within(200_000) == 1
    assert found.level_within(1) == 2
    assert all(max(found.group[str(n)].chunks) <= 512 for n in range(3))


def test_the_same_bytes_in_one_go_and_in_two(store: SlideStore) -> None:
    def files() -> dict[str, bytes]:
        root = Path(store.path) / "segmentations" / NAME
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    values = values_of(GRID)
    values[:200] = 0  # chunks of nothing are not written
    found = create_map(store, NAME, GRID, {})
    write(found, values, range(5))
    write(create_map(store, NAME, GRID, {}), values, range(4, 9))
    found.finish()
    twice = files()
    found.group.store_path.store.root.joinpath(found.group.path, "zarr.json").unlink()
    other = create_map(store, NAME, GRID, {})
    write(other, values, range(9))
    other.finish()
    assert files() == twice
    assert "0/c/0/0" not in twice
    assert "strips/c/0" in twice


def test_no_map_or_several(store: SlideStore) -> None:
    with pytest.raises(MissingNodeError, match="no finished segmentation; run `wsi segment pred"):
        open_map(store)
    for name in (NAME, "unet-11111111"):
        found = create_map(store, name, GRID, {})
        write(found, values_of(GRID), range(9))
        found.finish()
    with pytest.raises(MissingNodeError, match="several segmentations fit"):
        open_map(store)
    assert open_map(store, "unet-11111111").name == "unet-11111111"
    with pytest.raises(MissingNodeError, match="called 'fpn'; it has unet-00000000"):
        open_map(store, "fpn")


def test_outlines_are_the_same_in_blocks_and_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((90, 130)) < 0.55
    mask[20:60, 30:90] = True
    mask[30:50, 40:60] = False
    mask[35:40, 45:50] = True  # an island in a hole
    whole = mask_outlines(lambda rows, columns: mask[rows, columns], mask.shape)
    monkeypatch.setattr("tiling.outlines.BLOCK_PX", 32)
    blocks = mask_outlines(lambda rows, columns: mask[rows, columns], mask.shape)
    assert blocks.is_valid
    assert blocks.symmetric_difference(whole).area == 0
    y, x = np.mgrid[0:90, 0:130] + 0.5
    assert np.array_equal(contains_xy(blocks, x, y), mask)
    assert mask_outlines(lambda rows, columns: np.zeros((4, 4), bool), (4, 4)).is_empty


def test_a_square_loses_its_corners_only() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:8] = True
    [square] = mask_outlines(lambda rows, columns: mask[rows, columns], mask.shape).geoms
    assert square.bounds == (3, 2, 8, 6)
    assert square.area == 20 - 4 / 8


def test_map_outlines_are_in_level_0_pixels(store: SlideStore) -> None:
    found = create_map(store, NAME, GRID, {})
    values = np.zeros((GRID.size[1], GRID.size[0]), np.uint8)
    values[100:200, 300:500] = 128
    values[10:20, 10:20] = 127
    values[130:150, 350:400] = 0
    write(found, values, range(9))
    found.finish()
    [polygon] = map_outlines(found, 0.5, simplify_px=0)
    assert polygon.bounds == (600, 200, 1000, 400)
    assert [p.bounds for p in polygon.interiors] == [(700, 260, 800, 300)]
    assert len(map_outlines(found, 0.4)) == 2
    assert [threshold_value(t) for t in (0.5, 0.4, 1.0)] == [128, 102, 255]
    with pytest.raises(ValueError, match="threshold=0"):
        map_outlines(found, 0)
