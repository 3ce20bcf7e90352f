"""Pixels of 0.25 x 0.5 µm, from the file to every place where a length is drawn or stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.wsi_pipeline.test_cli import QUIET, wsi
from tests.zarr_slides import write_ome_zarr
from tiling import SlideStore, TileSpec, open_slide, open_store, tile_array, tile_grid
from tiling.heatmap import score_map, write_heatmap
from viewers.layers import attention_layers, slide_layers
from viewers.render import overview_figure

MPP = (0.25, 0.5)
SIZE = (4100, 1500)
TISSUE_UM = (512.0, 384.0)


def pixels() -> NDArray[np.uint8]:
    """Glass with a pink rectangle of 512 x 384 µm, from (256, 128) µm."""
    found = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    found[256:1024, 1024:3072] = (200, 120, 170)
    return found


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("anisotropic") / "a.zarr"
    write_ome_zarr(path, [pixels(), pixels()[::4, ::4]], scale=MPP, chunk=512)
    return path


@pytest.fixture(scope="module")
def store(slide_path: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    out = tmp_path_factory.mktemp("out")
    assert wsi("tile", slide_path, "-o", out, "--tile-px", 128, "--min-tissue", 0.5, *QUIET) == 0
    return open_store(out / "stores" / "a.zarr")


def test_info_tells_both(slide_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("info", slide_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mpp_x"], found["mpp_y"], found["mpp_source"]) == (0.25, 0.5, "ngff.scale")
    assert found["mpp_candidates"] == ["ngff.scale = 0.25 x 0.5 µm"]
    assert wsi("info", slide_path) == 0
    assert "ngff.scale = 0.25 x 0.5 µm" in capsys.readouterr().out


def test_a_tile_is_a_square_on_the_glass(store: SlideStore) -> None:
    """128 px at 0.5 µm are 64 µm: 256 px across, 128 px down."""
    grid = store.grid
    assert (grid.extent, grid.stride) == ((256, 128), (256, 128))
    assert grid.effective_mpp == (0.5, 0.5)
    assert store.slide_mpp == MPP
    assert len(grid) == (512 / 64) * (384 / 64)
    assert grid.coords.min(axis=0).tolist() == [1024, 256]
    assert grid.coords.max(axis=0).tolist() == [3072 - 256, 1024 - 128]
    recorded = store.attrs["slide"]
    assert (recorded["mpp_source"], recorded["mpp_candidates"]) == (
        "ngff.scale", ["ngff.scale = 0.25 x 0.5 µm"],
    )  # fmt: skip


def test_the_tissue_has_its_true_area(store: SlideStore) -> None:
    area = TISSUE_UM[0] * TISSUE_UM[1] / 1e6
    assert store.attrs["tissue"]["area_mm2"] == pytest.approx(area, rel=0.08)


def test_tiles_hold_what_they_cover(tmp_path: Path) -> None:
    """A ramp along x and one along y, read at 0.5 µm: x is halved, y is not."""
    y, x = np.mgrid[0:512, 0:512]
    ramps = np.stack([x // 2, y // 2, np.zeros_like(x)], axis=-1).astype(np.uint8)
    write_ome_zarr(tmp_path / "a.zarr", [ramps], scale=MPP, chunk=256)
    with open_slide(tmp_path / "a.zarr") as slide:
        grid = tile_grid(slide, TileSpec(tile_px=128, mpp=0.5, min_tissue=0))
        tile = tile_array(slide, grid)[grid.coords.tolist().index([256, 128])].compute()
    assert tile[:, :, 0].tolist() == [list(range(128, 256))] * 128
    assert tile[:, 0, 1].tolist() == np.arange(64, 128).repeat(2).tolist()


def test_heatmaps_and_layers_lie_in_micrometres(store: SlideStore, slide_path: Path) -> None:
    grid = store.grid
    scores = np.linspace(0, 1, len(grid), dtype=np.float32)
    shape = {"extent": grid.extent, "stride": grid.stride, "slide_size": grid.slide_size}
    found = score_map(grid.coords, scores, **shape)
    assert found.values.shape == (12, 17)  # 1500 / 128 and 4100 / 256, rounded up
    group = write_heatmap(store, "m-00000000", found)
    transforms = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert transforms == [
        {"type": "scale", "scale": [64.0, 64.0]},
        {"type": "translation", "translation": [127 / 2 * 0.5, 255 / 2 * 0.25]},
    ]
    [(_, arguments, kind)] = slide_layers(slide_path)
    assert (kind, arguments["scale"]) == ("image", (0.5, 0.25))  # (y, x)
    store.write_prediction("m-00000000", scores={"a": 1.0}, attention=scores, attrs={})
    [(_, arguments, _)] = attention_layers(store)
    assert arguments["scale"] == (64.0, 64.0)
    assert arguments["translate"] == (127 / 2 * 0.5, 255 / 2 * 0.25)


def test_pictures_are_drawn_as_the_slide_lies_on_the_glass() -> None:
    """4100 x 1500 px of 0.25 x 0.5 µm are 1025 x 750 µm."""
    thumbnail = np.full((150, 410, 3), 255, np.uint8)
    figure = overview_figure(thumbnail, slide_size=SIZE, mpp=MPP, title="t")
    figure.canvas.draw()
    box = figure.axes[0].get_window_extent()
    assert box.width / box.height == pytest.approx(1025 / 750, rel=0.01)
