"""Areas that outlines enclose, the share of tiles in them, and masks; exact."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely import MultiPolygon, box

from tiling import open_slide
from tiling.annotation_files import read_annotations
from tiling.annotations import (
    Annotation,
    AnnotationError,
    area_fractions,
    area_mask,
    tumour_area,
)
from tiling.write import write_mask


def outline(
    *points: tuple[float, float], group: str = "Tumor", kind: str = "polygon"
) -> Annotation:
    return Annotation("a", group, kind, np.array(points, float).reshape(-1, 2))


def square(x: float, y: float, side: float, group: str = "Tumor") -> Annotation:
    return outline((x, y), (x + side, y), (x + side, y + side), (x, y + side), group=group)


LOOP = ((0, 0), (4, 0), (4, 4), (0, 4))


def star(points: int = 5, step: int = 2) -> Annotation:
    turn = np.arange(points) * 2 * np.pi * step / points
    return outline(*zip(100 + 90 * np.cos(turn), 100 + 90 * np.sin(turn), strict=True))


@pytest.mark.parametrize(
    ("annotation", "area"),
    [
        (square(3, 4, 10), 100),
        (outline((0, 0), (2, 2), (2, 0), (0, 2)), 2),  # a bow-tie: both halves
        (
            outline((0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (3, 1), (3, 3), (1, 3), (1, 1)),
            16,
        ),
        (outline((1, 1), (5, 5)), 0),
        (outline((1, 1)), 0),
        (outline(), 0),
        (outline((0, 0), (5, 5), (9, 9)), 0),  # on one line
        (outline((0, 0), (4, 0), (4, 4), (9, 4), (4, 4), (0, 4)), 16),  # with a spike
        (outline((0, 0), (9, 0), (0, 9), kind="point"), 0),
        (outline((0, 0), (9, 0), (0, 9), kind="line"), 0),
    ],
)
def test_what_an_outline_encloses(annotation: Annotation, area: float) -> None:
    """ASAP's masks hold every point with a winding number other than 0 (`AnnotationToMask`)."""
    assert annotation.area.area == pytest.approx(area)
    assert annotation.area.is_valid


def test_the_middle_of_a_star_is_inside() -> None:
    """It is wound around twice: an even-odd rule would leave it out."""
    assert star().area.contains(shapely.Point(100, 100))


@pytest.mark.parametrize("seed", range(20))
def test_wild_outlines_enclose_what_they_wind_around(seed: int) -> None:
    """Winding numbers by counting crossings of a ray to the right, upward less downward."""
    rng = np.random.default_rng(seed)
    ring = rng.integers(0, 40, (rng.integers(4, 25), 2)).astype(float)
    x, y = rng.uniform(0, 40, (2, 500))
    winding = np.zeros(500, int)
    for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if ay == by:
            continue
        right = ax + (y - ay) * (bx - ax) / (by - ay) > x
        winding += (right & (ay <= y) & (y < by)).astype(int)
        winding -= (right & (by <= y) & (y < ay)).astype(int)
    area = outline(*map(tuple, ring)).area
    np.testing.assert_array_equal(shapely.contains_xy(area, x, y), winding != 0)


def test_holes_and_excluded_groups() -> None:
    ring = Annotation("a", "Tumor", "polygon", square(0, 0, 10).vertices,
                      (square(2, 2, 3).vertices, outline((1, 1)).vertices))  # fmt: skip
    assert ring.area.area == 100 - 9
    found = tumour_area([ring, square(8, 8, 4), square(9, 9, 2, group="_2")])
    assert found.area == 100 - 9 + 16 - 4 - 4  # 2 x 2 shared, 2 x 2 excluded
    assert found.is_valid


@pytest.mark.parametrize("group", ["_0", "_1", "Tumor", "metastases"])
@pytest.mark.parametrize("other", ["_2", "Exclusion", "None", "normal"])
def test_groups_of_both_challenges(group: str, other: str) -> None:
    assert tumour_area([square(0, 0, 10, group), square(0, 0, 5, other)]).area == 75


def test_an_unknown_group_is_refused_unless_told() -> None:
    with pytest.raises(AnnotationError, match="group 'Stroma' is neither tumour nor excluded"):
        tumour_area([square(0, 0, 10, "Stroma")])
    assert tumour_area([square(0, 0, 10, "Stroma")], tumour=["Stroma"]).area == 100
    assert tumour_area([outline((1, 1), group="Stroma", kind="point")]).is_empty


def test_fractions_by_hand() -> None:
    """A square from (5, 0) to (15, 10), tiles of 10 x 20."""
    area = tumour_area([square(5, 0, 10)])
    coords = np.array([[0, 0], [10, 0], [5, -5], [15, 0], [-100, 3], [7, 2]])
    expected = [50 / 200, 50 / 200, 100 / 200, 0, 0, 8 * 8 / 200]
    assert area_fractions(area, coords, (10, 20)).tolist() == pytest.approx(expected)
    assert area_fractions(area, np.array([[6, 1]]), (2, 2)).tolist() == [1.0]
    assert area_fractions(MultiPolygon(), coords, (10, 20)).tolist() == [0.0] * 6
    assert area_fractions(area, np.zeros((0, 2), np.int64), (10, 20)).shape == (0,)
    with pytest.raises(ValueError, match="must be positive"):
        area_fractions(area, coords, (0, 5))


