"""What is done to one slide: windows on tissue through the network, blended into its store."""

from __future__ import annotations

import csv
import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from mil_models.detection import detect
from mil_models.segmentation.lesion_measures import burden, lesion_labels, measure_lesions
from mil_models.segmentation.options import NetworkOptions
from tiling.annotation_files import write_annotations
from tiling.annotations import Annotation
from tiling.atomic import replacing
from tiling.errors import StoreOpenError
from tiling.nodes import Json, node_name
from tiling.outlines import map_outlines, threshold_value
from tiling.probability_map import SCALE, ProbabilityMap, create_map
from tiling.slide import Slide
from tiling.store import SlideStore, check_source, open_store
from tiling.tiles import TileGeometry, TileStatus, read_tiles
from tiling.tissue import TissueMask, tissue_mask
from tiling.windows import Blender, WindowGrid, window_grid
from wsi_pipeline.camelyon.files import DETECTIONS
from wsi_pipeline.errors import UsageError
from wsi_pipeline.results import write_json
from wsi_pipeline.segmentation.options import PredictOptions
from wsi_pipeline.segmentation.scale import check_scale
from wsi_pipeline.slide_work import SlideWork, StageOutcome, make_store

if TYPE_CHECKING:
    from mil_models.segmentation.checkpoint import SegmentationModel
    from mil_models.segmentation.inference import Segmenter

WINDOWS_AT_ONCE = 16
"""Read together, while the ones before go through the network."""
MEASURED_PX = 1 << 24
"""Pixels of the level that lesions are measured on, at most."""
DETECTION_UM = 8.0
"""Size of the map's pixels on which points are found: level 5 of a slide of 0.25 µm."""
FOLDER = "segmentations"
"""What is written of each slide, beside the stores; holds what `wsi camelyon` reads too."""
_loading, _drawing = threading.Lock(), threading.Lock()

OnWindows = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


def segment_slide(work: SlideWork) -> StageOutcome:
    """Segment one slide; the stage ``segment`` of a run."""
    job = work.job
    if job.segment is None:
        raise UsageError("segment needs a model; pass --model")
    options = job.segment.options
    model, segmenter = load(job.segment.model, options)
    slide = work.slide
    check_scale(slide, model.options.mpp)
    tissue = tissue_mask(slide)
    try:
        check_source(open_store(job.store_path), slide)
    except StoreOpenError:
        make_store(work, tissue)
    grid = windows_of(slide.size, slide.require_mpp(), model.options, options)
    found = create_segmentation(work.store, grid, model, segmenter)
    windows = on_tissue(grid, tissue)
    if not found.is_complete:
        write_map(found, slide, segmenter, windows, on_windows=work.progress("segment"))
        found.finish(windows=int(windows.sum()))
    _write_results(work, found, tissue, options)
    reason = "" if windows.any() else "no tissue"
    return StageOutcome(int(windows.sum()), int(found.attrs["unreadable"]), reason)


def load(path: Path, options: PredictOptions) -> tuple[SegmentationModel, Segmenter]:
    """Return this process's copy of the model at `path`, and its network on a device."""
    with _loading:
        return _loaded(path, options.device, options.engine, options.precision)


@functools.lru_cache(maxsize=1)
def _loaded(
    path: Path, device: str, engine: str, precision: str
) -> tuple[SegmentationModel, Segmenter]:
    from mil_models.segmentation.checkpoint import load_segmentation
    from mil_models.segmentation.inference import create_segmenter

    model = load_segmentation(path)
    return model, create_segmenter(model.network, device=device, engine=engine, precision=precision)


def windows_of(
    slide_size: tuple[int, int],
    slide_mpp: tuple[float, float],
    network: NetworkOptions,
    options: PredictOptions,
) -> WindowGrid:
    """Return the windows that a network looks through at a slide."""
    return window_grid(
        slide_size, slide_mpp, tile_px=network.tile_px, mpp=network.mpp,
        overlap_px=options.overlap(network.tile_px),
    )  # fmt: skip


def create_segmentation(
    store: SlideStore, grid: WindowGrid, model: SegmentationModel, segmenter: Segmenter
) -> ProbabilityMap:
    """Create the map of a model in a store, or open it to go on."""
    from mil_models.checkpoint import source_of

    attrs: Json = {
        "model_id": model.model_id,
        "network": model.options.to_dict(),
        "engine": segmenter.contract,
        "overlap_px": grid.overlap_px,
        "trained_on": source_of(store) in model.training_slides,
    }
    return create_map(store, node_name(model.options.architecture, attrs), grid, attrs)


