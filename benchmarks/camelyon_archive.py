"""The whole chain on a generated archive in CAMELYON16's layout: from slides to the report.

Slides are composed of the CC0 fields that the demo uses (lymph node, tumour, stroma), with real
lesion outlines of CAMELYON16 scaled into their tissue, over two centres of different stain and
pixel size. Weak (additive MIL) and strong (tiles) models are trained on the training slides, and
judged on the test slides: AUROC, FROC, Dice of the thresholded maps. With `--apart` training and
test slides share no field.

What the figures can mean: that every step of the chain works, how long it takes, and that a change
broke nothing. What they cannot: anything about medical performance. There are few fields, of three
real slides; edges of lesions are sharp; nothing resembles tumour that is none. With fields in
common test slides are no strangers; apart, one field that is taken for tumour is a false alarm on
every slide that has it.

Where other programs want the cores too, OMP_NUM_THREADS=1 spares most of the training's time.

    python benchmarks/camelyon_archive.py -o archive --annotations \
../shared/data/camelyon16_annotations/tumor_polygons_train.zip
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import resource
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, affinity

from mil_models.lesions import DOWNSAMPLE
from tiling.annotation_files import read_annotations, write_annotations
from tiling.annotations import Annotation, area_mask, tumour_area
from tiling.samples import FIELD_PX, sample_fields
from tiling.write import write_slide
from wsi_pipeline.camelyon.maps import load_map
from wsi_pipeline.cli import run_tokens
from wsi_pipeline.results import write_json

MPP = {"a": 0.243, "b": 0.226}
"""The challenge's two scanners; the centres are told apart by it."""
STAIN = {"a": (1.0, 1.0, 1.0), "b": (0.72, 1.12, 0.8)}
"""Factors of the optical density of each colour."""
COARSE = 64
"""Level-0 px for one px of the map of tissue."""
NORMAL, TUMOUR, STROMA = 0, 1, 2
THRESHOLDS = {"weak": 0.2, "strong": 0.5}
"""Weak maps are a tile's share of its slide's evidence, times the slide's score."""
GLASS = np.array([243, 242, 244], np.uint8)


@dataclass(frozen=True)
class Plan:
    """A slide to be made."""

    name: str
    folder: str
    size: tuple[int, int]
    centre: str
    is_tumour: bool
    is_test: bool
    seed: int
    apart: bool = False


