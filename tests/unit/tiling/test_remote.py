"""Slides behind URLs: few bytes, few requests, the same pixels, and typed errors.

A web server on 127.0.0.1 counts what it is asked for; moto stands for S3.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from tests.range_server import RangeServer, serving
from tests.unit.wsi_pipeline.test_cli import table, wsi
from tiling import TileSpec, open_slide, open_store, tile_array, tile_grid
from tiling.errors import SlideAccessError, SlideOpenError, SlideReadError
from tiling.grid import TileGrid
from tiling.readers import byte_source
from tiling.readers.byte_source import RemoteBytes
from tiling.readers.range_cache import RangeCache
from tiling.samples import write_sample_slide
from tiling.source import read_source
from tiling.tiles import TileGeometry, TileStatus, read_tiles

HEADERS_BYTES = 256 << 10
"""What opening may cost: the first block, and one for each page's tables."""
SECRET = "hunter2"  # noqa: S105 (nobody's)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides of 5269 x 4493 px, 4 MB."""
    path = tmp_path_factory.mktemp("served")
    write_sample_slide(path, 1).rename(path / "slide.tif")
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[RangeServer]:
    with serving(folder) as state:
        yield state


@pytest.fixture
def url(server: RangeServer) -> str:
    return f"{server.url}/slide.tif"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask again at once; and no proxy between us and our servers."""
    monkeypatch.setattr("tiling.readers.remote_ranges.PAUSES_S", (0.01, 0.02))
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def block_of_tiles(path: Path, *, px: int = 128, side: int = 10) -> TileGrid:
    """Return side x side native tiles, not aligned with the stored ones."""
    import dataclasses

    with open_slide(path) as slide:
        grid = tile_grid(slide, TileSpec(tile_px=px, mpp=0.25, min_tissue=0))
    y, x = np.mgrid[0:side, 0:side] * px
    coords = np.stack([x.ravel() + 1700, y.ravel() + 1500], axis=1).astype(np.int64)
    return dataclasses.replace(grid, coords=coords)


def stored_bytes(path: Path, grid: TileGrid) -> int:
    """Return the compressed size of the stored tiles that a grid's tiles touch, each once."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        columns = -(-page.imagewidth // page.tilewidth)
        touched: set[int] = set()
        for x0, y0 in grid.coords.tolist():
            for row in range(
                y0 // page.tilelength, (y0 + grid.extent[1] - 1) // page.tilelength + 1
            ):
                for column in range(
                    x0 // page.tilewidth, (x0 + grid.extent[0] - 1) // page.tilewidth + 1
                ):
                    touched.add(row * columns + column)
        return sum(page.databytecounts[index] for index in touched)


def local_tiles(path: Path, grid: TileGrid) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return read_tiles(slide, grid.coords, TileGeometry.of(grid))[0]


def test_a_hundred_tiles_cost_about_their_own_bytes(
    folder: Path, server: RangeServer, url: str
) -> None:
    grid = block_of_tiles(folder / "slide.tif")
    needed = stored_bytes(folder / "slide.tif", grid)
    with open_slide(url) as slide:
        opening, asked = server.bytes_sent, len(server.sent)
        assert opening <= HEADERS_BYTES
        assert asked <= 6
        tiles, status = read_tiles(slide, grid.coords, TileGeometry.of(grid))
    assert (status == TileStatus.READ).all()
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))
    assert server.bytes_sent - opening <= 1.25 * needed
    assert server.bytes_sent < (folder / "slide.tif").stat().st_size / 3
    # Neighbours in a row lie side by side in the file: about a request a row of stored tiles.
    assert len(server.sent) - asked <= 12


def test_what_was_fetched_is_not_fetched_again(folder: Path, server: RangeServer, url: str) -> None:
    """Also where Dask's blocks share stored tiles, in several threads at once."""
    grid = block_of_tiles(folder / "slide.tif")
    with open_slide(url) as slide:
        lazy = tile_array(slide, grid, tiles_per_block=7)
        with dask.config.set(scheduler="threads", num_workers=6):
            tiles = lazy.compute()
        sent = server.bytes_sent
        assert np.array_equal(lazy.compute(), tiles)
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))
    assert server.bytes_sent == sent
    data = sorted((offset, count) for _, offset, count in server.sent)
    needed = stored_bytes(folder / "slide.tif", grid)
    assert sum(count for _, count in data) <= 1.5 * needed + 3 * HEADERS_BYTES


