from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from tiling import SlideStore, TileSpec, open_slide, open_store, tile_grid, tissue_mask
from tiling.errors import (
    MissingNodeError,
    StoreMismatchError,
    StoreOpenError,
    StoreSchemaError,
)
from tiling.nodes import Rows, node_name
from tiling.save_tiles import save_tiles
from tiling.store import check_store, create_store, iter_stores
from tiling.tiles import TileGeometry, TileStatus, read_tiles

SPEC = TileSpec(tile_px=64, mpp=0.5, min_tissue=0.5)


def make_store(
    slide_path: Path, path: Path, spec: TileSpec = SPEC, slide_id: str = "a"
) -> SlideStore:
    with open_slide(slide_path) as slide:
        mask = tissue_mask(slide)
        return create_store(path, slide, tile_grid(slide, spec, mask), mask, slide_id=slide_id)


@pytest.fixture
def store(tissue_path: Path, tmp_path: Path) -> SlideStore:
    return make_store(tissue_path, tmp_path / "a.zarr")


@pytest.fixture
def rows(store: SlideStore) -> Rows:
    return store.create_rows(
        "embeddings/toy-00000000", row_shape=(3,), dtype=np.float32, block=100, fill=np.nan,
        attrs={"width": 3},
    )  # fmt: skip


