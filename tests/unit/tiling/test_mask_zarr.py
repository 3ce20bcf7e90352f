"""Masks as OME-Zarr: valid, in their place, every level drawn from the outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image as OMEImage
from shapely import MultiPolygon, Polygon, box

from tiling import open_slide
from tiling.annotations import AnnotationError, area_mask
from tiling.mask_zarr import write_mask_zarr

SIZE = (1303, 2007)
AREA = MultiPolygon(
    [
        Polygon([(600, 700), (1200, 650), (900, 1900)], [[(800, 800), (950, 800), (900, 1000)]]),
        box(1250, 1950, 1400, 2100),
    ]
)


def test_every_level_is_drawn_from_the_outlines(tmp_path: Path) -> None:
    path = write_mask_zarr(tmp_path / "m.ome.zarr", AREA, SIZE, mpp=(0.5, 0.25))
    group = zarr.open_group(str(path), mode="r")
    image = OMEImage.from_zarr(group)
    datasets = image.ome_attributes.multiscales[0].datasets
    assert [d.path for d in datasets] == ["0", "1", "2", "3", "4", "5"]
    for level, dataset in enumerate(datasets):
        size = SIZE[0] // 2**level, SIZE[1] // 2**level
        expected = area_mask(AREA, size, 2**level)
        assert np.array_equal(group[str(level)][:], 255 * expected.astype(np.uint8))
        scale, translation = dataset.coordinateTransformations
        assert scale.scale == [0.25 * 2**level, 0.5 * 2**level]
        assert translation.translation == [0.25 * (2**level - 1) / 2, 0.5 * (2**level - 1) / 2]
    assert not (path / "0" / "c" / "0" / "0").exists()  # nothing is there
    with open_slide(path) as slide:
        assert slide.size == SIZE
        assert slide.mpp == (0.5, 0.25)


def test_a_mask_replaces_another_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_mask_zarr(tmp_path / "m.zarr", AREA, SIZE, mpp=None)
    write_mask_zarr(tmp_path / "m.zarr", MultiPolygon(), (100, 50), mpp=None)
    found = zarr.open_group(str(tmp_path / "m.zarr"), mode="r")
    assert sorted(found.array_keys()) == ["0", "1", "2", "3", "4", "5"]
    assert found["5"].shape == (1, 3)
    assert found["0"].shape == (50, 100)
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
    with pytest.raises(ValueError, match="must be positive"):
        write_mask_zarr(tmp_path / "n.zarr", AREA, (0, 5), mpp=None)
    with pytest.raises(AnnotationError, match="outside the slide"):
        write_mask_zarr(tmp_path / "n.zarr", AREA, (100, 50), mpp=None)
    assert [p.name for p in tmp_path.iterdir()] == ["m.zarr"]
