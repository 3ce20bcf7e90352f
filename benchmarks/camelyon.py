"""Labels from annotations, and FROC over a test set, beside the obvious NumPy and Shapely way.

Annotations: the outlines of CAMELYON16 training slides to the tumour fraction of every tile of a
grid over their bounds and 10 % around, and to a mask at level 5. The obvious way intersects every
tile with every outline that its bounds touch, and asks Shapely about every pixel's centre.
FROC: 130 generated slides, 49 with lesions, 200 detections on each. The obvious way are the steps
of the challenge's program: a distance transform of the whole mask, SciPy's filling, a loop over
thresholds. The plain way runs on a few slides only (`--plain`); ratios compare the same slides.
CPU seconds of one process.

    python benchmarks/camelyon.py --annotations \
../shared/data/camelyon16_annotations/tumor_polygons_train.zip
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from shapely import MultiPolygon
from skimage.measure import label, regionprops

from mil_models.froc import SlideHits, froc, hits_of
from mil_models.lesions import find_lesions
from tiling.annotation_files import read_annotations
from tiling.annotations import area_fractions, area_mask, tumour_area

T = TypeVar("T")
DOWNSAMPLE = 32
MASK_SHAPE = (6700, 3050)
"""Level 5 of a slide of 97,600 x 214,400 px."""


class Clock:
    """CPU seconds by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.process_time() - start