def wild(seed: int) -> MultiPolygon:
    """Outlines of hundreds of points that cross themselves and each other, with holes."""
    rng = np.random.default_rng(seed)
    drawn = []
    for number in range(6):
        turn = np.sort(rng.uniform(0, 4 * np.pi, 700))
        reach = 300 + rng.normal(0, 25, 700)
        middle = rng.uniform(200, 1800, 2)
        points = middle + np.c_[np.cos(turn), np.sin(turn)] * reach[:, None]
        drawn.append(outline(*map(tuple, points), group="_2" if number == 5 else "_0"))
    return tumour_area(drawn)


@pytest.mark.parametrize("tile", [33, 256, 5000])
def test_fractions_are_those_of_the_whole_area(tile: int) -> None:
    """Cutting the area in pieces changes nothing: tile by tile with Shapely alone."""
    area = wild(1)
    rng = np.random.default_rng(2)
    coords = rng.integers(-300, 2300, (150, 2))
    boxes = shapely.box(*coords.T, *(coords + tile).T)
    expected = shapely.area(shapely.intersection(boxes, area)) / tile**2
    np.testing.assert_allclose(area_fractions(area, coords, (tile, tile)), expected, atol=1e-9)
    assert (expected > 0).any()


@pytest.mark.parametrize("downsample", [1.0, 4.0, 32.0, 7.3])
def test_a_mask_holds_the_pixels_whose_centre_is_inside(downsample: float) -> None:
    area = wild(3)
    size = int(2300 / downsample), int(1900 / downsample)
    mask = area_mask(area, size, downsample)
    x, y = np.meshgrid(*(((np.arange(n) + 0.5) * downsample) for n in size))
    expected = shapely.contains_xy(area, x, y)
    assert (mask != expected).sum() == 0
    assert 0 < mask.mean() < 1


def test_strips_are_parts_of_the_whole_mask() -> None:
    area = wild(4)
    whole = area_mask(area, (500, 450), 4)
    strips = [area_mask(area, (500, min(64, 450 - top)), 4, first_row=top)
              for top in range(0, 450, 64)]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate(strips), whole)


def test_edges_on_pixel_centres_belong_to_one_side() -> None:
    """Two squares with a common edge through pixel centres: no pixel twice, none left out."""
    left, right = (tumour_area([square(x, 0.5, 4)]) for x in (0.5, 4.5))
    masks = [area_mask(area, (12, 8), 1).astype(int) for area in (left, right)]
    assert [m.sum() for m in masks] == [16, 16]
    assert np.sum(masks, axis=0).max() == 1


def test_a_mask_pyramid_is_read_back_by_the_slide_reader(tmp_path: Path) -> None:
    area = wild(5)
    path = write_mask(tmp_path / "m.tif", area, (2301, 1907), mpp=0.25, downsamples=(1, 4, 32))
    with open_slide(path) as slide:
        assert slide.level_sizes == ((2301, 1907), (575, 476), (71, 59))
        assert slide.mpp == pytest.approx((0.25, 0.25))
        for level, downsample in enumerate((1, 4, 32)):
            size = slide.level_sizes[level]
            pixels = slide.read_region((0, 0), level=level, size=size)[..., 0]
            np.testing.assert_array_equal(pixels, area_mask(area, size, downsample) * 255)
    for bad in ({"downsamples": (4, 1)}, {"size": (0, 5)}):
        with pytest.raises(ValueError, match="must"):
            write_mask(tmp_path / "n.tif", MultiPolygon(), **{"size": (9, 9), "mpp": None} | bad)
    with pytest.raises(AnnotationError, match="outlines lie outside the slide"):
        write_mask(tmp_path / "n.tif", MultiPolygon([box(20, 0, 30, 9)]), (9, 9), mpp=None)
    assert not (tmp_path / "n.tif").exists()


@pytest.mark.parametrize("slide", ["tumor_001", "tumor_054", "tumor_003"])
def test_the_challenges_outlines(shared_data: Path, tmp_path: Path, slide: str) -> None:
    """tumor_054 holds an outline of two points. The tiles add up to the area."""
    archive = shared_data / "camelyon16_annotations" / "tumor_polygons_train.zip"
    with zipfile.ZipFile(archive) as files:
        [name] = [n for n in files.namelist() if n.endswith(f"{slide}.json")]
        path = Path(files.extract(name, tmp_path))
    area = tumour_area(read_annotations(path))
    x0, y0, x1, y1 = area.bounds
    corners = np.meshgrid(
        np.arange(int(x0), int(x1) + 1, 512), np.arange(int(y0), int(y1) + 1, 512)
    )
    coords = np.stack(corners, axis=-1).reshape(-1, 2)
    fractions = area_fractions(area, coords, (512, 512))
    assert fractions.sum() * 512**2 == pytest.approx(area.area, rel=1e-9)
    mask = area_mask(area, (int(x1) // 32 + 1, int(y1) // 32 + 1), 32)
    assert mask.sum() * 1024 == pytest.approx(area.area, rel=0.02)