def test_threads_that_want_the_same_wait_for_it(server: RangeServer, url: str) -> None:
    with open_slide(url) as slide:
        asked = len(server.sent)
        with ThreadPoolExecutor(8) as pool:
            parts = list(
                pool.map(
                    lambda _: slide.read_scaled((1700, 1500), (600, 600), (600, 600)), range(8)
                )
            )
        starts = [offset for _, offset, _ in server.sent[asked:]]
    assert len(starts) == len(set(starts))
    assert all(np.array_equal(part, parts[0]) for part in parts)


def test_the_cache_is_bounded_and_what_it_drops_is_read_again(
    folder: Path, server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = RangeCache(300_000)
    monkeypatch.setattr(byte_source, "_cache", small)
    monkeypatch.setattr(byte_source, "LOT_BYTES", 100_000)
    grid = block_of_tiles(folder / "slide.tif", px=256)
    with open_slide(url) as slide:
        opening = server.bytes_sent
        tiles, _ = read_tiles(slide, grid.coords, TileGeometry.of(grid))
        assert 0 < small.bytes <= small.limit_bytes
    assert small.bytes == 0  # closed
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))
    needed = stored_bytes(folder / "slide.tif", grid)
    assert needed > 3 * small.limit_bytes
    assert server.bytes_sent - opening <= 1.5 * needed


def test_range_cache_drops_what_was_used_least_recently() -> None:
    cache = RangeCache(10)
    cache.put(1, {(0, 4): b"aaaa", (4, 4): b"bbbb"})
    assert cache.get(1, (0, 4)) == b"aaaa"
    cache.put(2, {(0, 4): b"cccc"})
    assert cache.missing(1, [(0, 4), (4, 4)]) == {(4, 4)}
    assert cache.bytes == 8
    cache.put(2, {(0, 4): b"c"})  # the same again, now shorter
    assert cache.bytes == 5
    cache.put(3, {(0, 99): bytes(99)})  # more than all of it
    assert cache.bytes == 0
    cache.put(1, {(0, 4): b"aaaa"})
    cache.drop(1)
    assert cache.bytes == 0


def test_the_identity_of_a_remote_file_costs_192_kib(
    folder: Path, server: RangeServer, url: str
) -> None:
    """First, middle and last 64 KiB, in as many requests; the same as the local file's."""
    source = read_source(url)
    assert source == read_source(str(folder / "slide.tif"))
    assert server.bytes_sent == 3 * 65536
    assert len(server.sent) == 3
    (folder / "tiny.bin").write_bytes(b"0123456789")
    assert read_source(f"{server.url}/tiny.bin") == read_source(str(folder / "tiny.bin"))


def test_a_server_without_ranges_is_refused_before_it_sends_the_file(
    server: RangeServer, url: str
) -> None:
    """It says 200 and would send all of it, for every tile; one way round is named, and works."""
    server.has_ranges = False
    with pytest.raises(SlideAccessError, match="whole files only.*simplecache::URL"):
        open_slide(url)
    assert len(server.sent) == 1
    with pytest.raises(SlideAccessError, match="whole files only"):
        open_slide(url, reader="tiffslide")
    server.sent.clear()
    with open_slide(f"simplecache::{url}") as slide:
        first = slide.read_scaled((1700, 1500), (300, 300), (300, 300))
        slide.read_scaled((2700, 2500), (300, 300), (300, 300))
        assert slide.name == "slide.tif"
    assert len(server.sent) == 1
    server.has_ranges = True
    with open_slide(url) as slide:
        assert np.array_equal(slide.read_scaled((1700, 1500), (300, 300), (300, 300)), first)


def test_a_server_that_stops_giving_ranges_fails_tiles_not_the_process(
    folder: Path, server: RangeServer, url: str
) -> None:
    grid = block_of_tiles(folder / "slide.tif", side=3)
    with open_slide(url) as slide:
        server.has_ranges = False
        server.sent.clear()
        tiles, status = read_tiles(slide, grid.coords, TileGeometry.of(grid))
        assert (status == TileStatus.UNREADABLE).all()
        assert (tiles == 255).all()
        with pytest.raises(SlideReadError, match="whole files only"):
            slide.read_region((1700, 1500), level=0, size=(10, 10))
        server.has_ranges = True
        assert (slide.read_region((1700, 1500), level=0, size=(10, 10)) < 255).any()


