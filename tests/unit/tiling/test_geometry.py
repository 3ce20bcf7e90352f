from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiling.geometry import Region, tile_starts


@given(
    length=st.integers(0, 5000),
    tile=st.integers(1, 600),
    stride=st.integers(1, 600),
)
def test_overhanging_tiles_cover_everything_once(length: int, tile: int, stride: int) -> None:
    whole = tile_starts(length, tile, stride).tolist()
    covering = tile_starts(length, tile, stride, overhang=True).tolist()
    assert whole == [s for s in range(0, length, stride) if s + tile <= length]
    assert covering[: len(whole)] == whole
    if length and stride <= tile:
        assert covering[-1] + tile >= length
        assert covering[-1] < length


@pytest.mark.parametrize(("tile", "stride"), [(0, 1), (1, 0), (-4, 4)])
def test_tile_starts_refuses_nonsense(tile: int, stride: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        tile_starts(10, tile, stride)


def test_neighbours_share_their_edge_at_any_downsample() -> None:
    left, right = Region(0, 0, 5, 3), Region(5, 0, 5, 3)
    assert left.level_slices(4.016)[1].stop == right.level_slices(4.016)[1].start
