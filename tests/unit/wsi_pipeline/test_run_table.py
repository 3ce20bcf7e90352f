from __future__ import annotations

from pathlib import Path

import pytest

from wsi_pipeline.errors import UsageError
from wsi_pipeline.run_table import RunTable, StageRow


def test_rows_of_earlier_runs_stay_until_their_stage_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "run_table.csv"
    first = RunTable(path)
    first.add(
        [StageRow("a", "tile", "done", tiles=5), StageRow("b", "tile", "failed", 'why, "so"')]
    )
    first.save()
    second = RunTable(path)
    second.add([StageRow("b", "tile", "done", seconds=1.5, tiles=7, bad_tiles=1)])
    second.save()
    assert list(RunTable(path).rows.values()) == [
        StageRow("a", "tile", "done", tiles=5),
        StageRow("b", "tile", "done", seconds=1.5, tiles=7, bad_tiles=1),
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["run_table.csv"]


@pytest.mark.parametrize("text", ["slide_id,stage\na,tile\n", "a,b\n1,2\n", "\xe9"])
def test_a_table_that_is_not_ours_is_neither_read_nor_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run_table.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="run_table.csv: not a run table of ours .* move it away"):
        RunTable(path)
    assert path.read_text(encoding="latin-1") == text
