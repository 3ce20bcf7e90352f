"""Sample slides made of real, CC0 pixels: for the demo, napari's sample menu and the tests.

They show that the machinery works. They are patchworks of a few fields, the same fields in every
slide, so nothing measured on them says anything about medical performance.
"""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tiling.write import write_slide

SAMPLE_MPP = 0.25
FIELD_PX = 256
_STEP_PX = 224
_GLASS = (244, 242, 245)
_COARSE = 64
"""Level-0 px per pixel of the maps that shape tissue and lesion."""


def sample_label(index: int) -> str:
    """Return the label of sample slide `index`: every second one holds a tumour.

    Examples
    --------
    >>> [sample_label(i) for i in range(3)]
    ['normal', 'tumor', 'normal']
    """
    return "tumor" if index % 2 else "normal"


def sample_id(index: int) -> str:
    """Return the slide id of sample slide `index`.

    Examples
    --------
    >>> sample_id(3)
    'demo_03'
    """
    return f"demo_{index:02d}"


def write_sample_slide(folder: str | Path, index: int) -> Path:
    """Write sample slide `index` as a pyramidal TIFF at 0.25 µm and return its path.

    About 5500 x 4500 px, never a multiple of a tile; the same bytes of pixels every time. An
    existing file is kept.
    """
    path = Path(folder) / f"{sample_id(index)}.tif"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(path, sample_pixels(index), mpp=SAMPLE_MPP, downsamples=(1, 4, 16))


def sample_pixels(index: int) -> NDArray[np.uint8]:
    """Return sample slide `index`, uint8 RGB, shape ``(height, width, 3)``."""
    rng = np.random.default_rng([20161, index])
    width, height = (int(v) for v in rng.integers((5200, 4200), (6000, 4800)) | 1)
    tissue, stroma, lesion = _regions(rng, width, height, with_tumor=sample_label(index) == "tumor")
    pixels = _glass(rng, width, height)
    normal_fields, tumor_fields, stroma_fields = sample_fields()
    for fields, where in (
        (normal_fields, tissue),
        (stroma_fields, tissue & stroma),
        (tumor_fields, lesion),
    ):
        if where.any():
            _paint(pixels, rng, fields, where)
    # A slide's own stain: optical density scaled per colour, so that glass stays glass.
    strength = rng.normal(1, (0.02, 0.03, 0.02), 3)
    curve = 255 * (np.arange(1, 257)[:, None] / 256) ** strength
    for channel in range(3):
        pixels[..., channel] = curve[:, channel].astype(np.uint8)[pixels[..., channel]]
    return pixels


