"""The command line as people and programs use it: outputs, exit codes, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from cyclopts.config import Toml

from tests.conftest import coded_pixels, tissue_pixels
from tests.dicom_slides import jpeg_ls, write_series
from tests.zarr_slides import write_ome_zarr
from tiling import open_store
from tiling.nodes import Rows
from tiling.readers.registry import READERS
from wsi_pipeline.cli import _options_of, _read_config, run_tokens
from wsi_pipeline.config import ReaderName
from wsi_pipeline.viewing import find_store

ENCODER = ["--encoder", "resnet10t", "--random-weights", "--device", "cpu"]
QUIET = ["--progress", "none"]


def wsi(*tokens: object) -> int:
    return run_tokens([str(token) for token in tokens])


def table(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "run_table.csv").open(newline="", encoding="utf-8") as file:
        return {(row["slide_id"], row["stage"]): row for row in csv.DictReader(file)}


def files_below(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def mixed(tmp_path: Path, tissue_path: Path, blank_path: Path, no_mpp_path: Path,
          corrupt_path: Path) -> Path:  # fmt: skip
    """Good slides and bad ones in one folder."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in (tissue_path, blank_path, no_mpp_path, corrupt_path):
        shutil.copy(path, folder)
    (folder / "text.svs").write_text("no slide")
    (folder / "truncated.tif").write_bytes(tissue_path.read_bytes()[:5000])
    return folder