@pytest.mark.parametrize(
    ("path", "settings", "match"),
    [
        ("none.tif", {}, r"none\.tif: no such file; check the address"),
        ("slide.tif", {"wanted_query": "X-Amz-Signature=abc"}, "HTTP 403 Forbidden; give cred"),
        ("slide.tif", {"wanted_user": "ann:pw"}, "HTTP 401 Unauthorized; give cred"),
        ("slide.tif", {"fault": lambda *_: 503}, "HTTP 503"),
        ("slide.tif", {"fault": lambda *_: 418}, "HTTP 418"),
        ("slide.tif", {"fault": lambda *_: "drop"}, "cannot be reached: Response payload"),
    ],
)
def test_what_cannot_be_reached_says_why(
    server: RangeServer, path: str, settings: dict[str, Any], match: str
) -> None:
    for name, value in settings.items():
        setattr(server, name, value)
    for read in (open_slide, read_source):
        with pytest.raises(SlideAccessError, match=match):
            read(f"{server.url}/{path}")


def test_a_server_that_falls_silent_is_given_up(
    server: RangeServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiling.readers.remote_ranges.SILENCE_S", 0.1)
    with open_slide(url) as slide:
        server.fault = lambda *_: "stall"
        with pytest.raises(SlideReadError, match="Timeout"):
            slide.read_region((1700, 1500), level=0, size=(10, 10))
        server.fault = lambda *_: None
        assert (slide.read_region((1700, 1500), level=0, size=(10, 10)) < 255).any()


def test_nobody_is_there() -> None:
    with pytest.raises(
        SlideAccessError, match=r"127\.0\.0\.1:9/a\.svs: cannot be reached: .*Cannot"
    ):
        open_slide("http://127.0.0.1:9/a.svs")


def test_credentials_in_the_address_and_in_options_work(server: RangeServer) -> None:
    server.wanted_user = "ann:pw"
    address = server.url.removeprefix("http://")
    with open_slide(f"http://ann:pw@{address}/slide.tif") as slide:
        assert slide.name == "slide.tif"
    token = base64.b64encode(b"ann:pw").decode()
    options = {"headers": {"Authorization": f"Basic {token}"}}
    with open_slide(f"{server.url}/slide.tif", storage_options=options) as slide:
        again = pickle.loads(pickle.dumps(slide))  # noqa: S301 (our own bytes)
        assert again.read_region((9, 9), level=0, size=(4, 4)).shape == (4, 4, 3)
        again.close()


def test_another_process_opens_it_with_the_same_options(
    folder: Path, server: RangeServer, url: str
) -> None:
    server.wanted_user = "ann:pw"
    token = base64.b64encode(b"ann:pw").decode()
    options = {"headers": {"Authorization": f"Basic {token}"}}
    grid = block_of_tiles(folder / "slide.tif", side=2)
    with open_slide(url, storage_options=options) as slide:
        lazy = tile_array(slide, grid)
    with dask.config.set({"multiprocessing.context": "spawn"}):
        tiles = lazy.compute(scheduler="processes", num_workers=1)
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))


def test_a_connection_that_drops_once_is_taken_up_again(
    folder: Path, server: RangeServer, url: str
) -> None:
    grid = block_of_tiles(folder / "slide.tif", side=4)
    seen: set[int] = set()

    def drop_first(offset: int, _: int, number: int) -> int | str | None:
        fault = {0: "drop", 1: 503}.get(number % 2) if offset not in seen else None
        seen.add(offset)
        return fault

    server.fault = drop_first
    with open_slide(url) as slide:
        tiles, status = read_tiles(slide, grid.coords, TileGeometry.of(grid))
    assert (status == TileStatus.READ).all()
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))


def test_a_part_that_never_comes_is_a_bad_tile_and_its_neighbours_are_right(
    folder: Path, server: RangeServer, url: str
) -> None:
    """Requests that fail together are asked for one by one: only what is broken is lost."""
    path = folder / "slide.tif"
    grid = block_of_tiles(path, side=4, px=256)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        bad = 1700 // 256 + 1 + (1500 // 256 + 1) * -(-page.imagewidth // 256)
        start = page.dataoffsets[bad]
    with open_slide(url) as slide:
        server.fault = lambda offset, end, _: "drop" if offset <= start < end else None
        tiles, status = read_tiles(slide, grid.coords, TileGeometry.of(grid))
    unreadable = status == TileStatus.UNREADABLE
    assert unreadable.sum() == 4  # the tiles over one stored tile
    expected = local_tiles(path, grid)
    assert np.array_equal(tiles[~unreadable], expected[~unreadable])
    assert (tiles[unreadable] == 255).all()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, folder: Path) -> None:
    content = (folder / "slide.tif").read_bytes()
    (tmp_path / "slide.tif").write_bytes(content)
    with serving(tmp_path) as server, open_slide(f"{server.url}/slide.tif") as slide:
        (tmp_path / "slide.tif").write_bytes(content + b"more")
        with pytest.raises(SlideReadError, match="the file changed on the server"):
            slide.read_region((1700, 1500), level=0, size=(10, 10))


