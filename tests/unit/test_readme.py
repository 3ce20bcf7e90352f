"""Every command and every line of Python in the README is run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.unit.wsi_pipeline.test_cli import wsi
from tiling.samples import write_sample_slide

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, a folder of slides, labels and a configuration, as the README has them."""
    folder = tmp_path_factory.mktemp("readme")
    slides = folder / "slides"
    names = ["a", "b", "c", "d"]
    for index, name in enumerate(names):
        write_sample_slide(slides, index).rename(slides / f"{name}.tif")
    shutil.copy(slides / "a.tif", folder / "slide.svs")
    rows = [f"{name},p{name},{index % 2}" for index, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["slide_id,patient_id,label", *rows]) + "\n")
    (folder / "wsi.toml").write_text("[run]\nmin-tissue = 0.5\n")
    return folder


def commands() -> list[list[str]]:
    found = []
    for block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == "wsi":
                found.append(words[1:])
    in_text = re.findall(r"`wsi (run [^`]*--config [^`]*)`", README)
    return found + [shlex.split(words) for words in in_text]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:class .* patients", "ignore:.*have no label")
def test_every_command_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`wsi view` opens a window and blocks: its viewer is made, not run."""
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr("viewers.launch.view", lambda *a, **_: shown.append(a))
    monkeypatch.chdir(place)
    run = commands()
    assert {words[0] for words in run} >= {"doctor", "info", "run", "embed", "train", "view"}
    for words in run:
        if words[-2:] == ["--config", "wsi.toml"]:  # other parameters want another folder
            words[words.index("out")] = "other"
        assert wsi(*words) == 0, (words, capsys.readouterr().err)
    assert [a[0] for a in shown] == ["slide.svs", "slides/a.tif"]
    assert (place / "out" / "report.html").exists()
    assert (place / "out" / "predictions.csv").read_text().count("\n") == 5
    assert len(list((place / "out" / "geojson").iterdir())) == 4


@pytest.mark.slow
def test_the_python_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shutil.rmtree("out", ignore_errors=True)
    [code] = blocks("python")
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)  # noqa: S102 (our own README)
    assert namespace["result"].exit_code == 0  # type: ignore[attr-defined]


def test_every_file_it_names_is_there() -> None:
    root = Path(__file__).resolve().parents[2]
    for name in re.findall(r"`((?:docs|notebooks|tiling)/[\w/.]+)`|\]\((docs/[^)]+)\)", README):
        assert (root / (name[0] or name[1])).exists(), name
    for target in re.findall(r"^make (\w+)", README, flags=re.M):
        assert re.search(rf"^{target}:", (root / "Makefile").read_text(), flags=re.M), target