def _glass(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Return empty glass with a little camera noise, repeated every 512 px."""
    noise = rng.normal(_GLASS, 1.2, (512, 512, 3)).astype(np.uint8)
    repeats = -(-height // 512), -(-width // 512), 1
    return np.ascontiguousarray(np.tile(noise, repeats)[:height, :width])


def _regions(
    rng: np.random.Generator, width: int, height: int, *, with_tumor: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return maps of tissue, stroma and lesion, `_COARSE` px a pixel, lesion within tissue."""
    rows, columns = -(-height // _COARSE), -(-width // _COARSE)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)

    def roughness(sigma: float) -> NDArray[np.float64]:
        noise = ndimage.gaussian_filter(rng.normal(size=(rows, columns)), sigma)
        rough: NDArray[np.float64] = noise / noise.std()
        return rough

    def ellipse(center: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
        inside: NDArray[np.float64] = (
            1 - ((x - center[0]) / radii[0]) ** 2 - ((y - center[1]) / radii[1]) ** 2
        )
        return inside

    size = np.array([columns, rows])
    center = size * rng.uniform(0.44, 0.56, 2)
    radii = size * rng.uniform(0.34, 0.42, 2)
    tissue = ellipse(center, radii) + 0.18 * roughness(5) > 0
    stroma = roughness(7) > 1.1
    lesion = np.zeros_like(tissue)
    if with_tumor:
        offset = radii * rng.uniform(-0.45, 0.45, 2)
        lesion_radii = radii * rng.uniform(0.32, 0.48)
        lesion = (ellipse(center + offset, lesion_radii) + 0.25 * roughness(4) > 0) & tissue
    return tissue, stroma, lesion


@functools.cache
def sample_fields() -> tuple[tuple[NDArray[np.uint8], ...], ...]:
    """Return the normal, tumour and stroma fields, each ``(FIELD_PX, FIELD_PX, 3)``, at 0.25 µm."""
    folder = importlib.resources.files("tiling") / "sample_pixels"

    def load(name: str) -> Image.Image:
        with (folder / name).open("rb") as file:
            return Image.open(file).convert("RGB")

    def cut(sheet: Image.Image) -> tuple[NDArray[np.uint8], ...]:
        pixels = np.asarray(sheet)
        return tuple(
            pixels[top : top + FIELD_PX, left : left + FIELD_PX]
            for top in range(0, pixels.shape[0] - FIELD_PX + 1, FIELD_PX)
            for left in range(0, pixels.shape[1] - FIELD_PX + 1, FIELD_PX)
        )

    stroma = load("stroma.jpg")
    doubled = stroma.resize((stroma.width * 2, stroma.height * 2), Image.Resampling.BICUBIC)
    return cut(load("normal.jpg")), cut(load("tumor.jpg")), cut(doubled)


def mosaic(
    rng: np.random.Generator, fields: tuple[NDArray[np.uint8], ...], width: int, height: int
) -> NDArray[np.uint8]:
    """Return random, turned fields side by side, their seams blended over 32 px."""
    ramp = np.minimum(np.arange(1, FIELD_PX + 1), np.arange(FIELD_PX, 0, -1))
    edge = np.minimum(ramp / (FIELD_PX - _STEP_PX), 1).astype(np.float32)
    window = (edge[:, None] * edge[None, :])[..., None]
    rows, columns = -(-height // _STEP_PX), -(-width // _STEP_PX)
    shape = ((rows + 1) * _STEP_PX + FIELD_PX, (columns + 1) * _STEP_PX + FIELD_PX)
    total = np.zeros((*shape, 3), np.float32)
    weight = np.zeros((*shape, 1), np.float32)
    for row in range(rows + 1):
        for column in range(columns + 1):
            field = np.rot90(fields[rng.integers(len(fields))], int(rng.integers(4)))
            here = (
                slice(row * _STEP_PX, row * _STEP_PX + FIELD_PX),
                slice(column * _STEP_PX, column * _STEP_PX + FIELD_PX),
            )
            total[here] += field * window
            weight[here] += window
    margin = FIELD_PX - _STEP_PX
    inner = slice(margin, margin + height), slice(margin, margin + width)
    blended: NDArray[np.uint8] = (total[inner] / weight[inner]).astype(np.uint8)
    return blended


def _paint(
    pixels: NDArray[np.uint8],
    rng: np.random.Generator,
    fields: tuple[NDArray[np.uint8], ...],
    where: NDArray[np.bool_],
) -> None:
    """Lay a mosaic over `pixels` where the coarse map says so, its edge softened over 24 µm."""
    box = tuple(
        slice(max(int(hit[0]) - 1, 0), int(hit[-1]) + 2)
        for hit in (np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0)))
    )
    part = where[box]
    here = pixels[tuple(slice(s.start * _COARSE, s.stop * _COARSE) for s in box)]
    height, width = here.shape[:2]
    soft = Image.fromarray((part * 255).astype(np.uint8)).resize(
        (part.shape[1] * _COARSE, part.shape[0] * _COARSE), Image.Resampling.BICUBIC
    )
    sharpened = np.clip((np.arange(256) / 255 - 0.35) / 0.3, 0, 1) * 255
    alpha = Image.fromarray(sharpened.astype(np.uint8)[np.asarray(soft)[:height, :width]])
    texture = Image.fromarray(mosaic(rng, fields, width, height))
    here[...] = np.asarray(Image.composite(texture, Image.fromarray(here), alpha))