def test_reads_beyond_the_end_are_short_as_on_a_disk(folder: Path, url: str) -> None:
    size = (folder / "slide.tif").stat().st_size
    tail = (folder / "slide.tif").read_bytes()[-10:]
    source = RemoteBytes(url, {})
    assert source.size == size
    assert source.read(size - 10, 100) == tail
    assert source.read(size, 5) == source.read(size + 99, 5) == b""
    with source.open() as file:
        assert file.seek(-10, os.SEEK_END) == size - 10
        assert file.read() == tail
        assert file.read(3) == b""
        file.seek(65530)
        assert file.read(12) == (folder / "slide.tif").read_bytes()[65530:65542]
    source.close()


def test_every_reader_of_urls_gives_the_same_pixels(folder: Path, url: str) -> None:
    with open_slide(folder / "slide.tif") as local:
        expected = local.read_region((1700, 1500), level=1, size=(200, 150))
    for reader in ("tiff", "tiffslide"):
        with open_slide(url, reader=reader) as slide:
            assert slide.reader == reader
            assert np.array_equal(
                slide.read_region((1700, 1500), level=1, size=(200, 150)), expected
            )
    with pytest.raises(SlideOpenError, match="openslide reads local files only"):
        open_slide(url, reader="openslide")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(SlideAccessError, match=r"gcsfs.*pip install 'wsi-pipeline\[gcs\]'"):
        open_slide("gs://bucket/slide.svs")
    with pytest.raises(SlideAccessError, match="Protocol not known: nosuch"):
        read_source("nosuch://bucket/slide.svs")


