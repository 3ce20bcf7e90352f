"""Write tiled TIFF pyramids that OpenSlide, tiffslide and QuPath open: slides, and masks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
import tifffile
from numpy.typing import NDArray
from PIL import Image
from shapely import MultiPolygon

from tiling.annotations import area_mask, check_on_slide
from tiling.atomic import replacing

BIGTIFF_BYTES = 8 << 30
"""Raw size from which offsets need 64 bits, with room to spare for poor compression."""


class PixelSource(Protocol):
    """Anything that slices like a ``(height, width, 3)`` uint8 array: NumPy, memmap, Zarr."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, 3)."""

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint8]:
        """Return pixels."""


def write_slide(
    path: str | Path,
    pixels: PixelSource,
    *,
    mpp: float | None,
    downsamples: Sequence[int] = (1, 4, 16),
    tile_px: int = 256,
    quality: int = 80,
    subsampling: tuple[int, int] = (2, 1),
) -> Path:
    """Write `pixels` as a tiled pyramid; memory does not grow with the slide.

    Parameters
    ----------
    path
        Where; an existing file is replaced once the new one is whole.
    pixels
        uint8 RGB, shape ``(height, width, 3)``; sliced tile by tile.
    mpp
        Pixel size in µm, written as TIFF resolution; None writes none.
    downsamples
        Whole numbers, ascending from 1; each level is the average of level 0.
    tile_px
        Stored tile edge, a multiple of 16.
    quality, subsampling
        JPEG quality (1 to 100) and chroma subsampling ((1, 1), (2, 1) or (2, 2)).

    Raises
    ------
    ValueError
        `pixels` is not RGB, or `downsamples` do not ascend from 1.
    """
    if len(pixels.shape) != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}: must be (height, width, 3)")
    if list(downsamples) != sorted(set(downsamples)) or downsamples[0] != 1:
        raise ValueError(f"downsamples={tuple(downsamples)}: must ascend from 1")
    path = Path(path)
    size = {} if mpp is None else {
        "resolution": (1e4 / mpp, 1e4 / mpp),
        "resolutionunit": tifffile.RESUNIT.CENTIMETER,
    }  # fmt: skip
    height, width = pixels.shape[:2]
    with (
        replacing(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=height * width * 3 > BIGTIFF_BYTES) as tiff,
    ):
        for downsample in downsamples:
            shape = (max(height // downsample, 1), max(width // downsample, 1), 3)
            scaled = {k: _scaled(v, downsample) for k, v in size.items()}
            tiff.write(
                _level_tiles(pixels, shape, downsample, tile_px),
                shape=shape,
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": quality},
                subsampling=subsampling,
                subfiletype=1 if downsample > 1 else 0,
                metadata=None,
                **scaled,
            )
    return path


def write_mask(
    path: str | Path,
    area: MultiPolygon,
    size: tuple[int, int],
    *,
    mpp: float | None,
    downsamples: Sequence[int] = (1, 4, 16, 32, 64),
    tile_px: int = 512,
) -> Path:
    """Write an area as a tiled, lossless pyramid of 0 and 255; memory does not grow with the slide.

    Every level is drawn from the outlines: a pixel is 255 where its centre lies inside.

    Parameters
    ----------
    path
        Where; an existing file is replaced once the new one is whole.
    area
        Polygons in level-0 px, valid.
    size
        (width, height) of the slide, level-0 px.
    mpp
        Pixel size in µm, written as TIFF resolution; None writes none.
    downsamples
        Whole numbers, ascending from 1; a level has `size` divided by it, rounded down.
    tile_px
        Stored tile edge, a multiple of 16.

    Raises
    ------
    ValueError
        `downsamples` do not ascend from 1, or `size` is not positive.
    AnnotationError
        An outline has no part on the slide.
    """
    check_on_slide(area, size)
    if list(downsamples) != sorted(set(downsamples)) or not downsamples or downsamples[0] != 1:
        raise ValueError(f"downsamples={tuple(downsamples)}: must ascend from 1")
    width, height = size
    path = Path(path)
    with (
        replacing(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=height * width > BIGTIFF_BYTES) as tiff,
    ):
        for downsample in downsamples:
            shape = (max(height // downsample, 1), max(width // downsample, 1))
            scale: dict[str, Any] = {} if mpp is None else {
                "resolution": (1e4 / mpp / downsample,) * 2,
                "resolutionunit": tifffile.RESUNIT.CENTIMETER,
            }  # fmt: skip
            tiff.write(
                _mask_tiles(area, shape, downsample, tile_px),
                shape=shape,
                dtype=np.uint8,
                tile=(tile_px, tile_px),
                photometric="minisblack",
                compression="adobe_deflate",
                subfiletype=1 if downsample > 1 else 0,
                metadata=None,
                **scale,
            )
    return path


def _mask_tiles(
    area: MultiPolygon, shape: tuple[int, int], downsample: int, tile_px: int
) -> Iterator[bytes]:
    """Yield a level's tiles, deflated, row by row; drawn only where the area's bounds are."""
    height, width = shape
    nothing = zlib.compress(bytes(tile_px * tile_px))
    left, top, right, bottom = _tiles_around(area, downsample, tile_px)
    offset = left * tile_px * downsample, 0
    local = shapely.transform(area, lambda points: points - offset)  # exact: whole numbers
    columns = -(-width // tile_px)
    right = min(right, columns)
    for row in range(-(-height // tile_px)):
        if not top <= row < bottom or left >= right:
            yield from [nothing] * columns
            continue
        first, rows = row * tile_px, min(tile_px, height - row * tile_px)
        strip = np.zeros((tile_px, (right - left) * tile_px), np.uint8)
        wide = min(strip.shape[1], width - left * tile_px)
        drawn = area_mask(local, (wide, rows), downsample, first_row=first)
        strip[:rows, :wide] = drawn.view(np.uint8) * 255
        yield from [nothing] * left
        for part in np.split(strip, right - left, axis=1):
            yield zlib.compress(part.tobytes()) if part.any() else nothing
        yield from [nothing] * (columns - right)


def _tiles_around(area: MultiPolygon, downsample: int, tile_px: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom (the last two exclusive) of the tiles an area is in."""
    if area.is_empty:
        return 0, 0, 0, 0
    x0, y0, x1, y1 = (v / downsample / tile_px for v in area.bounds)
    return max(int(x0), 0), max(int(y0), 0), int(max(x1, 0)) + 1, int(max(y1, 0)) + 1


def _scaled(value: Any, downsample: int) -> Any:
    return tuple(v / downsample for v in value) if isinstance(value, tuple) else value


def _level_tiles(
    pixels: PixelSource, shape: tuple[int, int, int], downsample: int, tile_px: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield a level's tiles row by row, those at the end padded with white."""
    height, width, _ = shape
    for top in range(0, height, tile_px):
        for left in range(0, width, tile_px):
            bottom, right = min(top + tile_px, height), min(left + tile_px, width)
            part = np.asarray(
                pixels[
                    top * downsample : bottom * downsample, left * downsample : right * downsample
                ]
            )
            tile = np.full((tile_px, tile_px, 3), 255, np.uint8)
            if downsample > 1 and part.size:
                part = np.asarray(Image.fromarray(part).reduce(downsample))
            tile[: bottom - top, : right - left] = part[: bottom - top, : right - left]
            yield tile