def files_below(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_the_grid_comes_back(store: SlideStore, tissue_path: Path) -> None:
    with open_slide(tissue_path) as slide:
        grid = tile_grid(slide, SPEC)
    again = open_store(store.path).grid
    assert np.array_equal(again.coords, grid.coords)
    assert again.coords.dtype == np.int64
    assert np.array_equal(again.tissue_fraction, grid.tissue_fraction)
    assert (again.spec, again.extent, again.stride) == (grid.spec, grid.extent, grid.stride)
    assert (again.slide_size, again.slide_mpp) == (grid.slide_size, grid.slide_mpp)


def test_attributes_follow_the_schema(store: SlideStore) -> None:
    stored = json.loads((Path(store.path) / "zarr.json").read_text())
    attrs = stored["attributes"]["wsi_pipeline"]
    assert attrs["schema_version"] == 1
    assert attrs["source"]["name"] == "tissue.tif"
    assert attrs["slide"]["mpp_source"] == "tiff.XResolution"
    assert attrs["slide"]["reader_version"].startswith("tiff (tifffile 2")
    assert attrs["slide"]["decoder"].startswith("libjpeg-turbo (simplejpeg ")
    assert attrs["tissue"]["method"] == "saturation-otsu"


def test_two_stores_of_one_slide_are_equal_byte_for_byte(
    tissue_path: Path, tmp_path: Path, store: SlideStore
) -> None:
    other = make_store(tissue_path, tmp_path / "b.zarr")
    assert files_below(Path(other.path)) == files_below(Path(store.path))


def test_an_unfinished_store_is_none_and_is_made_anew(store: SlideStore, tissue_path: Path) -> None:
    """A writer killed before its last step leaves a group without our attributes."""
    group = zarr.open_group(store.path, mode="r+")
    attrs = group.attrs.asdict()
    del group.attrs["wsi_pipeline"]
    with pytest.raises(StoreOpenError, match="not a whole slide store"):
        open_store(store.path)
    with pytest.warns(UserWarning, match="left out"):
        assert list(iter_stores(Path(store.path).parent)) == []
    make_store(tissue_path, Path(store.path))
    assert zarr.open_group(store.path, mode="r").attrs.asdict() == attrs


def test_no_store_at_all(tmp_path: Path) -> None:
    with pytest.raises(StoreOpenError, match="wsi tile"):
        open_store(tmp_path / "none.zarr")
    with pytest.raises(StoreOpenError, match="no slide stores here"):
        next(iter_stores(tmp_path))


def test_another_schema_is_refused(store: SlideStore) -> None:
    group = zarr.open_group(store.path, mode="r+")
    group.attrs["wsi_pipeline"] = {**group.attrs["wsi_pipeline"], "schema_version": 99}
    with pytest.raises(StoreSchemaError, match="schema version 99, this version reads 1"):
        open_store(store.path)


def test_blocks_are_done_when_their_chunk_exists(rows: Rows) -> None:
    """Also a block of nothing but fill values: a missing chunk reads the same."""
    assert len(rows) == 256
    assert rows.missing_blocks() == [0, 1, 2]
    rows.write(1, np.full((100, 3), np.nan, np.float32), np.full(100, 2, np.uint8))
    assert rows.missing_blocks() == [0, 2]
    assert not rows.is_complete
    with pytest.raises(StoreMismatchError, match="2 blocks are not written"):
        rows.finish()


def test_status_is_written_before_the_block_it_speaks_of(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the data's write fails, the status is there and the block still counts as missing."""
    path = Path(str(rows.data.store_path).removeprefix("file://")) / "c"
    path.mkdir(parents=True)
    (path / "0").write_text("in the way")
    with pytest.raises(OSError, match="0"):
        rows.write(0, np.zeros((100, 3), np.float32), np.ones(100, np.uint8))
    assert (rows.status[:100] == 1).all()
    (path / "0").unlink()
    assert 0 in rows.missing_blocks()


def test_rows_round_trip_and_finish(rows: Rows, store: SlideStore) -> None:
    values = np.arange(256 * 3, dtype=np.float32).reshape(256, 3)
    for block in rows.missing_blocks():
        here = rows.rows_of(block)
        rows.write(block, values[here], np.ones(here.stop - here.start, np.uint8))
    assert store.embedding_names() == []
    rows.finish(bad_tiles=0)
    again = open_store(store.path).embeddings("toy")
    assert again.name == "embeddings/toy-00000000"
    assert np.array_equal(again.data[:], values)
    assert again.attrs["bad_tiles"] == 0


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_rows_are_read_in_the_order_asked_for(tmp_path: Path, compressors: str | None) -> None:
    """From the chunks' own files, and by zarr from those of stores that older versions made."""
    group = zarr.open_group(tmp_path, mode="w")
    data = group.create_array(
        "embeddings/x", shape=(250, 3), chunks=(100, 3), dtype=np.float32, fill_value=np.nan,
        compressors=compressors,
    )  # fmt: skip
    rows = Rows("embeddings/x", data, data, 100)
    assert np.isnan(rows.read()).all()  # nothing is written yet
    values = np.arange(750, dtype=np.float32).reshape(250, 3)
    data[:] = values
    assert np.array_equal(rows.read(), values)
    for wanted in ([249, 0, 100, 99, 200], [7], [], np.random.default_rng(0).permutation(250)):
        found = rows.read(np.asarray(wanted, np.int64))
        assert np.array_equal(found, values[np.asarray(wanted, np.int64)])
        assert found.dtype == np.float32


def test_a_chunk_cut_short_is_named(rows: Rows, store: SlideStore) -> None:
    for block in rows.missing_blocks():
        here = rows.rows_of(block)
        rows.write(block, np.zeros((here.stop - here.start, 3), np.float32), np.ones(1, np.uint8))
    chunk = Path(store.path) / rows.name / "c" / "1" / "0"
    for content in (chunk.read_bytes()[:-1], chunk.read_bytes() + b"x"):
        chunk.write_bytes(content)
        with pytest.raises(StoreOpenError, match=r"c/1/0: not a whole chunk of 1200 bytes; delete"):
            rows.read()
        rows.read(np.array([0, 255]))  # other chunks are whole


def test_a_node_made_otherwise_is_never_mixed(rows: Rows, store: SlideStore) -> None:
    with pytest.raises(StoreMismatchError, match=r"made with other width \(3, now 4\)"):
        store.create_rows(rows.name, row_shape=(4,), dtype=np.float32, block=100, fill=np.nan,
                          attrs={"width": 4})  # fmt: skip


def test_names_are_found_by_slug_where_it_is_unique(store: SlideStore) -> None:
    attention = np.full(len(store), 1 / len(store), np.float32)
    for digest in ("11111111", "22222222"):
        store.write_prediction(
            f"abmil-{digest}", scores={"normal": 0.25, "tumor": 0.75}, attention=attention,
            attrs={"model_id": digest},
        )  # fmt: skip
    assert store.prediction("abmil-11111111").label == "tumor"
    with pytest.raises(MissingNodeError, match="several predictions fit; name one of abmil-1"):
        store.prediction("abmil")
    with pytest.raises(MissingNodeError, match="no finished embeddings"):
        store.embeddings()


def test_what_is_said_of_tiles_is_kept_beside_the_attention(store: SlideStore) -> None:
    attention, added = (np.linspace(a, 1, len(store), dtype=np.float32) for a in (0, -1))
    said = {"scores": {"a": 1.0}, "attention": attention, "attrs": {}}
    with pytest.raises(ValueError, match="contribution has shape"):
        store.write_prediction("m-00000000", **said, others={"contribution": added[1:]})
    assert store.prediction_names() == []
    store.write_prediction("m-00000000", **said, others={"contribution": added})
    found = open_store(store.path).tile_values("m-00000000")
    assert list(found) == ["attention", "contribution"]
    assert np.array_equal(found["contribution"], added)
    assert list(store.tile_values()) == ["tissue_fraction"]


def test_check_store_names_what_changed(store: SlideStore, tissue_path: Path, tmp_path: Path,
                                        blank_path: Path) -> None:  # fmt: skip
    with open_slide(tissue_path) as slide:
        check_store(store, slide, SPEC)
        with pytest.raises(StoreMismatchError, match="tile_px is 32, the store was made with 64"):
            check_store(store, slide, TileSpec(tile_px=32, mpp=0.5))
    with (
        open_slide(tissue_path, mpp=0.25) as slide,
        pytest.raises(StoreMismatchError, match=r"mpp is \(0.25, 0.25\)"),
    ):
        check_store(store, slide, SPEC)
    with (
        open_slide(blank_path) as slide,
        pytest.raises(
            StoreMismatchError, match="blank.tif is not the file the store was made from"
        ),
    ):
        check_store(store, slide, SPEC)


def test_sweep_removes_what_a_killed_writer_left(store: SlideStore) -> None:
    stray = Path(store.path) / "embeddings" / "x.123abc.partial"
    stray.write_text("half")
    assert store.sweep() == 1
    assert not stray.exists()
    assert store.sweep() == 0


def test_node_names_hold_the_hash_of_what_made_them() -> None:
    first = node_name("Vit Small/16", {"batch": 32, "mean": (0.5, 0.5)})
    assert first == node_name("vit-small-16", {"mean": [0.5, 0.5], "batch": 32})
    assert first != node_name("vit-small-16", {"mean": [0.5, 0.5], "batch": 64})
    assert first.startswith("vit-small-16-")


def test_a_store_without_tiles_is_whole(blank_path: Path, tmp_path: Path) -> None:
    store = make_store(blank_path, tmp_path / "blank.zarr")
    assert len(store) == 0
    assert "no tile of" in open_store(store.path).grid.reason
    rows = store.create_rows("embeddings/toy-00000000", row_shape=(3,), dtype=np.float32,
                             block=100, fill=np.nan, attrs={})  # fmt: skip
    rows.finish()
    assert open_store(store.path).embeddings().data.shape == (0, 3)


def test_save_tiles_stores_the_pixels_and_resumes(store: SlideStore, tissue_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with open_slide(tissue_path) as slide:
        expected, _ = read_tiles(slide, store.grid.coords, TileGeometry.of(store.grid))
        save_tiles(store, slide, on_progress=lambda done, total: calls.append((done, total)))
        rows = store.rows("tiles")
        assert np.array_equal(rows.data[:], expected)
        assert (rows.status[:] == TileStatus.READ).all()
        assert calls[-1] == (256, 256)
        assert rows.data.shards == (64, 64, 64, 3)

        shards = sorted((Path(store.path) / "tiles" / "c").glob("*/0/0/0"))
        assert len(shards) == 4
        before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards}
        group = zarr.open_group(store.path, mode="r+")
        attrs = {k: v for k, v in rows.attrs.items() if k not in ("complete", "bad_tiles")}
        group["tiles"].attrs["wsi_pipeline"] = attrs
        os.unlink(shards[2])
        save_tiles(open_store(store.path), slide)
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in shards}
    assert {p for p in shards if after[p][0] != before[p][0]} == {shards[2]}
    assert {p: v[1] for p, v in after.items()} == {p: v[1] for p, v in before.items()}
    assert open_store(store.path).rows("tiles").is_complete


def test_save_tiles_counts_a_corrupt_tile(corrupt_path: Path, tmp_path: Path) -> None:
    store = make_store(corrupt_path, tmp_path / "c.zarr", TileSpec(tile_px=256, mpp=0.5))
    with open_slide(corrupt_path) as slide:
        assert save_tiles(store, slide) == 1
    assert store.rows("tiles").attrs["bad_tiles"] == 1
