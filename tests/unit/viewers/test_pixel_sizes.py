"""Pixel sizes that were told once are known again, for that slide alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import platformdirs
import pytest

from viewers.pixel_sizes import memory_path, remember_mpp, remembered_mpp


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(platformdirs, "user_config_path", lambda name: tmp_path / "config" / name)
    return tmp_path


def test_a_slide_is_known_by_its_bytes(no_mpp_path: Path, tissue_path: Path, folder: Path) -> None:
    assert remembered_mpp(str(no_mpp_path)) is None
    remember_mpp(str(no_mpp_path), 0.25)
    moved = shutil.copy(no_mpp_path, folder / "moved.tif")
    assert remembered_mpp(str(moved)) == 0.25
    assert remembered_mpp(str(tissue_path)) is None
    remember_mpp(str(tissue_path), 0.5)
    assert remembered_mpp(str(no_mpp_path)) == 0.25


@pytest.mark.parametrize("mpp", [0.0, 0.04, 20.1, float("nan")])
def test_no_scanner_has_such_pixels(no_mpp_path: Path, mpp: float) -> None:
    with pytest.raises(ValueError, match=r"slides have 0.05 to 20.0"):
        remember_mpp(str(no_mpp_path), mpp)
    assert not memory_path().exists()


@pytest.mark.parametrize("content", ["", "[1]", "{not json", '{"x": "y"}'])
def test_a_file_that_is_not_ours_is_no_answer(no_mpp_path: Path, content: str) -> None:
    memory_path().parent.mkdir(parents=True)
    memory_path().write_text(content)
    assert remembered_mpp(str(no_mpp_path)) is None
    remember_mpp(str(no_mpp_path), 0.5)
    assert remembered_mpp(str(no_mpp_path)) == 0.5
