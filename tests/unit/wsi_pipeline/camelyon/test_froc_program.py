"""FROC from files, beside the challenge's program step by step, on random slides with ties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.measure import label, regionprops

from wsi_pipeline.camelyon.lesion_scores import score_lesions

PIXEL_UM = 0.243 * 32
Row = tuple[float, int, int]


def write_case(seed: int, folder: Path) -> tuple[dict[str, list[Row]], dict[str, np.ndarray]]:
    """Write masks and detections, scores with few decimals, 0 and 1 among them; return both."""
    rng = np.random.default_rng(seed)
    masks, detections = {}, {}
    for number in range(5):
        height, width = rng.integers(60, 160, 2)
        y, x = np.mgrid[:height, :width]
        mask = np.zeros((height, width), bool)
        for _ in range(rng.integers(1, 12)):
            radius, cy, cx = rng.uniform(0.5, 25), rng.uniform(0, height), rng.uniform(0, width)
            away = np.hypot(y - cy, (x - cx) * rng.uniform(1, 3))
            mask = (mask | (away < radius)) & ~(away < radius * rng.uniform(0, 0.6))
        mask[0, 0] = True
        masks[f"test_{number:03d}"] = mask
        Image.fromarray(mask).save(folder / "masks" / f"test_{number:03d}_mask.png")
    decimals = int(rng.integers(1, 4))
    for name in (*masks, "normal_001", "normal_002"):
        height, width = masks[name].shape if name in masks else (90, 90)
        count = rng.integers(0, 40)
        scores = np.round(rng.uniform(0, 1, count), decimals)
        scores[rng.random(count) < 0.1] = rng.integers(0, 2)
        x, y = rng.integers(0, width * 32, count), rng.integers(0, height * 32, count)
        rows = list(zip(scores.tolist(), x.tolist(), y.tolist(), strict=True))
        detections[name] = rows
        text = "".join(f"{p!r},{x},{y}\n" for p, x, y in rows)
        (folder / "detections" / f"{name}.csv").write_text(text)
    return detections, masks


def regions_of(mask: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Distance transform, holes, 8-connected regions, and which of them are isolated cells."""
    near = ndimage.distance_transform_edt(~mask) < 75 / (PIXEL_UM * 2)
    labels = label(ndimage.binary_fill_holes(near), connectivity=2)
    itc = [p.label for p in regionprops(labels) if p.axis_major_length < 275 / PIXEL_UM]
    return labels, itc


@pytest.mark.parametrize("seed", range(4))
def test_every_count_and_the_curve(seed: int, tmp_path: Path) -> None:
    """See `mil_models.froc` for the program; equal scores are in the order of their values."""
    (tmp_path / "detections").mkdir()
    (tmp_path / "masks").mkdir()
    detections, masks = write_case(seed, tmp_path)
    alarms: list[float] = []
    founds: list[float] = []
    lesions = 0
    found = score_lesions(tmp_path / "detections", tmp_path / "masks", resamples=0).to_dict()
    for name, rows in detections.items():
        empty = np.zeros((90, 90), int), list[int]()
        labels, itc = regions_of(masks[name]) if name in masks else empty
        best = np.zeros(labels.max(), np.float32)
        hit = set()
        before = len(alarms)
        for score, x, y in rows:
            region = int(labels[y // 32, x // 32])
            if region == 0:
                alarms.append(score)
            elif region not in itc and score > best[region - 1]:
                best[region - 1] = score
                hit.add(region)
        founds += best.tolist()
        lesions += len(best) - len(itc)
        assert found["slides"][name] == {
            "n_detections": len(rows), "n_regions": len(best), "itc_labels": itc,
            "n_lesions": len(best) - len(itc), "n_false_positives": len(alarms) - before,
            "n_lesions_hit": len(hit),
        }  # fmt: skip
    thresholds = sorted({*alarms, *founds})[1:]
    single = np.array(founds, np.float32)
    rates = [sum(a >= t for a in alarms) / len(detections) for t in thresholds] + [0]
    hits = [int((single >= np.float32(t)).sum()) / lesions for t in thresholds] + [0]
    assert found["curve"]["avg_false_positives"] == pytest.approx(rates, abs=1e-12)
    assert found["curve"]["sensitivity"] == pytest.approx(hits, abs=1e-12)
    at = np.interp([0.25, 0.5, 1, 2, 4, 8], rates[::-1], hits[::-1])
    assert list(found["sensitivity_at_fp"].values()) == pytest.approx(at.tolist(), abs=1e-12)
    assert found["froc_score"] == pytest.approx(at.mean(), abs=1e-12)
