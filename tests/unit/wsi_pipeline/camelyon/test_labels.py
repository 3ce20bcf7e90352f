"""`wsi camelyon labels`: tiles and masks from annotations."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiling import open_store, read_annotations, tumour_area
from tiling.annotation_files import write_annotations
from tiling.annotations import Annotation
from tiling.region_masks import ImageMask, OutlineMask
from wsi_pipeline.cli import run_tokens


def labels(*tokens: object) -> int:
    return run_tokens(["camelyon", "labels", *(str(token) for token in tokens)])


def square(path: Path, x: int, y: int, side: int) -> Path:
    corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
    path.write_text(json.dumps({"positive": [{"name": "a", "vertices": corners}], "negative": []}))
    return path


def rows(path: Path) -> list[tuple[int, int, float]]:
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    return [(int(r["x0"]), int(r["y0"]), float(r["tumour_fraction"])) for r in table]


def test_a_grid_over_the_outlines_and_around(tmp_path: Path) -> None:
    """From 1000 to 2000, 100 px around: tiles of 400 px from 800 to 2400."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    square(folder / "tumor_001.json", 1000, 1000, 1000)
    (folder / "readme.txt").write_text("no annotation")
    out = tmp_path / "out"
    assert labels(folder, "-o", out, "--tile-px", 400, "--masks") == 0
    found = rows(out / "labels" / "tumor_001.csv")
    share = {800: 0.5, 1200: 1.0, 1600: 1.0, 2000: 0.0}
    assert found == [(x, y, share[x] * share[y]) for y in share for x in share]
    mask = np.asarray(Image.open(out / "masks" / "tumor_001.png"))
    assert mask.shape == (75, 75)  # 2400 px
    expected = np.zeros((75, 75), bool)
    expected[31:62, 31:62] = True  # centres from 31.5 * 32 = 1008 to 61.5 * 32 = 1968
    np.testing.assert_array_equal(mask, expected)


def test_the_tiles_of_a_store(tmp_path: Path, tissue_path: Path) -> None:
    """Every tile of the store in its order, and a mask as large as the slide."""
    assert run_tokens(["tile", str(tissue_path), "-o", str(tmp_path / "out"), "--mpp", "0.5",
                       "--tile-px", "100", "--progress", "none"]) == 0  # fmt: skip
    square(tmp_path / "tissue.json", 700, 500, 130)
    flags = ["-o", tmp_path / "l", "--stores", tmp_path / "out", "--masks"]
    assert labels(tmp_path / "tissue.json", *flags) == 0
    found = rows(tmp_path / "l" / "labels" / "tissue.csv")
    grid = open_store(tmp_path / "out" / "stores" / "tissue.zarr").grid
    assert [row[:2] for row in found] == [tuple(c) for c in grid.coords.tolist()]
    shares = {row[:2]: row[2] for row in found}
    assert shares[700, 500] == 1.0
    assert shares[800, 600] == pytest.approx(0.09)
    assert sum(shares.values()) * 100**2 == pytest.approx(130**2)
    with Image.open(tmp_path / "l" / "masks" / "tissue.png") as mask:
        assert mask.size == (2051 // 32, 1537 // 32)
        assert mask.mode == "1"
    square(tmp_path / "other.json", 0, 0, 9)
    assert labels(tmp_path / "other.json", *flags) == 2


def test_outlines_of_another_slide_or_group_are_named(
    tmp_path: Path, tissue_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tokens(["tile", str(tissue_path), "-o", str(tmp_path / "out"), "--mpp", "0.5",
                       "--tile-px", "400", "--progress", "none"]) == 0  # fmt: skip
    square(tmp_path / "tissue.json", 2100, 0, 9)
    flags = ["-o", tmp_path / "l", "--stores", tmp_path / "out"]
    assert labels(tmp_path / "tissue.json", *flags) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "tissue.json: 1 of 1 outlines lie outside the slide" in message
    stroma = Annotation("a", "Stroma", "polygon", np.array([[0.0, 0], [9, 0], [9, 9]]))
    write_annotations(tmp_path / "b.xml", [stroma])
    assert labels(tmp_path / "b.xml", "-o", tmp_path / "l") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "b.xml: a: group 'Stroma' is neither tumour nor excluded" in message
    assert "rename the group" in message


@pytest.mark.parametrize(("form", "name"), [("tiff", "a.tif"), ("ome-zarr", "a.ome.zarr")])
def test_tiled_masks_open_as_slides_and_hold_the_outline(
    tmp_path: Path, form: str, name: str
) -> None:
    """1000 px a side: a pyramid from level 0 on, read as any mask of a slide is."""
    square(tmp_path / "a.json", 1000, 1000, 1000)
    out = tmp_path / "out"
    assert labels(tmp_path / "a.json", "-o", out, "--masks", "--mask-format", form) == 0
    size = (2560, 2560)  # tiles of 512 px from 512 on
    mask = ImageMask(out / "masks" / name, size)
    [corner] = mask.read(np.array([[990, 1980]]), (40, 40), (40, 40))
    expected = np.zeros((40, 40), bool)
    expected[:20, 10:] = True
    np.testing.assert_array_equal(corner, expected)
    [whole] = mask.read(np.zeros((1, 2), int), size, (160, 160))
    outlines = OutlineMask(tumour_area(read_annotations(tmp_path / "a.json")), size)
    np.testing.assert_array_equal(whole, outlines.read(np.zeros((1, 2), int), size, (160, 160))[0])


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("{", [], "a.json: no JSON"),
        ('{"positive": []}', [], "a.json: encloses no tumour; pass --stores for its tiles"),
        ('[{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": []}, "properties": '
         '{"classification": {"name": "Stroma"}}}]', [], "group 'Stroma' is neither"),
        ('{"positive": []}', ["--tile-px", "0"], "--tile-px 0: must be at least 1"),
        (None, [], "no annotation in it"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, flags: list[str],
    message: str,
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    assert labels(tmp_path, "-o", tmp_path / "out", *flags) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("json", "geojson"):
        square(tmp_path / f"a.{suffix}", 0, 0, 9)
    assert labels(tmp_path, "-o", tmp_path / "out") == 2
    assert "two annotation files of a" in capsys.readouterr().err