def test_info_for_programs(tissue_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("info", tissue_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["slide_id"] == "tissue"
    assert (found["width"], found["height"]) == (2051, 1537)
    assert (found["mpp_x"], found["mpp_source"]) == (pytest.approx(0.5), "tiff.XResolution")
    assert found["mpp_candidates"] == ["tiff.XResolution = 0.5 x 0.5 µm"]
    assert (found["reader"], found["refused_by"]) == ("tiff", {})
    assert found["decoder"].startswith("libjpeg-turbo")
    assert found["levels"][1] == {"width": 512, "height": 384, "downsample": pytest.approx(4, 0.01)}
    assert found["warnings"] == []


def test_info_says_why_another_reader_was_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "slide", [coded_pixels(100, 80)], mpp=(0.25, 0.25))
    assert wsi("info", tmp_path / "slide", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["slide_id"], found["reader"]) == ("slide", "dicom")
    assert "photometric interpretation YBR_FULL" in found["refused_by"]["openslide"]
    assert wsi("info", tmp_path / "slide") == 0
    assert "openslide: Reading" in " ".join(capsys.readouterr().out.split())


def test_every_reader_can_be_named_on_the_command_line() -> None:
    assert get_args(ReaderName) == ("auto", *READERS)


def test_info_states_a_missing_pixel_size(
    no_mpp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wsi("info", no_mpp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mpp_x"], found["mpp_source"]) == (None, None)
    assert found["warnings"] == ["no mpp in the metadata"]


def test_a_folder_that_mixes_good_and_bad(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert wsi("tile", mixed, "-o", out, *QUIET) == 1
    rows = table(out)
    status = {slide: row["status"] for (slide, _), row in rows.items()}
    assert status == {"tissue": "done", "blank": "done", "corrupt": "done", "no_mpp": "failed",
                      "text": "failed", "truncated": "failed"}  # fmt: skip
    assert "MissingMppError: no_mpp.tif: no mpp" in rows["no_mpp", "tile"]["reason"]
    assert rows["blank", "tile"]["reason"] == "no tile of 16 has at least 10% tissue"
    assert (rows["blank", "tile"]["tiles"], len(open_store(out / "stores/blank.zarr"))) == ("0", 0)
    assert "Traceback" in (out / "errors" / "text.txt").read_text()
    record = json.loads((out / "run.json").read_text())
    assert record["exit_code"] == 1
    assert record["failed"] == ["no_mpp", "text", "truncated"]
    assert record["parameters"]["tiles"]["mpp"] == 0.5


def test_the_pixel_size_can_be_given(no_mpp_path: Path, tmp_path: Path) -> None:
    assert wsi("tile", no_mpp_path, "-o", tmp_path / "a", *QUIET) == 3
    assert wsi("tile", no_mpp_path, "-o", tmp_path / "a", "--slide-mpp", 0.5, *QUIET) == 0
    assert not (tmp_path / "a" / "errors" / "no_mpp.txt").exists()
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,mpp\n{no_mpp_path},0.25\n")
    assert wsi("tile", manifest, "-o", tmp_path / "b", *QUIET) == 0
    attrs = open_store(tmp_path / "b" / "stores" / "no_mpp.zarr").attrs["slide"]
    assert (attrs["mpp_x"], attrs["mpp_source"]) == (0.25, "user")


def test_the_same_again_changes_nothing_and_other_parameters_are_refused(
    tissue_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["embed", tissue_path, "-o", out, *ENCODER, "--tile-px", 128, *QUIET]
    assert wsi(*command) == 0
    before = files_below(out / "stores")
    assert wsi(*command) == 0
    assert files_below(out / "stores") == before
    assert wsi("tile", tissue_path, "-o", out, "--tile-px", 96, *QUIET) == 3
    assert "tile_px is 96, the store was made with 128" in table(out)["tissue", "tile"]["reason"]
    assert wsi(*command, "--batch-size", 16) == 0
    assert len(open_store(out / "stores" / "tissue.zarr").embedding_names()) == 2


def test_one_corrupt_tile_is_counted_and_its_embedding_is_nan(
    corrupt_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert wsi("embed", corrupt_path, "-o", out, *ENCODER, *QUIET, "--min-tissue", 0.5) == 0
    row = table(out)["corrupt", "embed"]
    assert (row["status"], row["tiles"], row["bad_tiles"]) == ("done", "16", "1")
    store = open_store(out / "stores" / "corrupt.zarr")
    bad = np.isnan(store.embeddings().data[:]).all(axis=1)
    assert store.grid.coords[bad].tolist() == [[1024, 768]]


def test_save_tiles(tissue_path: Path, tmp_path: Path) -> None:
    assert wsi("tile", tissue_path, "-o", tmp_path, "--save-tiles", *QUIET) == 0
    assert open_store(tmp_path / "stores" / "tissue.zarr").rows("tiles").is_complete


def test_a_dicom_series_and_an_image_in_zarr_are_tiled_as_files_are(tmp_path: Path) -> None:
    """The same pixels in two formats give the same tiles; a second run finds the same slides."""
    slides, out = tmp_path / "in", tmp_path / "in" / "out"
    levels = [tissue_pixels(1200, 1000), tissue_pixels(1200, 1000)[::4, ::4]]
    write_series(slides / "dicom", levels, encode=jpeg_ls, photometric="RGB", tile=(256, 256))
    write_ome_zarr(slides / "image.zarr", levels, chunk=256)
    for _ in range(2):
        assert wsi("tile", slides, "-o", out, "--save-tiles", "--tile-px", 128, *QUIET) == 0
    stores = [open_store(out / "stores" / f"{name}.zarr") for name in ("dicom", "image")]
    assert [store.attrs["slide"]["reader"] for store in stores] == ["dicom", "ome-zarr"]
    one, other = stores
    assert len(one) == len(other) > 10
    assert np.array_equal(one.grid.coords, other.grid.coords)
    assert np.array_equal(one.rows("tiles").data[:], other.rows("tiles").data[:])
    for given in (slides / "dicom", slides / "dicom" / "level_1.dcm"):
        assert find_store(str(given), out).path == one.path
    assert find_store(str(slides / "image.zarr"), out).path == other.path


@pytest.mark.slow
def test_spawned_workers_write_the_same_bytes(mixed: Path, tmp_path: Path) -> None:
    options = [*ENCODER, "--tile-px", 128, "--batch-size", 8]
    assert wsi("embed", mixed, "-o", tmp_path / "one", *options, *QUIET) == 1
    assert wsi("embed", mixed, "-o", tmp_path / "two", *options, *QUIET, "--workers", 2) == 1
    keys = {k: r["status"] for k, r in table(tmp_path / "one").items()}
    assert {k: r["status"] for k, r in table(tmp_path / "two").items()} == keys
    for name in ("tissue", "blank", "corrupt"):
        one, two = (
            open_store(tmp_path / out / "stores" / f"{name}.zarr").embeddings().data[:]
            for out in ("one", "two")
        )
        assert one == pytest.approx(two, abs=1e-4, nan_ok=True)


def test_progress_for_programs(
    tissue_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wsi("embed", tissue_path, "-o", tmp_path, *ENCODER, "--progress", "json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == {"event": "start", "slides": 1}
    assert [e["done"] for e in events if e["event"] == "tiles"][-1] == events[-2]["total"]
    assert [stage["stage"] for stage in events[-1]["stages"]] == ["tile", "embed"]


def test_a_full_disk_fails_that_slide_by_name_and_loses_nothing(
    tissue_path: Path, corrupt_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Rows.write

    def full(self: Rows, block: int, *arrays: np.ndarray) -> None:
        if "tissue.zarr" in str(self.data.store_path):
            raise OSError(28, "No space left on device")
        write(self, block, *arrays)

    monkeypatch.setattr(Rows, "write", full)
    command = ["embed", tissue_path, corrupt_path, "-o", tmp_path, *ENCODER, *QUIET]
    assert wsi(*command) == 1
    rows = table(tmp_path)
    reason = rows["tissue", "embed"]["reason"]
    assert "No space left on device; free some and run the same command again" in reason
    assert rows["corrupt", "embed"]["status"] == "done"
    monkeypatch.undo()
    assert wsi(*command) == 0


def test_two_writers_of_one_store(tissue_path: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    assert wsi("tile", tissue_path, "-o", tmp_path, *QUIET) == 0
    with FileLock(tmp_path / "stores" / ".locks" / "tissue.lock"):
        assert wsi("tile", tissue_path, "-o", tmp_path, *QUIET) == 3
    assert "another process is working" in table(tmp_path)["tissue", "tile"]["reason"]


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        (["tile", "SLIDE", "-o", "OUT", "--bogus", "1"], 2, "Unknown option"),
        (["tile", "SLIDE", "-o", "OUT", "--mpp", "-1"], 2, "mpp=-1.0: must be positive"),
        (["tile", "SLIDE", "-o", "OUT", "--mpp", "0.0005"], 2, "no slide has pixels that fine"),
        (["tile", "SLIDE", "-o", "OUT", "--slide-mpp", "nan"], 2, "slide_mpp=nan: must be"),
        (["info", "SLIDE", "--slide-mpp", "-1"], 2, "slide_mpp=-1.0: must be positive"),
        (["view", "SLIDE", "--slide-mpp", "0"], 2, "slide_mpp=0.0: must be positive"),
        (["embed", "SLIDE", "-o", "OUT", "--device", "gpu"], 2, "choose auto, cpu, cuda"),
        (["embed", "SLIDE", "-o", "OUT", "--batch-size", "0"], 2, "batch_size=0: must be"),
        (["tile", "SLIDE", "-o", "OUT", "--overlap", "256"], 2, "overlap=256: must be 0 to 255"),
        (["tile", "nothing.svs", "-o", "OUT"], 2, "nothing.svs: no such file"),
        (["tile", "SLIDE", "-o", "SLIDE"], 3, "cannot be written"),
        (["embed", "SLIDE", "-o", "OUT", "--encoder", "resnt50"], 2, "did you mean"),
        (["embed", "SLIDE", "-o", "OUT", "--tile-px", "100"], 2, "multiple of 32 px from 96"),
        # before weights are looked for: uni's are not here
        (["embed", "SLIDE", "-o", "OUT", "--encoder", "uni", "--tile-px", "256"], 2, "224 px"),
        (["embed", "SLIDE", "-o", "OUT", "--workers", "0"], 2, "workers=0"),
        (["run", "SLIDE", "-o", "OUT", "--model", "OUT"], 2, "not a model folder"),
        (["info", "nothing.svs"], 3, "no such file"),
        (["predict", "--stores", "nowhere", "--model", "m"], 2, "no such folder"),
        (["demo", "--slides", "2"], 2, "at least 4"),
        (["tile", "SLIDE", "-o", "OUT", "--config", "TOML"], 2, "[tile] has no option 'bogus'"),
        (["doctor", "--config", "TOML"], 2, "[tile] has no option 'bogus'"),
    ],
)
def test_refusals_are_short_and_say_what_to_do(
    tissue_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    tokens: list[str], code: int, message: str,
) -> None:  # fmt: skip
    (tmp_path / "c.toml").write_text("[tile]\nbogus = 1\n")
    names = {"SLIDE": tissue_path, "OUT": tmp_path / "out", "TOML": tmp_path / "c.toml"}
    assert wsi(*[names.get(token, token) for token in tokens]) == code
    complaint = capsys.readouterr().err
    assert message in " ".join(complaint.split())
    assert "Traceback" not in complaint
    assert complaint.count("\n") <= 4


def test_configuration_by_file_and_flags_win(tissue_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "wsi.toml"
    config.write_text("[tile]\ntile-px = 128\nmpp = 1.0\n[embed]\nencoder = 'resnet10t'\n")
    command = ["tile", tissue_path, "-o", tmp_path / "out", "--config", config, "--mpp", 0.5]
    assert wsi(*command, *QUIET) == 0
    spec = open_store(tmp_path / "out" / "stores" / "tissue.zarr").spec
    assert (spec.tile_px, spec.mpp) == (128, 0.5)
    config.write_text("[tiel]\nmpp = 1\n")
    assert wsi(*command) == 2


@pytest.mark.parametrize("command", ["train", "predict", "run", "demo"])
def test_every_option_can_stand_in_the_file(command: str, tmp_path: Path) -> None:
    """All that --help names, but what is positional; with underscores too."""
    config = tmp_path / "wsi.toml"
    names = [name for name in _options_of(command) if name != "help"]
    assert {"train": "allow-missing", "predict": "stores", "run": "random-weights",
            "demo": "slides"}[command] in names  # fmt: skip
    lines = [f"{name.replace('-', '_')} = 1" for name in names]
    config.write_text("\n".join([f"[{command}]", *lines]))
    assert isinstance(_read_config(config), Toml)


def test_what_slides_and_errors_say_is_shown_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are markup to the console: `wsi-pipeline[mil]` came out as `wsi-pipeline`."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert wsi("doctor") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "pip install 'wsi-pipeline[mil]'" in shown
    assert "pip install 'wsi-pipeline[gui]'" in shown
    (tmp_path / "[red]x.svs").write_text("no slide")
    assert wsi("tile", tmp_path / "[red]x.svs", "-o", tmp_path / "out") == 3
    assert "failed tile [red]x: SlideOpenError: " in capsys.readouterr().err


def test_unreadable_tiles_are_told_at_the_end(
    corrupt_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wsi("tile", corrupt_path, "-o", tmp_path, "--save-tiles") == 0
    said = capsys.readouterr().err
    assert said == f"1 of 1 slides done in {tmp_path}; 1 tiles could not be read\n"


def test_enlarged_tiles_are_remarked_on(tissue_path: Path, tmp_path: Path) -> None:
    assert wsi("tile", tissue_path, "-o", tmp_path, "--mpp", 0.25, *QUIET) == 0
    row = table(tmp_path)["tissue", "tile"]
    assert row["status"] == "done"
    assert row["reason"] == "tiles of 0.25 µm are enlarged from the slide's 0.5"


def test_an_interrupt_is_told_and_has_its_own_code(
    tissue_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wsi_pipeline.stages.tissue_mask", interrupt)
    assert wsi("tile", tissue_path, "-o", tmp_path, *QUIET) == 130
    assert "interrupted; run the same command again" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi("doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["readers"]["openslide"].startswith("openslide 4")
    assert report["offline weights"]["tf_efficientnet_lite0"] == "available offline"
    assert wsi("doctor") == 0


@pytest.mark.parametrize("command", ["", "info", "tile", "embed", "train", "predict", "heatmap",
                                     "run", "view", "reviews", "encoders", "doctor",
                                     "demo"])  # fmt: skip
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert wsi(*([command] if command else []), "--help") == 0
    text = capsys.readouterr().out
    assert "wsi" in text
    assert f"wsi {command}" in text


@pytest.fixture
def scored(tissue_path: Path, tmp_path: Path) -> Path:
    """Four copies of a slide, embedded and a model trained on them."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in "abcd":
        shutil.copy(tissue_path, slides / f"{name}.tif")
    labels = "slide_id,patient_id,label\na,pa,no\nb,pb,yes\nc,pc,no\nd,pd,yes\n"
    (tmp_path / "labels.csv").write_text(labels)
    out, model = tmp_path / "out", tmp_path / "model"
    assert wsi("embed", slides, "-o", out, *ENCODER, "--min-tissue", 0.5, *QUIET) == 0
    train = ["train", "--stores", out, "--labels", tmp_path / "labels.csv", "-o", model]
    assert wsi(*train, "--folds", 0, "--epochs", 1, "--json") == 0
    return tmp_path


def test_from_stores_to_scores_and_pictures(scored: Path, blank_path: Path) -> None:
    out, model = scored / "out", scored / "model"
    assert wsi("predict", "--stores", out / "stores", "--model", model, *QUIET) == 0
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["slide_id"] for row in rows] == list("abcd")
    assert {row["seen_in_training"] for row in rows} == {"true"}
    assert float(rows[0]["score_no"]) + float(rows[0]["score_yes"]) == pytest.approx(1, abs=1e-5)
    assert wsi("heatmap", "--stores", out, *QUIET) == 0
    assert len(list((out / "geojson").iterdir())) == 4
    shutil.copytree(model, scored / "other")
    card = json.loads((model / "card.json").read_text())
    (scored / "other/card.json").write_text(json.dumps({**card, "model_id": "0" * 16}))
    assert wsi("predict", "--stores", out, "--model", scored / "other", *QUIET) == 0
    assert wsi("heatmap", "--stores", out, *QUIET) == 3
    assert "the store holds 2 scores" in table(out)["a", "heatmap"]["reason"]
    assert "pass --model" in table(out)["a", "heatmap"]["reason"]
    assert wsi("heatmap", "--stores", out, "--model", model, *QUIET) == 0
    assert wsi("predict", "--stores", out, "--model", model, "-o", scored / "x", *QUIET) == 0
    assert [p.name for p in (scored / "x").iterdir()] == ["predictions.csv"]
    shutil.copy(blank_path, scored / "slides/a.tif")
    assert wsi("heatmap", "--stores", out, "--model", model, *QUIET) == 1
    assert "a.tif is not the file the store was made" in table(out)["a", "heatmap"]["reason"]


def test_a_model_of_another_encoder_is_refused_by_field(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts where the run embeds; slide by slide where it is too late."""
    other = ["--encoder", "resnet18", "--random-weights", "--device", "cpu"]
    run = ["run", scored / "slides", "-o", scored / "new", "--model", scored / "model"]
    assert wsi(*run, *other, *QUIET) == 2
    assert "encoder name: 'resnet18', not 'resnet10t'" in " ".join(capsys.readouterr().err.split())
    assert not list((scored / "new" / "stores").glob("*.zarr"))
    assert wsi("embed", scored / "slides", "-o", scored / "new", *other, *QUIET) == 0
    predict = ["predict", "--stores", scored / "new", "--model", scored / "model"]
    assert wsi(*predict, *QUIET) == 3
    assert (
        "ModelMismatchError: a: the embeddings do not fit"
        in table(scored / "new")["a", "predict"]["reason"]
    )


def test_a_run_without_a_model_draws_tissue_whatever_the_store_holds(scored: Path) -> None:
    """The page of a run shows what that run was asked for."""
    run = ["run", scored / "slides" / "a.tif", "-o", scored / "out", *ENCODER, "--min-tissue", 0.5]
    assert wsi(*run, *QUIET) == 0
    plain = (scored / "out/heatmaps/a.png").read_bytes()
    assert wsi("predict", "--stores", scored / "out", "--model", scored / "model", *QUIET) == 0
    assert wsi(*run, *QUIET) == 0
    assert (scored / "out/heatmaps/a.png").read_bytes() == plain


def test_every_slide_of_a_run_is_in_the_table_of_scores(scored: Path, blank_path: Path) -> None:
    """Who joins scores to a list of slides must not lose the failed ones."""
    (scored / "slides/bad.svs").write_text("no slide")
    shutil.copy(blank_path, scored / "slides/blank.tif")
    run = ["run", scored / "slides", "-o", scored / "new", "--model", scored / "model"]
    assert wsi(*run, "--random-weights", *QUIET) == 1
    with (scored / "new/predictions.csv").open() as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == ["a", "b", "bad", "blank", "c", "d"]
    assert rows["bad"]["reason"].startswith("SlideOpenError: ")
    assert (rows["bad"]["label"], rows["bad"]["score_yes"], rows["bad"]["tiles"]) == ("", "", "")
    assert rows["blank"]["reason"].startswith("no tile of ")
    assert (rows["a"]["reason"], rows["a"]["tiles"]) == ("", "16")
    assert wsi(*run, "--random-weights", "--min-tissue", 0.9, *QUIET) == 3
    with (scored / "new/predictions.csv").open() as file:
        again = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert again["a"]["score_yes"] == ""  # scored before, but not by these parameters
    assert "min_tissue is 0.9, the store was made with 0.1" in again["a"]["reason"]


def test_what_is_said_is_never_replaced_by_the_models_choice(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where what is said happens to be the default."""
    card = json.loads((scored / "model/card.json").read_text())
    card["tiles"] |= {"mpp": 1.0, "edge": "pad"}
    (scored / "model/card.json").write_text(json.dumps(card))
    run = ["run", scored / "slides", "-o", scored / "new", "--model", scored / "model",
           "--random-weights", *QUIET]  # fmt: skip
    for flags, complaint in (
        (["--mpp", 0.5], "tiles mpp: 0.5, not 1.0"),
        (["--edge", "drop"], "tiles edge: 'drop', not 'pad'"),
        (["--encoder", "tf_efficientnet_lite0"], "encoder name: 'tf_efficientnet_lite0', not"),
    ):
        assert wsi(*run, *flags) == 2
        assert complaint in " ".join(capsys.readouterr().err.split())
    assert wsi(*run) == 0
    spec = open_store(scored / "new/stores/a.zarr").spec
    assert (spec.mpp, spec.edge) == (1.0, "pad")


def test_run_takes_from_the_model_what_is_not_said(scored: Path) -> None:
    """The encoder, its batch and the tiles; new slides are scored without a word about them."""
    run = ["run", scored / "slides", "-o", scored / "new", "--model", scored / "model"]
    assert wsi(*run, "--random-weights", *QUIET) == 0
    assert (scored / "new" / "report.html").stat().st_size > 10_000
    assert len(list((scored / "new" / "heatmaps").iterdir())) == 8


@pytest.mark.slow
def test_demo_leaves_a_model_scores_pictures_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert wsi("demo", "-o", out, "--slides", 4, *QUIET) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "say nothing about medical performance" in printed
    assert "say nothing about medical performance" in (out / "report.html").read_text()
    assert (out / "model" / "card.json").exists()
    with (out / "predictions.csv").open() as file:
        scores = {row["slide_id"]: float(row["score_tumor"]) for row in csv.DictReader(file)}
    assert sorted(scores) == ["demo_00", "demo_01", "demo_02", "demo_03"]
    assert len(list((out / "heatmaps").iterdir())) == 8
    before = files_below(out / "stores")
    assert wsi("demo", "-o", out, "--slides", 4, *QUIET) == 0
    assert files_below(out / "stores") == before


def test_train_names_every_head(capsys: pytest.CaptureFixture[str]) -> None:
    from mil_models.heads import HEADS

    assert run_tokens(["train", "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").split()
    assert [name for name in HEADS if name not in words] == []