def on_tissue(grid: WindowGrid, tissue: TissueMask) -> NDArray[np.bool_]:
    """Return which windows hold tissue, shape ``(rows, columns)``."""
    columns, rows = grid.windows
    coords = np.concatenate([grid.coords(row) for row in range(rows)])
    return (tissue.fraction(coords, grid.extent) > 0).reshape(rows, columns)


def write_map(
    found: ProbabilityMap,
    slide: Slide,
    segmenter: Segmenter,
    windows: NDArray[np.bool_],
    *,
    on_windows: OnWindows | None = None,
) -> None:
    """Write the strips of a map that are not done yet.

    Parameters
    ----------
    windows
        Which windows to look through, ``(rows, columns)``; 0 is written where there is none.
    """
    grid, missing = found.grid, found.missing_strips()
    if not missing:
        return
    # What the strip before adds to the first missing one is computed again.
    first = max(missing[0] - 1, 0)
    blender, stream = Blender(grid), _WindowStream(slide, grid, segmenter, windows, first)
    total, done = int(windows.sum()), int(windows[:first].sum())
    for strip in range(first, grid.cells[1]):
        cells = blender.strip(stream.strip(strip))
        if strip < missing[0]:
            deque(cells, maxlen=0)
        else:
            found.write_strip(strip, cells)
            found.finish_strip(strip, unreadable=stream.unreadable)
        done += int(windows[strip : strip + 1].sum())
        if on_windows is not None:
            on_windows(done, total)