def everything_in(folder: Path) -> str:
    return "\n".join(
        f"{path}\n{path.read_bytes().decode(errors='replace')}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def test_a_run_writes_down_no_credentials(
    server: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slide that works, one that is not there and one that is no slide; signed, with password."""
    server.wanted_query, server.wanted_user = f"X-Amz-Signature={SECRET}", f"ann:{SECRET}"
    (server.folder / "text.svs").write_text("no slide")
    address = f"http://ann:{SECRET}@{server.url.removeprefix('http://')}"
    urls = [
        f"{address}/{name}?X-Amz-Signature={SECRET}&X-Amz-Credential=AKIA"
        for name in ("slide.tif", "none.svs", "text.svs")
    ]
    assert wsi("--debug", "tile", *urls, "-o", tmp_path, "--progress", "json") == 1
    assert {key: row["status"] for (key, _), row in table(tmp_path).items()} == {
        "slide": "done", "none": "failed", "text": "failed",
    }  # fmt: skip
    store = open_store(tmp_path / "stores" / "slide.zarr")
    assert store.slide_path == f"{server.url}/slide.tif"
    assert store.source.name == "slide.tif"
    assert "no such file" in table(tmp_path)["none", "tile"]["reason"]
    wsi("info", urls[0], "--json")
    wsi("info", urls[1])
    wsi("info", urls[2], "--compare")
    shown = capsys.readouterr()
    for text in (everything_in(tmp_path), shown.out, shown.err):
        assert SECRET not in text
        assert "AKIA" not in text
    # Without the signature the server says no, and the message says what to do.
    assert wsi("info", store.slide_path) == 3
    assert "HTTP 401 Unauthorized; give credentials by the environment" in " ".join(
        capsys.readouterr().err.split()
    )


def test_the_command_line_takes_options_from_the_environment(
    server: RangeServer, tmp_path: Path
) -> None:
    """fsspec reads ``FSSPEC_<PROTOCOL>`` when it is imported; nothing of it reaches the output."""
    server.wanted_user = f"ann:{SECRET}"
    token = base64.b64encode(server.wanted_user.encode()).decode()
    options = json.dumps({"headers": {"Authorization": f"Basic {token}"}})
    command = [sys.executable, "-m", "wsi_pipeline", "tile", f"{server.url}/slide.tif"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path), "--progress", "none"],
        env={**os.environ, "FSSPEC_HTTP": options}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(open_store(tmp_path / "stores" / "slide.zarr")) > 10
    for text in (everything_in(tmp_path), done.stdout, done.stderr):
        assert SECRET not in text
        assert token not in text


def test_not_even_the_traceback_shows_credentials(server: RangeServer) -> None:
    address = f"http://ann:{SECRET}@{server.url.removeprefix('http://')}"
    url = f"{address}/none.svs?X-Amz-Signature={SECRET}"
    command = [sys.executable, "-m", "wsi_pipeline", "info", url, "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert "none.svs: no such file" in done.stderr
    assert SECRET not in done.stderr + done.stdout


def test_two_addresses_with_one_name_are_two_slides(
    server: RangeServer, tmp_path: Path, tissue_path: Path
) -> None:
    """The file's name without its signature is the id; the second gets its hash."""
    (server.folder / "b").mkdir(exist_ok=True)
    (server.folder / "b" / "slide.tif").write_bytes(tissue_path.read_bytes())
    urls = [f"{server.url}/slide.tif?sig=1.2", f"{server.url}/b/slide.tif?sig=3"]
    assert wsi("tile", *urls, "-o", tmp_path, "--progress", "none") == 0
    first, second = sorted(path.stem for path in (tmp_path / "stores").glob("*.zarr"))
    digest = read_source(str(tissue_path)).quick_hash[:8]
    assert (first, second) == ("slide", f"slide-{digest}")


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """An S3 bucket that holds the slide; the environment says where, and with which keys."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("slides-bucket")
        files.put(str(folder / "slide.tif"), "slides-bucket/archive/slide.tif")
        yield "s3://slides-bucket"
    server.stop()


def test_a_slide_in_s3_is_read_by_ranges(
    bucket: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs import S3FileSystem

    fetched: list[int] = []
    right = S3FileSystem._cat_file

    async def counted(self: S3FileSystem, *args: Any, **kwargs: Any) -> bytes:
        data: bytes = await right(self, *args, **kwargs)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(S3FileSystem, "_cat_file", counted)
    grid = block_of_tiles(folder / "slide.tif")
    with open_slide(f"{bucket}/archive/slide.tif") as slide:
        opening = sum(fetched)
        assert opening <= HEADERS_BYTES
        tiles, _ = read_tiles(slide, grid.coords, TileGeometry.of(grid))
    assert np.array_equal(tiles, local_tiles(folder / "slide.tif", grid))
    assert sum(fetched) - opening <= 1.25 * stored_bytes(folder / "slide.tif", grid)
    assert len(fetched) <= 18


def test_what_s3_has_not_or_does_not_give(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("archive/none.tif", "none.tif"):
        with pytest.raises(SlideAccessError, match="no such file"):
            open_slide(f"{bucket}/{name}")
    with pytest.raises(SlideAccessError, match="no such file"):
        open_slide("s3://no-such-bucket/slide.tif")
    with pytest.raises(SlideAccessError, match="a folder, not a file"):
        open_slide(f"{bucket}/archive")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(SlideAccessError, match="Unable to locate credentials; give credentials"):
        open_slide(f"{bucket}/archive/slide.tif", storage_options={"skip_instance_cache": True})


def test_keys_in_storage_options_are_used_and_never_stored(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    options = {"endpoint_url": endpoint, "key": "testing", "secret": SECRET}
    from tiling import tissue_mask
    from tiling.store import create_store

    with open_slide(f"{bucket}/archive/slide.tif", storage_options=options) as slide:
        assert SECRET not in f"{slide!r} {slide.ref!r}"
        mask = tissue_mask(slide)
        grid = tile_grid(slide, TileSpec(tile_px=256, mpp=0.5), mask)
        store = create_store(tmp_path / "a.zarr", slide, grid, mask, slide_id="a")
        again = pickle.loads(pickle.dumps(slide.ref))  # noqa: S301 (our own bytes)
        assert again == slide.ref
        assert again.storage_options == options
    assert store.slide_path == f"{bucket}/archive/slide.tif"
    assert store.source == read_source(str(folder / "slide.tif"))
    assert SECRET not in everything_in(tmp_path)


def test_wsi_reads_s3_with_keys_from_the_environment(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/archive/slide.tif"
    assert wsi("info", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["width"] == 5269
    assert wsi("tile", url, "-o", tmp_path, "--progress", "none") == 0
    assert open_store(tmp_path / "stores" / "slide.zarr").slide_path == url
    assert SECRET not in everything_in(tmp_path)