def around(bounds: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
    """Return the bounds with 10 % around, not below 0."""
    x0, y0, x1, y1 = bounds
    w, h = (x1 - x0) / 10, (y1 - y0) / 10
    return max(int(x0 - w), 0), max(int(y0 - h), 0), int(x1 + w) + 1, int(y1 + h) + 1


def grid(bounds: tuple[int, int, int, int], tile: int) -> NDArray[np.int64]:
    columns, rows = (np.arange(bounds[i], bounds[i + 2], tile) for i in (0, 1))
    corners = np.meshgrid(columns, rows)
    return np.stack(corners, axis=-1).reshape(-1, 2)


def plain_fractions(
    area: MultiPolygon, coords: NDArray[np.int64], tile: int
) -> NDArray[np.float64]:
    """Intersect every tile with every outline near it."""
    tree, parts = shapely.STRtree(area.geoms), list(area.geoms)
    found = np.zeros(len(coords))
    for index, (x, y) in enumerate(coords.tolist()):
        box = shapely.box(x, y, x + tile, y + tile)
        found[index] = sum(box.intersection(parts[i]).area for i in tree.query(box)) / tile**2
    return found


def plain_mask(area: MultiPolygon, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ask about every pixel's centre."""
    x, y = np.meshgrid(*((np.arange(n) + 0.5) * DOWNSAMPLE for n in size))
    shapely.prepare(area)
    return np.asarray(shapely.contains_xy(area, x, y))


def annotations(archive: Path, tile: int, plain: int) -> None:
    ours, same, theirs = Clock(), Clock(), Clock()
    tiles = pixels = 0
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as zipped:
            names = sorted(n for n in zipped.namelist() if n.endswith(".json"))
            zipped.extractall(folder)
        for number, name in enumerate(names):
            clocks = [ours, same] if number < plain else [ours]
            with ours.of("reading and areas"):
                area = tumour_area(read_annotations(Path(folder) / name))
            bounds = around(area.bounds)
            coords, size = grid(bounds, tile), (bounds[2] // DOWNSAMPLE, bounds[3] // DOWNSAMPLE)
            tiles, pixels = tiles + len(coords), pixels + size[0] * size[1]
            extent = (tile, tile)
            fractions = timed(clocks, "fractions", area_fractions, area, coords, extent)
            mask = timed(clocks, "masks", area_mask, area, size, DOWNSAMPLE)
            if number < plain:
                with theirs.of("fractions"):
                    expected = plain_fractions(area, coords, tile)
                with theirs.of("masks"):
                    drawn = plain_mask(area, size)
                np.testing.assert_allclose(fractions, expected, atol=1e-9)
                y, x = (np.nonzero(mask != drawn)[i] + 0.5 for i in (0, 1))
                # Shapely holds no centre that lies on an outline, masks those of one side.
                differing = shapely.points(x * DOWNSAMPLE, y * DOWNSAMPLE)
                np.testing.assert_array_equal(shapely.distance(differing, area.boundary), 0)
    print(f"{len(names)} annotations, {tiles} tiles of {tile} px, {pixels / 1e6:.0f} Mpx of masks:")
    for what, seconds in ours.spent.items():
        print(f"  {what:18} {seconds:8.2f} s")
    print(f"  all                {sum(ours.spent.values()):8.2f} s")
    report(same, theirs, f"the first {plain} of them")


def timed(clocks: list[Clock], what: str, work: Callable[..., T], *given: Any, **named: Any) -> T:
    start = time.process_time()
    found = work(*given, **named)
    for clock in clocks:
        clock.spent[what] = clock.spent.get(what, 0.0) + time.process_time() - start
    return found


def report(ours: Clock, theirs: Clock, of: str) -> None:
    print(f"  {of}, same results:   ours     plain   ratio")
    for what, seconds in theirs.spent.items():
        mine = ours.spent[what]
        print(f"  {what:18} {mine:10.2f} {seconds:9.2f} {seconds / max(mine, 1e-9):7.1f}")


def generated_mask(rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a few discs of 5 to 300 px on half of the slide."""
    mask = np.zeros(MASK_SHAPE, bool)
    for _ in range(rng.integers(1, 12)):
        r = int(5 * 60 ** rng.random())
        y, x = rng.integers(r, MASK_SHAPE[0] // 2), rng.integers(r, MASK_SHAPE[1] - r)
        yy, xx = np.ogrid[-r : r + 1, -r : r + 1]
        part = mask[y - r : y + r + 1, x - r : x + r + 1]
        part |= yy**2 + xx**2 <= r**2
    return mask


def plain_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], list[int]]:
    near = ndimage.distance_transform_edt(~mask) < 75 / (0.243 * DOWNSAMPLE * 2)
    labels = label(ndimage.binary_fill_holes(near), connectivity=2)
    limit = 275 / (0.243 * DOWNSAMPLE)
    return labels, [p.label for p in regionprops(labels) if p.axis_major_length < limit]


def plain_curve(slides: list[SlideHits]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    alarms = np.concatenate([s.false_positives for s in slides])
    regions = np.concatenate([np.where(s.is_lesion, np.nan_to_num(s.region_scores), 0)
                              for s in slides]).astype(np.float32)  # fmt: skip
    thresholds = sorted({*alarms.tolist(), *map(float, regions)})[1:]
    rates = [(alarms >= t).sum() for t in thresholds]
    hits = [(regions >= np.float32(t)).sum() for t in thresholds]
    lesions = sum(s.lesions for s in slides)
    return np.array([*rates, 0]) / len(slides), np.array([*hits, 0]) / lesions


def lesions(plain: int, detections: int) -> None:
    rng = np.random.default_rng(0)
    ours, same, theirs = Clock(), Clock(), Clock()
    slides: list[SlideHits] = []
    for number in range(130):
        scores = rng.random(detections)
        if number >= 49:
            slides.append(SlideHits(detections, scores, np.zeros(0)))
            continue
        mask = generated_mask(rng)
        clocks = [ours, same] if number < plain else [ours]
        found = timed(clocks, "regions", find_lesions, mask)
        x, y = (rng.integers(0, n * DOWNSAMPLE, detections) for n in reversed(MASK_SHAPE))
        slides.append(hits_of(scores, x, y, found))
        if number < plain:
            with theirs.of("regions"):
                labels, itc = plain_regions(mask)
            np.testing.assert_array_equal(found.labels, labels)
            assert list(found.itc) == itc  # noqa: S101 (the point of the comparison)
    curve = timed([ours, same], "curve", froc, slides, resamples=0)
    timed([ours], "1000 draws", froc, slides)
    with theirs.of("curve"):
        rates, sensitivities = plain_curve(slides)
    np.testing.assert_allclose(curve.rates, rates)
    np.testing.assert_allclose(curve.sensitivities, sensitivities)
    print(f"130 slides, 49 with lesions, masks of {MASK_SHAPE}, {130 * detections} detections:")
    for what, seconds in ours.spent.items():
        print(f"  {what:18} {seconds:8.2f} s")
    report(same, theirs, f"regions of {plain} slides, the curve of all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--annotations", type=Path, help="ZIP of the JSON form")
    parser.add_argument("--tile", type=int, default=512, help="level-0 px")
    parser.add_argument("--plain", type=int, default=4, help="slides done in the plain way too")
    parser.add_argument("--detections", type=int, default=200, help="on a slide")
    given = parser.parse_args()
    if given.annotations is not None:
        annotations(given.annotations, given.tile, given.plain)
    lesions(given.plain, given.detections)


if __name__ == "__main__":
    main()
