from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mil_models import embed
from mil_models.encoders import Encoder
from mil_models.errors import EncoderMismatchError, EncoderOutputError
from tests.unit.tiling.test_store import make_store
from tiling import TileSpec, open_slide, open_store
from tiling.errors import SlideReadError
from tiling.tiles import TileStatus, read_tiles

SPEC = TileSpec(64, 0.5, min_tissue=0.5)


def test_embeddings_are_the_encoders_of_the_tiles(
    tissue_path: Path, tmp_path: Path, tiny: Encoder
) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", TileSpec(128, 0.5, min_tissue=0.5))
    calls: list[tuple[int, int]] = []
    with open_slide(tissue_path) as slide:
        summary = embed(store, slide, tiny, on_progress=lambda d, t: calls.append((d, t)))
        pixels, _ = read_tiles(slide, store.grid.coords, store.geometry)
    rows = store.embeddings("resnet10t")
    assert rows.data[:].tobytes() == tiny.embed(pixels).tobytes()
    assert (rows.status[:] == TileStatus.READ).all()
    assert (summary.tiles, summary.computed, summary.bad_tiles) == (64, 64, 0)
    assert calls == [(64, 64)]
    assert rows.attrs["encoder"]["weights"] == "random:0"
    assert "allowed_mismatch" not in rows.attrs
    assert rows.attrs["tiles"] == {"tile_px": 128, "mpp": 0.5, "edge": "drop", "exact": False}


def test_only_missing_blocks_are_computed_and_the_bytes_are_the_same(
    tissue_path: Path, tmp_path: Path, tiny: Encoder
) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", SPEC)
    with open_slide(tissue_path) as slide:
        embed(store, slide, tiny, allow_mismatch=True)
        rows = store.embeddings()
        wanted = "takes tiles of a multiple of 32 px from 96, not 64"
        assert rows.attrs["allowed_mismatch"] == wanted
        chunks = sorted((Path(store.path) / rows.name / "c").glob("*/0"))
        before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in chunks}
        assert len(chunks) == 2
        rows.data.attrs["wsi_pipeline"] = {
            k: v for k, v in rows.attrs.items() if k not in ("complete", "bad_tiles")
        }
        chunks[1].unlink()
        again = embed(open_store(store.path), slide, tiny, allow_mismatch=True)
    assert again.computed == 128
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in chunks}
    assert after[chunks[0]] == before[chunks[0]]
    assert after[chunks[1]][1] == before[chunks[1]][1]


def test_a_finished_slide_is_not_touched(tissue_path: Path, tmp_path: Path, tiny: Encoder) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", TileSpec(128, 0.5))
    with open_slide(tissue_path) as slide:
        embed(store, slide, tiny)
    summary = embed(store, None, tiny)  # type: ignore[arg-type]  # the slide is not asked
    assert (summary.tiles, summary.computed) == (len(store), 0)


def test_corrupt_tiles_are_nan_and_counted(
    corrupt_path: Path, tmp_path: Path, tiny: Encoder
) -> None:
    store = make_store(corrupt_path, tmp_path / "a.zarr", TileSpec(128, 0.5, min_tissue=0.5))
    with open_slide(corrupt_path) as slide:
        summary = embed(store, slide, tiny)
    rows = store.embeddings()
    bad = rows.status[:] == TileStatus.UNREADABLE
    assert summary.bad_tiles == bad.sum() == rows.attrs["bad_tiles"] == 4
    assert np.array_equal(np.isnan(rows.data[:]).all(axis=1), bad)


def test_no_tile_at_all(blank_path: Path, tmp_path: Path, tiny: Encoder) -> None:
    store = make_store(blank_path, tmp_path / "a.zarr", TileSpec(128, 0.5))
    with open_slide(blank_path) as slide:
        assert embed(store, slide, tiny).tiles == 0
    assert store.embeddings().data.shape == (0, tiny.contract.width)


def test_a_slide_of_which_no_tile_decodes_fails(
    tissue_path: Path, tmp_path: Path, tiny: Encoder
) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", TileSpec(128, 0.5))
    empty = tmp_path / "tissue.tif"
    content = bytearray(tissue_path.read_bytes())
    import tifffile

    with tifffile.TiffFile(tissue_path) as tiff:
        page = tiff.pages[0]
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            content[start : start + length] = b"\x00" * length
    empty.write_bytes(content)
    with (
        open_slide(empty) as slide,
        pytest.raises(SlideReadError, match=r"tissue.tif: none of the \d+ tiles"),
    ):
        embed(store, slide, tiny)
    assert store.embedding_names() == []


def test_tiles_that_do_not_fit_the_encoder(
    tissue_path: Path, tmp_path: Path, tiny: Encoder
) -> None:
    store = make_store(tissue_path, tmp_path / "a.zarr", SPEC)
    with open_slide(tissue_path) as slide, pytest.raises(EncoderMismatchError, match="not 64"):
        embed(store, slide, tiny)


def test_the_way_of_a_gpu_gives_the_bytes_of_a_cpus_lanes(
    tissue_path: Path, tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read ahead, one stream, written behind: the same code as on a GPU, run on the CPU."""
    import torch

    one = make_store(tissue_path, tmp_path / "a.zarr", SPEC)
    other = make_store(tissue_path, tmp_path / "b.zarr", SPEC)
    with open_slide(tissue_path) as slide:
        embed(one, slide, tiny, allow_mismatch=True)
        monkeypatch.setattr(Encoder, "device", property(lambda _: torch.device("meta")))
        summary = embed(other, slide, tiny, allow_mismatch=True)
    assert summary.computed == len(other) == 256
    assert one.embeddings().data[:].tobytes() == other.embeddings().data[:].tobytes()
    assert one.embeddings().status[:].tobytes() == other.embeddings().status[:].tobytes()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_embedding_that_is_no_number_names_slide_and_tile_and_keeps_what_was_done(
    tissue_path: Path, tmp_path: Path, tiny: Encoder, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    import torch

    store = make_store(tissue_path, tmp_path / "a.zarr", SPEC)
    run_each = type(tiny.engine).run_each
    batch, row = divmod(128 + 7, tiny.engine.batch)  # the eighth tile of the second block
    done = []

    def second_block_overflows(
        engine: object, batches: Iterable[np.ndarray]
    ) -> Iterator[np.ndarray]:
        for found in run_each(engine, batches):
            if len(done) == batch:
                found[row, 3] = np.inf
            done.append(len(found))
            yield found

    monkeypatch.setattr(type(tiny.engine), "run_each", second_block_overflows)
    monkeypatch.setattr(tiny.engine, "pool", ThreadPoolExecutor(1))
    monkeypatch.setattr(Encoder, "device", property(lambda _: torch.device(device)))
    x0, y0 = store.grid.coords[128 + 7].tolist()
    with (
        open_slide(tissue_path) as slide,
        pytest.raises(
            EncoderOutputError,
            match=rf"tissue\.tif: .* 1 tiles, the first at level-0 \({x0}, {y0}\)",
        ),
    ):
        embed(store, slide, tiny, allow_mismatch=True)
    rows = store.rows(f"embeddings/{next(iter(store._group['embeddings']))}")
    assert not rows.is_complete
    assert rows.missing_blocks() == [1]
