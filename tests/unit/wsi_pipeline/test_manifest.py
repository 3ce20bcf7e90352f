from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
import zarr

from tests.conftest import coded_pixels
from tests.dicom_slides import write_series
from tests.unit.tiling.test_store import make_store
from tests.zarr_slides import write_ome_zarr
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


def test_the_files_of_one_dicom_series_are_one_slide(tmp_path: Path) -> None:
    """Named by its folder where that holds nothing else in DICOM; by its base level if it does."""
    levels = [coded_pixels(90, 70), coded_pixels(45, 35)]
    alone = write_series(tmp_path / "in" / "case.1" / "slide", levels)
    write_series(tmp_path / "in" / "two", levels, stem="a_")
    write_series(tmp_path / "in" / "two", levels[:1], stem="b_")
    entries = collect_slides([str(tmp_path / "in")], tmp_path)
    assert [(e.slide_id, Path(e.path).name) for e in entries] == [
        ("case.1__slide", "level_0.dcm"),
        ("two__a_level_0", "a_level_0.dcm"),
        ("two__b_level_0", "b_level_0.dcm"),
    ]
    folder = collect_slides([str(alone[0].parent)], tmp_path)
    assert [(e.slide_id, e.path) for e in folder] == [("slide", str(alone[0]))]
    files = collect_slides([str(path) for path in alone], tmp_path)
    assert [e.path for e in files] == [str(alone[0])]
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\nin/case.1\nin/case.1/slide\nin/two/b_level_0.dcm\n")
    named = collect_slides([str(manifest)], tmp_path)
    assert [e.slide_id for e in named] == ["case.1", "slide", "b_level_0"]
    assert named[0].path == str(tmp_path / "in" / "case.1")  # no slide: fails when opened
    assert named[1].path == str(alone[0])


def test_dicom_files_that_are_no_slide_and_such_that_cannot_be_told(tmp_path: Path) -> None:
    """Annotations beside a slide are passed over; a broken file is tried and fails by name."""
    [path] = write_series(tmp_path / "in", [coded_pixels(90, 70)])
    other = pydicom.dcmread(path)
    other.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.91.1"
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID
    other.save_as(tmp_path / "in" / "annotation.dcm")
    (tmp_path / "in" / "broken.dcm").write_bytes(path.read_bytes()[:600])
    assert ids([str(tmp_path / "in")], tmp_path) == ["broken", "level_0"]


def test_zarr_folders_are_slides_where_they_are_images_and_never_looked_into(
    tissue_path: Path, tmp_path: Path
) -> None:
    """Our own stores lie in the output folder, which may lie in the input folder."""
    write_ome_zarr(tmp_path / "in" / "p1" / "a.ome.zarr", [coded_pixels(64, 64)])
    write_ome_zarr(tmp_path / "in" / "b.zarr", [coded_pixels(64, 64)], version="0.4")
    write_ome_zarr(tmp_path / "in" / "named otherwise", [coded_pixels(64, 64)])
    (tmp_path / "in" / "out" / "stores").mkdir(parents=True)
    make_store(tissue_path, tmp_path / "in" / "out" / "stores" / "tissue.zarr")
    zarr.open_group(tmp_path / "in" / "table.zarr", mode="w")
    (tmp_path / "in" / "table.zarr" / "c.tif").write_text("a chunk that looks like a slide")
    entries = collect_slides([str(tmp_path / "in")], tmp_path)
    assert [e.slide_id for e in entries] == ["b", "named otherwise", "p1__a.ome"]
    assert ids([str(tmp_path / "in" / "b.zarr") + "/"], tmp_path) == ["b"]
    assert ids(["s3://bucket/c.zarr/"], tmp_path) == ["c"]


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