class Patchwork:
    """Pixels of a slide, made where they are asked for: what `write_slide` slices."""

    def __init__(self, plan: Plan, area: MultiPolygon, tissue: NDArray[np.bool_]) -> None:
        width, height = plan.size
        self.shape = (height, width, 3)
        self.area, self.tissue = area, tissue
        shapely.prepare(area)
        rng = np.random.default_rng([plan.seed, 1])
        self.fields = [stained(fields, plan, rng) for fields in own_fields(plan)]
        cells = -(-height // FIELD_PX), -(-width // FIELD_PX)
        self.drawn = rng.integers(0, 1 << 30, cells)
        self.stroma = rng.random(cells) < 0.15

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = key
        top, left = rows.start, columns.start
        bottom, right = min(rows.stop, self.shape[0]), min(columns.stop, self.shape[1])
        pixels = np.broadcast_to(GLASS, (bottom - top, right - left, 3)).copy()
        for y in range(top // FIELD_PX, -(-bottom // FIELD_PX)):
            for x in range(left // FIELD_PX, -(-right // FIELD_PX)):
                y0, x0 = max(y * FIELD_PX, top), max(x * FIELD_PX, left)
                y1, x1 = min((y + 1) * FIELD_PX, bottom), min((x + 1) * FIELD_PX, right)
                here = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
                self._fill(pixels[here], (y, x), (y0, x0))
        return pixels

    def _fill(self, pixels: NDArray[np.uint8], cell: tuple[int, int], at: tuple[int, int]) -> None:
        """Write tissue over glass in a part of a field's cell, `at` y0 and x0."""
        height, width = pixels.shape[:2]
        rows = (np.arange(at[0], at[0] + height)) // COARSE
        columns = (np.arange(at[1], at[1] + width)) // COARSE
        tissue = self.tissue[np.ix_(rows, columns)]
        if not tissue.any():
            return
        kinds = [(NORMAL if not self.stroma[cell] else STROMA, tissue)]
        box = shapely.box(at[1], at[0], at[1] + width, at[0] + height)
        if self.area.contains(box):
            kinds = [(TUMOUR, np.ones_like(tissue))]
        elif self.area.intersects(box):
            own = affinity.translate(MultiPolygon(_polygons(self.area & box)), -at[1], -at[0])
            kinds.append((TUMOUR, area_mask(own, (width, height), 1)))
        drawn = int(self.drawn[cell])
        y, x = at[0] % FIELD_PX, at[1] % FIELD_PX
        for kind, where in kinds:
            fields = self.fields[kind]
            field = np.rot90(fields[drawn % len(fields)], drawn // 64 % 4)
            part = field[y : y + height, x : x + width]
            np.copyto(pixels, part, where=where[..., None])


def write_patchwork(path: Path, patchwork: Patchwork, mpp: float) -> None:
    """Write a slide; its pixels are made once, into a file that is taken away again."""
    with tempfile.TemporaryFile(dir=path.parent) as file:
        pixels = np.memmap(file, np.uint8, "w+", shape=patchwork.shape)
        for top in range(0, patchwork.shape[0], FIELD_PX):
            rows = slice(top, min(top + FIELD_PX, patchwork.shape[0]))
            pixels[rows] = patchwork[rows, slice(0, patchwork.shape[1])]
        write_slide(path, pixels, mpp=mpp, downsamples=(1, 4, 16), tile_px=512)


def _polygons(found: shapely.Geometry) -> list[shapely.Polygon]:
    return [p for p in shapely.get_parts(found) if isinstance(p, shapely.Polygon)]


def own_fields(plan: Plan) -> list[Sequence[NDArray[np.uint8]]]:
    """Return the fields of normal tissue, tumour and stroma that a slide is made of."""
    if not plan.apart:
        return list(sample_fields())
    return [fields[int(plan.is_test) :: 2] for fields in sample_fields()]


def stained(
    fields: Sequence[NDArray[np.uint8]], plan: Plan, rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """Return fields in a centre's stain, a little different on every slide."""
    strength = np.array(STAIN[plan.centre]) * rng.normal(1, 0.03, 3)
    curve = (255 * (np.arange(1, 257)[:, None] / 256) ** strength).astype(np.uint8)
    return [np.stack([curve[field[..., c], c] for c in range(3)], axis=-1) for field in fields]


def make_tissue(plan: Plan) -> NDArray[np.bool_]:
    """Return where tissue is, `COARSE` level-0 px a pixel: a wavy ellipse."""
    rng = np.random.default_rng([plan.seed, 2])
    columns, rows = (-(-edge // COARSE) for edge in plan.size)
    y, x = np.mgrid[0:rows, 0:columns]
    y, x = (y - rows / 2) / (0.42 * rows), (x - columns / 2) / (0.42 * columns)
    angle = np.arctan2(y, x)
    wave = sum(rng.uniform(0, 0.08) * np.sin(k * angle + rng.uniform(0, 6)) for k in (2, 3, 5, 8))
    return np.asarray(np.hypot(x, y) < 0.92 + wave)


def place_lesion(plan: Plan, outlines: MultiPolygon, share: float) -> MultiPolygon:
    """Return outlines scaled to span `share` of the slide's shorter edge, in its tissue."""
    rng = np.random.default_rng([plan.seed, 3])
    x0, y0, x1, y1 = outlines.bounds
    factor = share * min(plan.size) / max(x1 - x0, y1 - y0)
    scaled = affinity.scale(outlines, factor, factor, origin=(0, 0))
    centre = [edge * (0.5 + rng.uniform(-0.12, 0.12)) for edge in plan.size]
    middle = (x0 + x1) / 2 * factor, (y0 + y1) / 2 * factor
    moved = affinity.translate(scaled, centre[0] - middle[0], centre[1] - middle[1])
    return MultiPolygon(_polygons(moved))


def plan_slides(
    slides: int,
    longest: int,
    sizes: tuple[int, int],
    long_size: tuple[int, int],
    seed: int,
    *,
    apart: bool = False,
) -> list[Plan]:
    """Return plans: three of five slides to train on, half of either part with tumour."""
    rng = np.random.default_rng(seed)
    plans = []
    numbers: dict[str, int] = {}
    for index in range(slides):
        is_test, is_tumour = index % 5 in (2, 3), index % 2 == 1
        kind = "test" if is_test else "tumor" if is_tumour else "normal"
        numbers[kind] = numbers.get(kind, 0) + 1
        folder = "testing/images" if is_test else f"training/{kind}"
        size = tuple(int(v) | 1 for v in rng.integers(*sizes, 2))
        if index in range(1, 1 + longest):
            size = long_size
        centre = "ab"[index // 2 % 2]
        name = f"{kind}_{numbers[kind]:03d}"
        plans.append(Plan(name, folder, size, centre, is_tumour, is_test, seed * 1000 + index,
                          apart))  # fmt: skip
    return plans


def make_archive(
    root: Path,
    plans: Sequence[Plan],
    outlines: Path,
    *,
    shares: tuple[float, float] = (0.3, 0.8),
) -> dict[str, MultiPolygon]:
    """Write slides, zipped ASAP outlines and the reference; return the lesions' areas."""
    shapes = read_outlines(outlines, sum(plan.is_tumour for plan in plans))
    areas: dict[str, MultiPolygon] = {}
    packed: dict[str, list[Path]] = {"training": [], "testing": []}
    for plan in plans:
        area = MultiPolygon()
        if plan.is_tumour:
            share = np.random.default_rng([plan.seed, 4]).uniform(*shares)
            area = place_lesion(plan, shapes[len(areas)], float(share))
            areas[plan.name] = area
        tissue = make_tissue(plan)
        if not area.is_empty:
            size = tissue.shape[1], tissue.shape[0]
            tissue = tissue | area_mask(area, size, COARSE)
        path = root / plan.folder / f"{plan.name}.tif"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_patchwork(path, Patchwork(plan, area, tissue), MPP[plan.centre])
    with tempfile.TemporaryDirectory() as folder:
        for plan in plans:
            if plan.is_tumour:
                file = write_annotations(Path(folder) / f"{plan.name}.xml", drawn(areas[plan.name]))
                packed["testing" if plan.is_test else "training"].append(file)
        for part, files in packed.items():
            (root / part).mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(root / part / "lesion_annotations.zip", "w") as archive:
                for file in files:
                    archive.write(file, file.name)
    reference = [(p.name, "Tumor" if p.is_tumour else "Normal") for p in plans if p.is_test]
    with (root / "testing" / "reference.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(reference)
    return areas


def drawn(area: MultiPolygon) -> list[Annotation]:
    """Return outlines as the challenge has them."""
    return [
        Annotation(f"Annotation {i}", "Tumor", "polygon", np.asarray(p.exterior.coords)[:-1],
                   tuple(np.asarray(r.coords)[:-1] for r in p.interiors))
        for i, p in enumerate(area.geoms)
    ]  # fmt: skip


def read_outlines(archive: Path, count: int) -> list[MultiPolygon]:
    """Return the areas of tumour of the first files whose lesions are not scattered specks."""
    found = []
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as zipped:
        for name in sorted(n for n in zipped.namelist() if n.endswith(".json")):
            area = tumour_area(read_annotations(zipped.extract(name, folder)))
            if not area.is_empty and area.area > 0.05 * shapely.box(*area.bounds).area:
                found.append(area)
            if len(found) == count:
                return found
    raise SystemExit(f"{archive}: {len(found)} usable outlines, {count} are needed")


def wsi(*words: object) -> None:
    """Run a command of ours; a failure ends the benchmark."""
    code = run_tokens([str(word) for word in words])
    if code:
        raise SystemExit(f"wsi {' '.join(map(str, words))}: exit code {code}")


def dice(
    predicted: Path, names: Sequence[str], areas: dict[str, MultiPolygon], threshold: float
) -> None:
    """Write `segmentation.json`: how thresholded maps overlap with the masks at level 5."""
    slides = {}
    for name in names:
        map_ = load_map(predicted / "maps" / f"{name}.npz")
        size = tuple(edge // DOWNSAMPLE for edge in map_.slide_size)
        truth = area_mask(areas[name], size, DOWNSAMPLE)  # type: ignore[arg-type]
        y, x = (
            np.minimum(((np.arange(n) + 0.5) * DOWNSAMPLE / c).astype(int), m - 1)
            for n, c, m in zip(truth.shape, map_.cell_px[::-1], map_.values.shape, strict=True)
        )
        said = np.nan_to_num(map_.values)[np.ix_(y, x)] >= threshold
        both, either = (said & truth).sum(), (said | truth).sum()
        slides[name] = {"dice": float(2 * both / (said.sum() + truth.sum())),
                        "iou": float(both / either)}  # fmt: skip
    write_json(predicted / "segmentation.json", {"slides": slides})


def chain(
    root: Path, areas: dict[str, MultiPolygon], *, epochs: int, positive: float, quick: bool
) -> None:
    """Run every command from the archive to two reports, and print what they say."""
    out, work = root / "out", root / "work"
    work.mkdir(exist_ok=True)
    manifest = root / "manifest.csv"
    run_tokens(["camelyon", "check", str(root), "--manifest", str(manifest)])  # most are missing
    clock = Clock()
    wsi("embed", manifest, "-o", out, "--min-tissue", 0.3, "--progress", "none")
    clock.stop("embedding")
    zips = [root / part / "lesion_annotations.zip" for part in ("training", "testing")]
    wsi("camelyon", "labels", zips[1], "-o", work / "labelled", "--stores", out, "--masks")
    clock.stop("masks")
    common = ["--stores", out, "--labels", manifest, "--epochs", epochs]
    wsi("camelyon", "train", *common, "-o", work / "weak", "--json")
    clock.stop("weak training")
    wsi("camelyon", "train", *common, "-o", work / "strong", "--annotations", zips[0], "--json",
        "--positive", positive)  # fmt: skip
    clock.stop("strong training")
    tests = [name for name in areas if name.startswith("test")]
    for kind, threshold in THRESHOLDS.items():
        predicted, masks = work / f"by_{kind}", work / "labelled" / "masks"
        wsi("camelyon", "predict", "--stores", out, "--model", work / kind, "-o", predicted,
            "--threshold", threshold)  # fmt: skip
        dice(predicted, tests, areas, threshold)
        wsi("camelyon", "evaluate", predicted, "--manifest", manifest, "--split", "test", "--masks",
            masks)  # fmt: skip
        wsi("camelyon", "report", predicted, "--stores", out, "--masks", masks)
        clock.stop(f"{kind}: prediction, evaluation, report")
        if not quick:
            show(kind, predicted)


class Clock:
    """Wall and CPU seconds between stops, this process's and its children's."""

    def __init__(self) -> None:
        self._then = self._now()

    def _now(self) -> tuple[float, float]:
        usage = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), sum(u.ru_utime + u.ru_stime for u in usage)

    def stop(self, what: str) -> None:
        """Print what passed since the last stop."""
        now = self._now()
        wall, cpu = (b - a for a, b in zip(self._then, now, strict=True))
        print(f"  {what}: {wall:.0f} s, {cpu:.0f} CPU-s", flush=True)
        self._then = now


def show(kind: str, predicted: Path) -> None:
    figures = json.loads((predicted / "figures.json").read_text())
    overlap = [one["dice"] for one in figures["segmentation"]["slides"].values()]
    parts = [
        f"{name} {value[key]:.3f} ({value[f'{key}_low']:.3f} to {value[f'{key}_high']:.3f})"
        for name, value, key in (
            ("AUROC", figures["slides"], "auroc"),
            ("FROC score", figures["lesions"]["official"], "froc_score"),
            ("corrected", figures["lesions"]["corrected"], "froc_score"),
        )
    ]
    print(f"{kind}: {', '.join(parts)}, Dice {np.mean(overlap):.3f} "
          f"({min(overlap):.3f} to {max(overlap):.3f})", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=30)
    parser.add_argument("--long", type=int, default=2, help="how many of the long size")
    parser.add_argument("--edges", type=int, nargs=2, default=(8000, 12000))
    parser.add_argument("--long-size", type=int, nargs=2, default=(60001, 16001))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--positive", type=float, default=0.5)
    parser.add_argument("--apart", action="store_true", help="no field in training and test")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    plans = plan_slides(
        given.slides,
        given.long,
        tuple(given.edges),
        tuple(given.long_size),
        given.seed,
        apart=given.apart,
    )
    pixels = sum(math.prod(plan.size) for plan in plans)
    print(f"{len(plans)} slides, {pixels / 1e9:.2f} gigapixels, "
          f"{sum(p.is_tumour for p in plans)} with tumour, {sum(p.is_test for p in plans)} to test",
          flush=True)  # fmt: skip
    clock = Clock()
    areas = make_archive(given.out, plans, given.annotations)
    clock.stop("making slides")
    chain(given.out, areas, epochs=given.epochs, positive=given.positive, quick=False)


if __name__ == "__main__":
    main()
