from __future__ import annotations

from pathlib import Path

import pytest

from tiling.atomic import replacing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.csv"
    with replacing(path) as partial:
        partial.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