class _WindowStream:
    """Windows through the network, strip by strip from `first` on; the next ones are read ahead.

    `unreadable` counts the windows of the last strip that could not be decoded.
    """

    def __init__(
        self,
        slide: Slide,
        grid: WindowGrid,
        segmenter: Segmenter,
        windows: NDArray[np.bool_],
        first: int,
    ) -> None:
        self._slide, self._grid, self._segmenter = slide, grid, segmenter
        self._geometry = TileGeometry(grid.extent, grid.tile_px, grid.slide_size)
        self._groups = self._read_ahead(windows, first)
        self._next = next(self._groups, None)
        self.unreadable = 0

    def strip(self, strip: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (column, probabilities) of a strip's windows, columns ascending."""
        self.unreadable = 0
        while self._next is not None and self._next[0] == strip:
            _, columns, pixels, status = self._next
            found = self._segmenter.probabilities(pixels)
            for column, state, one in zip(columns.tolist(), status, found, strict=True):
                if state == TileStatus.UNREADABLE:
                    self.unreadable += 1
                else:
                    yield column, one
            self._next = next(self._groups, None)

    def _read_ahead(
        self, windows: NDArray[np.bool_], first: int
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield (strip, columns, pixels, status) of some windows at a time."""
        groups = [
            (strip, columns[start : start + WINDOWS_AT_ONCE])
            for strip in range(first, len(windows))
            if len(columns := np.flatnonzero(windows[strip]))
            for start in range(0, len(columns), WINDOWS_AT_ONCE)
        ]
        with ThreadPoolExecutor(1, thread_name_prefix="windows") as reader:
            ahead = deque((reader.submit(self._read, *group) for group in groups[:1]), maxlen=2)
            for number, (strip, columns) in enumerate(groups):
                pixels, status = ahead.popleft().result()
                ahead.extend(reader.submit(self._read, *g) for g in groups[number + 1 : number + 2])
                yield strip, columns, pixels, status

    def _read(
        self, strip: int, columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return read_tiles(self._slide, self._grid.coords(strip)[columns], self._geometry)


def _write_results(
    work: SlideWork, found: ProbabilityMap, tissue: TissueMask, options: PredictOptions
) -> None:
    """Write the slide's outlines, measures and picture from its map."""
    from viewers.segmentation import draw_segmentation

    folder, slide_id = work.job.out / FOLDER, work.job.slide_id
    mpp = found.grid.slide_mpp
    smallest = options.min_area_um2 / (mpp[0] * mpp[1])
    polygons = [
        _without_small_holes(p, smallest)
        for p in map_outlines(found, options.threshold)
        if p.area >= smallest
    ]
    write_annotations(
        folder / f"{slide_id}.geojson",
        [_annotation(p, number, options.group) for number, p in enumerate(polygons, start=1)],
    )
    measures = measure(found, tissue, options)
    measures["score"] = _write_detections(folder / DETECTIONS / f"{slide_id}.csv", found, options)
    write_json(folder / f"{slide_id}.json", {"slide_id": slide_id, **measures})
    with _drawing:
        draw_segmentation(
            folder / f"{slide_id}.png", work.slide, found, MultiPolygon(polygons),
            title=f"{slide_id}\n{_in_words(measures)}",
        )  # fmt: skip


def _write_detections(path: Path, found: ProbabilityMap, options: PredictOptions) -> float:
    """Write lesions as points, as `wsi camelyon froc` reads them; return the highest probability.

    On the map averaged to about `DETECTION_UM`: single bright pixels are no lesions.
    """
    level = min(max(round(math.log2(DETECTION_UM / found.mpp(0)[0])), 0), found.levels - 1)
    values = found.read(level, slice(None), slice(None)) / SCALE
    detected = detect(values, cell_px=found.pixel(level), threshold=options.threshold)
    right, bottom = (n - 1 for n in found.grid.slide_size)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows((f"{d.score:.9g}", min(d.x0, right), min(d.y0, bottom)) for d in detected)
    return float(values.max())


def measure(found: ProbabilityMap, tissue: TissueMask, options: PredictOptions) -> Json:
    """Return what a map's lesions measure: largest diameter, area, count, share of the tissue."""
    level = found.level_within(MEASURED_PX)
    mpp = found.mpp(level)
    mask = found.read(level, slice(None), slice(None)) >= threshold_value(options.threshold)
    lesions = [
        lesion
        for lesion in measure_lesions(lesion_labels(mask, mpp, merge=options.merge), mpp)
        if lesion.area_mm2 * 1e6 >= options.min_area_um2
    ]
    pixel = found.pixel(level)
    return {
        "map": found.name,
        "threshold": options.threshold,
        "measured_mpp": round((mpp[0] * mpp[1]) ** 0.5, 6),
        "lesions_found": len(lesions),
        "largest_diameter_mm": max((le.diameter_mm for le in lesions), default=0.0),
        "area_mm2": sum(le.area_mm2 for le in lesions),
        "tissue_mm2": tissue.area_mm2,
        "burden": burden(mask, _tissue_at(tissue, found, level)),
        "windows": int(found.attrs["windows"]),
        "unreadable": int(found.attrs["unreadable"]),
        "lesions": [
            {
                "lesion": number,
                "x0": round(le.box[0] * pixel[0]),
                "y0": round(le.box[1] * pixel[1]),
                "x1": round(le.box[2] * pixel[0]),
                "y1": round(le.box[3] * pixel[1]),
                "diameter_mm": le.diameter_mm,
                "area_mm2": le.area_mm2,
            }
            for number, le in enumerate(lesions, start=1)
        ],
    }


def _tissue_at(tissue: TissueMask, found: ProbabilityMap, level: int) -> NDArray[np.bool_]:
    """Return whether the centre of each of a level's pixels lies on tissue."""
    height, width = found.shape(level)
    x, y = (
        (np.arange(n) + 0.5) * step / scale
        for n, step, scale in zip(
            (width, height), found.pixel(level), tissue.downsample, strict=True
        )
    )
    rows, columns = tissue.mask.shape
    row = np.minimum(y.astype(np.int64), rows - 1)
    column = np.minimum(x.astype(np.int64), columns - 1)
    return np.asarray(tissue.mask[np.ix_(row, column)])


def _without_small_holes(polygon: Polygon, smallest: float) -> Polygon:
    return Polygon(polygon.exterior, [r for r in polygon.interiors if Polygon(r).area >= smallest])


def _annotation(polygon: Polygon, number: int, group: str) -> Annotation:
    rings = [np.asarray(r.coords)[:-1] for r in (polygon.exterior, *polygon.interiors)]
    return Annotation(f"{group} {number}", group, "polygon", rings[0], tuple(rings[1:]))


def _in_words(measures: Json) -> str:
    share = measures["burden"]
    count = measures["lesions_found"]
    return (
        f"{count} lesion{'s' * (count != 1)}, largest {measures['largest_diameter_mm']:.2f} mm, "
        f"{measures['area_mm2']:.2f} mm²"
        + ("" if share is None else f", {share:.1%} of the tissue")
    )
