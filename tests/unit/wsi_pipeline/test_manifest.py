from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.tiling.test_store import make_store
from wsi_pipeline.errors import UsageError
from wsi_pipeline.manifest import SlideEntry, collect_slides


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Slides of one name in two patients' folders, and files that are none."""
    for name in ("p1/a.svs", "p2/a.tif", "b.ndpi", "notes.txt", ".hidden.tif"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "in"


def ids(inputs: list[str], out: Path) -> list[str]:
    return [entry.slide_id for entry in collect_slides(inputs, out / "stores")]


def test_ids_are_paths_below_the_input_folder(folder: Path, tmp_path: Path) -> None:
    """Peers key outputs by file name alone, so that two patients' 1.svs collide."""
    assert ids([str(folder)], tmp_path) == ["b", "p1__a", "p2__a"]


def test_files_of_one_name_are_told_apart_by_their_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = ids([str(folder / "p1/a.svs"), str(folder / "p2/a.tif")], tmp_path)
    assert first == "a"
    assert second.startswith("a-")
    assert len(second) == len("a-") + 8


def test_a_slide_named_twice_is_worked_on_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    ways = [str(folder / "b.ndpi"), str(folder / "*.ndpi"), "b.ndpi", "./p1/../b.ndpi"]
    assert ids(ways, tmp_path) == ["b"]


def test_an_id_taken_by_a_store_of_another_slide_gets_a_hash(
    tissue_path: Path, blank_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "stores").mkdir()
    make_store(tissue_path, tmp_path / "stores" / "tissue.zarr")
    assert ids([str(tissue_path)], tmp_path) == ["tissue"]
    other = str(shutil.copy(blank_path, tmp_path / "tissue.tif"))
    assert ids([other], tmp_path)[0].startswith("tissue-")


def test_urls_are_taken_as_they_are(tmp_path: Path) -> None:
    entries = collect_slides(["s3://bucket/archive/x.svs"], tmp_path)
    assert entries == [SlideEntry("x", "s3://bucket/archive/x.svs")]


def test_manifest(folder: Path, tmp_path: Path) -> None:
    manifest = folder / "m.csv"
    manifest.write_text("\ufeffpath,mpp,slide_id,label\np1/a.svs,0.25,first,1\nb.ndpi,,,0\n")
    assert collect_slides([str(manifest)], tmp_path) == [
        SlideEntry("first", str(folder / "p1/a.svs"), 0.25),
        SlideEntry("b", str(folder / "b.ndpi"), None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,mpp\na.svs,1\n", "needs a column 'path'.*it has file, mpp"),
        ("path,mpp\na.svs,1\nb.svs,0x\n", r"m\.csv, line 3: mpp is '0x'"),
        ("path,mpp\na.svs,-1\n", "line 2: mpp is '-1'"),
        ("path\n \n", "line 2: the path is empty"),
        ("path,slide_id\na.svs,../../etc\n", "is no file name"),
        ("path\n", "no slides given"),
        ("path\na.svs\nx/../a.svs\n", "path .*a.svs' is listed 2 times"),
        ("path,slide_id\na.svs,s\nb.svs,s\n", "slide_id 's' is listed 2 times"),
        ("path\n\0\xe9\n", "cannot be read as CSV"),
    ],
)
def test_wrong_manifests_say_where(tmp_path: Path, text: str, message: str) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=message):
        collect_slides([str(manifest)], tmp_path)


def test_inputs_that_name_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        collect_slides([str(tmp_path / "nothing*.svs")], tmp_path)
    with pytest.raises(UsageError, match="no slides here"):
        collect_slides([str(tmp_path)], tmp_path)
