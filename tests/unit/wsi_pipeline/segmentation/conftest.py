"""Small slides at 1 µm, a purple lesion in pink tissue, and a tiny model that tells them apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.wsi_pipeline.test_cli import wsi
from tiling.write import write_slide

SIZE = (701, 523)
TISSUE = (100, 60, 620, 470)
CPU = ["--device", "cpu", "--engine", "torch", "--progress", "none"]
LESIONS = {"a": (180, 120, 400, 330), "b": (300, 200, 560, 400), "c": (150, 100, 330, 420)}
"""x0, y0, x1, y1 in level-0 px."""
TINY = [
    "--architecture", "linknet", "--encoder", "resnet10t", "--random-weights", "--tile-px", "64",
    "--mpp", "2", "--epochs", "3", "--steps", "8", "--batch", "4", "--validation-tiles", "8",
    "--learning-rate", "0.005", "--warmup", "0", "--device", "cpu",
]  # fmt: skip


def lesion_pixels(lesion: tuple[int, int, int, int] | None, seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    pixels = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    noise = rng.integers(0, 25, (SIZE[1], SIZE[0], 1), dtype=np.uint8)
    x0, y0, x1, y1 = TISSUE
    pixels[y0:y1, x0:x1] = np.array([215, 130, 180], np.uint8) - noise[y0:y1, x0:x1]
    if lesion is not None:
        x0, y0, x1, y1 = lesion
        pixels[y0:y1, x0:x1] = np.array([110, 50, 140], np.uint8) - noise[y0:y1, x0:x1]
    return pixels


def outline(lesion: tuple[int, int, int, int], group: str = "Tumor") -> dict[str, object]:
    x0, y0, x1, y1 = lesion
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": group}},
    }
    return {"type": "FeatureCollection", "features": [feature]}


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine two threads of a tiny network wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/a, b, c and normal_d; truth/ with outlines of a, b and c."""
    folder = tmp_path_factory.mktemp("archive")
    for name in ("slides", "truth"):
        (folder / name).mkdir()
    for seed, (name, lesion) in enumerate([*LESIONS.items(), ("normal_d", None)]):
        write_slide(
            folder / "slides" / f"{name}.tif", lesion_pixels(lesion, seed), mpp=1.0,
            downsamples=(1, 2), quality=90,
        )  # fmt: skip
        if lesion is not None:
            path = folder / "truth" / f"{name}.geojson"
            path.write_text(json.dumps(outline(lesion)))
    return folder


@pytest.fixture(scope="package")
def model(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on three of the slides, judged by one."""
    folder = tmp_path_factory.mktemp("segmentation") / "unet"
    code = wsi(
        "segment", "train", archive / "slides", "--annotations", archive / "truth", "-o", folder,
        "--normal", "normal_*", *TINY,
    )  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture(scope="package")
def segmented(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmented") / "out"
    assert wsi("segment", "predict", archive / "slides", "--model", model, "-o", out, *CPU) == 0
    return out
