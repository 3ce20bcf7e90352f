from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tests.conftest import coded_pixels
from tiling.errors import SlideReadError
from tiling.geometry import PixelBox
from tiling.readers.mosaic import Pixels, StoredTile, TileLayout, read_mosaic, shrink

LAYOUT = TileLayout((203, 151), (64, 48))
PIXELS = coded_pixels(203, 151)
BOXES = [
    PixelBox(0, 0, 64, 48),
    PixelBox(60, 40, 70, 100),
    PixelBox(-5, 140, 30, 160),
    PixelBox(190, 0, 260, 20),
    PixelBox(500, 500, 520, 510),
]


class Tiles:
    """Loads tiles of PIXELS and counts how often."""

    def __init__(self, bad: set[StoredTile] = frozenset(), white: set[StoredTile] = frozenset()):
        self.loaded: Counter[StoredTile] = Counter()
        self.bad, self.white = bad, white

    def __call__(
        self, tiles: Sequence[StoredTile], room: Pixels | None
    ) -> list[Pixels | SlideReadError | None]:
        self.loaded.update(tiles)
        return [self._one(tile) for tile in tiles]

    def _one(self, tile: StoredTile) -> Pixels | SlideReadError | None:
        if tile in self.bad:
            return SlideReadError(str(tile))
        left, top, right, bottom = LAYOUT.box_of(tile)
        return None if tile in self.white else PIXELS[top:bottom, left:right]


def expected(box: PixelBox) -> Pixels:
    canvas = np.full((1000, 1000, 3), 255, np.uint8)
    canvas[100:251, 100:303] = PIXELS
    return canvas[box.top + 100 : box.bottom + 100, box.left + 100 : box.right + 100]


@pytest.mark.parametrize("given", [False, True])
def test_boxes_are_what_lies_under_them_and_white_outside(given: bool) -> None:
    for box in BOXES:
        width, height = box.size
        out = np.zeros((1, height, width, 3), np.uint8) if given else None
        [found] = read_mosaic(LAYOUT, [box], Tiles(), out=out)
        assert np.array_equal(found, expected(box))
        assert out is None or np.array_equal(out[0], found)


def test_each_tile_is_loaded_once_for_all_boxes() -> None:
    tiles = Tiles()
    boxes = [PixelBox(x, y, x + 50, y + 50) for y in (0, 30, 60) for x in (0, 40, 80, 120)]
    for found, box in zip(read_mosaic(LAYOUT, boxes, tiles), boxes, strict=True):
        assert np.array_equal(found, expected(box))
    assert set(tiles.loaded.values()) == {1}
    assert len(tiles.loaded) == 3 * 3


def test_there_is_room_for_a_whole_tile_alone() -> None:
    """Not where it overhangs the level, the box is more or less, or it is used again."""
    given: list[bool] = []

    def load(tiles: Sequence[StoredTile], room: Pixels | None) -> list[Pixels]:
        given.append(room is not None)
        found = Tiles()(tiles, room)
        if room is not None:
            room[:] = found[0]
            return [room]
        return found

    whole, last = LAYOUT.box_of((1, 1)), LAYOUT.box_of((3, 3))
    boxes = [whole, whole, whole._replace(top=50), last, PixelBox(0, 0, 64, 96)]
    for box in (whole, whole._replace(top=50), last, PixelBox(0, 0, 64, 96)):
        [found] = read_mosaic(LAYOUT, [box], load)
        assert np.array_equal(found, expected(box))
    assert given == [True, False, False, False]
    again = list(read_mosaic(LAYOUT, boxes, load))
    assert [np.array_equal(f, expected(b)) for f, b in zip(again, boxes, strict=True)] == [True] * 5
    assert given[4:] == [False] * 5


def test_a_bad_tile_costs_its_boxes_alone_and_is_tried_once() -> None:
    tiles = Tiles(bad={(1, 0)}, white={(0, 1)})
    boxes = [PixelBox(0, 0, 65, 5), PixelBox(0, 0, 64, 60), PixelBox(100, 40, 110, 50)]
    first, second, third = read_mosaic(LAYOUT, boxes, tiles)
    assert isinstance(first, SlideReadError)
    assert isinstance(third, SlideReadError)
    assert not isinstance(second, SlideReadError)
    assert np.array_equal(second[:48], PIXELS[:48, :64])
    assert (second[48:] == 255).all()
    assert tiles.loaded[1, 0] == 1


def test_reduced_layouts_leave_the_last_partial_pixel_out() -> None:
    """203 x 151 px by 8: of the last, 5 px and 1 px are padding, whatever its colour."""
    reduced = LAYOUT.reduced(8)
    assert reduced == TileLayout((25, 18), (8, 6))
    assert reduced.box_of((3, 2)) == PixelBox(24, 12, 25, 18)
    assert reduced.tiles_under(PixelBox(20, 10, 40, 40)) == [(2, 1), (3, 1), (2, 2), (3, 2)]
    assert TileLayout((5, 3), (64, 48)).reduced(8).size == (1, 1)
    assert TileLayout((203, 151), (60, 48)).reductions == (1,)


def test_shrinking_is_the_mean_and_edges_stand_for_what_is_cut_off() -> None:
    pixels = np.zeros((5, 3, 3), np.uint8)
    pixels[4, 2] = 80
    pixels[:2, :2] = 40
    assert shrink(pixels, 2)[..., 0].tolist() == [[40, 0], [0, 0], [0, 80]]
