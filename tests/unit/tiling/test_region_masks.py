"""What is annotated, of any region and at any scale: outlines and pictures say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import MultiPolygon, Polygon, box

from tiling.annotations import AnnotationError, area_mask
from tiling.region_masks import ImageMask, MaskImageError, OutlineMask
from tiling.write import write_mask

SIZE = (1303, 1007)
RING = Polygon(
    [(100.3, 50.3), (901.3, 50.3), (901.3, 700.3), (100.3, 700.3)],
    [[(300.3, 200.3), (600.3, 200.3), (450.3, 500.3)]],
)
AREA = MultiPolygon([RING, box(1200, 900, 1400, 1100)])
COORDS = np.array([[90, 20], [290, 190], [-64, 600], [1250, 950]])


def plain(area: MultiPolygon, x0: int, y0: int, extent: int, px: int) -> np.ndarray:
    """Ask about each pixel's centre, one by one."""
    from shapely import contains_xy

    centre = (np.arange(px) + 0.5) * extent / px
    return contains_xy(area, *np.meshgrid(x0 + centre, y0 + centre))


@pytest.mark.parametrize(("extent", "px"), [(64, 64), (200, 50), (300, 128)])
def test_outlines_are_drawn_by_the_centres_of_pixels(extent: int, px: int) -> None:
    """No centre lies on an edge here."""
    found = OutlineMask(AREA, SIZE).read(COORDS, (extent, extent), (px, px))
    for one, (x0, y0) in zip(found, COORDS.tolist(), strict=True):
        assert np.array_equal(one, plain(AREA, x0, y0, extent, px))
    assert found.any(axis=(1, 2)).sum() >= 3


def test_the_whole_slide_at_once_is_the_level_mask() -> None:
    outlines = OutlineMask(AREA, SIZE)
    found = outlines.read(np.zeros((1, 2), int), (1300, 1000), (325, 250))[0]
    assert np.array_equal(found, area_mask(AREA, (325, 250), 4))


def test_many_vertices_are_cut_into_pieces_without_a_seam() -> None:
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    disc = MultiPolygon(
        [Polygon(np.stack([6000 + 5000 * np.cos(angle), 6000 + 5000 * np.sin(angle)], 1))]
    )
    outlines = OutlineMask(disc, (12_000, 12_000))
    inner = outlines.read(np.array([[4000, 4000]]), (4096, 4096), (256, 256))
    assert inner.all()


def test_outlines_beside_the_slide_are_refused() -> None:
    with pytest.raises(AnnotationError, match=r"1 of 2 outlines lie outside.*1303 x 1007"):
        OutlineMask(MultiPolygon([RING, box(2000, 0, 2100, 50)]), SIZE)
    assert not OutlineMask(MultiPolygon(), SIZE).read(COORDS, (64, 64), (64, 64)).any()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("masks")
    full, quarter = area_mask(AREA, SIZE, 1), area_mask(AREA, (SIZE[0] // 4, SIZE[1] // 4), 4)
    Image.fromarray(full).save(folder / "full.png")
    Image.fromarray(quarter.view(np.uint8) * np.uint8(255)).save(folder / "quarter.png")
    Image.fromarray(quarter.view(np.uint8) * np.uint8(2)).save(folder / "two.png")
    tiff = write_mask(folder / "mask.tif", AREA, SIZE, mpp=0.5, downsamples=(1, 4, 16), tile_px=64)
    return {"png": folder / "full.png", "quarter": folder / "quarter.png",
            "two": folder / "two.png", "tiff": tiff}  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_pictures_say_what_the_outlines_say(pictures: dict[str, Path], kind: str) -> None:
    found = ImageMask(pictures[kind], SIZE).read(COORDS, (64, 64), (64, 64))
    outlines = OutlineMask(AREA, SIZE).read(COORDS, (64, 64), (64, 64))
    inside = np.stack([(y0 + np.arange(64) < SIZE[1])[:, None] & (x0 + np.arange(64) < SIZE[0])
                       for x0, y0 in COORDS.tolist()])  # fmt: skip
    assert np.array_equal(found, outlines & inside)


@pytest.mark.parametrize("kind", ["quarter", "tiff"])
def test_coarse_masks_are_read_at_their_own_pixels(pictures: dict[str, Path], kind: str) -> None:
    """256 px of level 0 as 64: exactly the mask at a downsample of 4."""
    found = ImageMask(pictures[kind], SIZE).read(np.array([[256, 128]]), (256, 256), (64, 64))[0]
    assert np.array_equal(found, area_mask(AREA, (325, 251), 4)[32:96, 64:128])


def test_other_values_and_shapes_are_refused(pictures: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MaskImageError, match="holds the values 2.*--mask-value"):
        ImageMask(pictures["two"], SIZE)
    two = ImageMask(pictures["two"], SIZE, value=2)
    quarter = ImageMask(pictures["quarter"], SIZE)
    where = np.array([[256, 128]]), (256, 256), (64, 64)
    assert np.array_equal(two.read(*where), quarter.read(*where))
    with pytest.raises(MaskImageError, match=r"1303 x 1007 px is not the shape of its slide, 1007"):
        ImageMask(pictures["png"], (1007, 1303))
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(MaskImageError, match="cannot be read"):
        ImageMask(tmp_path / "no.png", SIZE)
