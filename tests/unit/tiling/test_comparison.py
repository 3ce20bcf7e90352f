"""What `wsi info --compare` says of readers that agree, and of readers that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.equality.kinds import kinds
from tests.unit.wsi_pipeline.test_cli import wsi
from tiling.comparison import Comparison, Difference, ReaderReport, compare_readers
from tiling.errors import SlideOpenError
from tiling.readers.tiffslide import TiffSlideReader


def report(compared: Comparison, reader: str) -> ReaderReport:
    [found] = [r for r in compared.readers if r.reader == reader]
    return found


def make(folder: Path, kind: str) -> Path:
    path = folder / f"slide{kinds()[kind].suffix}"
    kinds()[kind].write(path)
    return path


def test_readers_that_agree_are_exact(tmp_path: Path) -> None:
    compared = compare_readers(str(make(tmp_path, "deflate")), places=3)
    assert compared.reference == "openslide"
    for reader in ("tiff", "openslide", "tiffslide"):
        found = report(compared, reader)
        assert found.problem == ""
        assert found.level_sizes == ((397, 301), (99, 75))
        assert found.at_own_scale == "exact on 2 levels"
        assert [d.places for d in found.levels if d] == [3, 1]  # level 1: 1/4.01, so its corner
        assert str(found.exact) == str(found.default) == "exact"


def test_what_is_shrunk_while_decoding_differs_and_by_how_much(tmp_path: Path) -> None:
    """Compared with the reference's exact tiles, so the default's own loss shows."""
    found = report(compare_readers(str(make(tmp_path, "bigtiff"))), "tiff")
    assert found.exact is not None
    assert found.default is not None
    assert found.exact.is_exact
    assert 0.1 < (found.default.mean or 0) < 5
    assert abs(found.default.brightness or 0) < 0.3


def test_a_darker_reader_is_named_with_its_brightness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make(tmp_path, "deflate"))
    right = TiffSlideReader.read_region

    def darker(self: TiffSlideReader, *of: Any) -> Any:
        return np.maximum(right(self, *of), 7) - np.uint8(7)

    monkeypatch.setattr(TiffSlideReader, "read_region", darker)
    found = report(compare_readers(path, places=5), "tiffslide")
    assert found.levels[0] == Difference(5, 7.0, 7, -7.0, 0)
    assert "differs by 7.00 on average, 7 at most, brightness -7.00" in found.at_own_scale


def test_a_shifted_reader_is_not_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(make(tmp_path, "deflate"))
    right = TiffSlideReader.read_region

    def shifted(self: TiffSlideReader, at: tuple[int, int], *of: Any) -> Any:
        return right(self, (at[0] + 1, at[1]), *of)

    monkeypatch.setattr(TiffSlideReader, "read_region", shifted)
    found = report(compare_readers(path, places=5), "tiffslide")
    assert found.levels[0] is not None
    assert (found.levels[0].mean or 0) > 5
    assert abs(found.levels[0].brightness or 0) < 1


def test_places_that_only_one_can_read_are_counted(
    tissue_path: Path, corrupt_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers fail where the tile is corrupt: no difference. One that does not: counted."""
    both = report(compare_readers(str(corrupt_path), places=40), "tiff")
    assert both.levels[0] is not None
    assert both.levels[0].unreadable == 0
    assert both.levels[0].places < 40
    right = TiffSlideReader.read_region

    def never_fails(self: TiffSlideReader, at: tuple[int, int], level: int, size: Any) -> Any:
        try:
            return right(self, at, level, size)
        except OSError:
            return np.zeros((size[1], size[0], 3), np.uint8)

    monkeypatch.setattr(TiffSlideReader, "read_region", never_fails)
    one = report(compare_readers(str(corrupt_path), places=40), "tiffslide")
    assert one.levels[0] is not None
    assert one.levels[0].unreadable == 40 - both.levels[0].places
    assert f"exact; {one.levels[0].unreadable} places that only one" in one.at_own_scale


def test_a_level_that_a_reader_lacks_is_named(tmp_path: Path) -> None:
    """OpenSlide does not look into OME-TIFF's SubIFDs: it sees level 0 alone."""
    compared = compare_readers(str(make(tmp_path, "ome-tiff")), reference="tiff", places=2)
    assert compared.reference == "tiff"
    assert report(compared, "openslide").at_own_scale == "level 0: exact\nlevel 1: not there"


def test_the_first_that_opens_it_stands_in_for_the_reference(tmp_path: Path) -> None:
    compared = compare_readers(str(make(tmp_path, "webp")), places=2)
    assert compared.reference == "tiff"
    assert report(compared, "openslide").problem == "Unsupported TIFF compression: 50001"


def test_no_reader_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_text("no slide")
    with pytest.raises(SlideOpenError, match="not a slide that can be read"):
        compare_readers(str(path))


def test_info_shows_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(tmp_path, "webp")
    assert wsi("info", path, "--compare") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "by which pixels differ from those of tiff" in shown
    assert "the reference" in shown
    assert "not opened" in shown
    assert wsi("info", path, "--compare", "--json") == 0
    found = json.loads(capsys.readouterr().out)["comparison"]
    assert found["reference"] == "tiff"
    by_name = {r["reader"]: r for r in found["readers"]}
    assert by_name["tiffslide"]["exact"]["largest"] == 0
    assert by_name["openslide"]["levels"] == []
    assert wsi("info", path, "--json") == 0
    assert "comparison" not in json.loads(capsys.readouterr().out)
