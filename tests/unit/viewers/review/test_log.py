"""A review is never lost: not by kill -9, not by a full disk, not by a second reader."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tiling.geometry import Region
from viewers.errors import ReviewError
from viewers.review import log
from viewers.review.log import ReviewLog, Verdict, read_verdicts, review_path, write_spared

FIRST = Verdict(
    "slide", "abmil-0a0a0a0a", "m1", "1.0", 1, Region(0, 0, 512, 512), 0.5, "", "agree", "µ\nline"
)


def box(index: int) -> Region:
    return Region(512 * index, 0, 512, 512)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "out" / "stores" / "slide.zarr"


def test_verdicts_stand_beside_the_run_with_reader_time_and_version(store: Path) -> None:
    review = ReviewLog.open(store, "slide", "Dr. A B")
    assert review.path == store.parents[1] / "reviews" / "slide" / "Dr._A_B.jsonl"
    review.add(FIRST)
    [line] = review.path.read_text(encoding="utf-8").splitlines()
    found = json.loads(line)
    assert (found["reader"], found["model_id"], found["version"]) == ("Dr. A B", "m1", "1.0")
    assert found["box"] == {"x0": 0, "y0": 0, "width": 512, "height": 512}
    assert found["time"].endswith("+00:00")
    assert read_verdicts(review.path) == [replace(FIRST, reader="Dr. A B", time=found["time"])]


def test_the_file_only_grows_and_the_last_word_counts(store: Path) -> None:
    review = ReviewLog.open(store, "slide", "a")
    review.add(FIRST)
    before = review.path.read_bytes()
    review.add(replace(FIRST, answer="unsure"))
    assert review.path.read_bytes().startswith(before)
    again = ReviewLog.open(store, "slide", "a")
    assert [v.answer for v in read_verdicts(again.path)] == ["agree", "unsure"]
    found = again.of(FIRST.key)
    assert found is not None
    assert found.answer == "unsure"


def test_a_second_reader_sees_nothing_of_the_first(store: Path) -> None:
    ReviewLog.open(store, "slide", "a").add(FIRST)
    assert ReviewLog.open(store, "slide", "b").of(FIRST.key) is None


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_torn_last_line_is_passed_over_and_the_next_begins_anew(store: Path, cut: int) -> None:
    review = ReviewLog.open(store, "slide", "a")
    review.add(FIRST)
    review.add(replace(FIRST, box=box(1)))
    whole = review.path.read_bytes()
    review.path.write_bytes(whole[:-cut])
    again = ReviewLog.open(store, "slide", "a")
    kept = 2 if cut == 1 else 1  # without its end alone the line is whole
    assert len(again.said) == kept
    again.add(replace(FIRST, box=box(2), answer="disagree"))
    assert again.path.read_bytes().startswith(whole[:-cut] + b"\n{")
    last = ReviewLog.open(store, "slide", "a")
    assert len(last.said) == kept + 1
    assert last.said[replace(FIRST, box=box(2)).key].answer == "disagree"


def test_kill_9_in_the_middle_of_a_review_loses_nothing_that_was_said(
    store: Path, tmp_path: Path
) -> None:
    """The process says each verdict's number after `add` returned; then it is killed."""
    program = f"""
import sys
from viewers.review.log import ReviewLog, Verdict
from tiling.geometry import Region
review = ReviewLog.open({str(store)!r}, "slide", "a")
for i in range(100_000):
    verdict = Verdict("slide", "p", "m1", "1", i, Region(i, 0, 9, 9), 0.5, "", "agree", "n" * 900)
    review.add(verdict)
    print(i, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[4],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:
                os.kill(process.pid, signal.SIGKILL)
                break
        said = 5 + sum(1 for line in process.stdout if line.endswith("\n"))
    again = ReviewLog.open(store, "slide", "a")
    assert {v.box.x0 for v in again.said.values()} >= set(range(said + 1))
    again.add(replace(FIRST, answer="unsure"))
    assert ReviewLog.open(store, "slide", "a").of(FIRST.key) is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_without_space_the_verdict_waits_and_goes_with_the_next(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes a part of the line and is full: the part is taken back."""
    review = ReviewLog.open(store, "slide", "a")
    review.add(FIRST)
    before = review.path.read_bytes()
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(log.os, "write", full)
    with pytest.raises(ReviewError, match=r"^NOT SAVED: .*disk is full: make room\. Leave napari"):
        review.add(replace(FIRST, box=box(1)))
    assert review.path.read_bytes() == before
    assert review.of(replace(FIRST, box=box(1)).key) is not None
    monkeypatch.undo()
    review.add(replace(FIRST, box=box(2)))
    assert [v.box for v in read_verdicts(review.path)] == [box(0), box(1), box(2)]
    assert review.unsaved == []


LIMITED = """
import os, resource, signal, sys
from dataclasses import replace
from viewers.errors import ReviewError
from viewers.review import log
from tiling.geometry import Region
from pathlib import Path
log.spare_folder = lambda: Path(sys.argv[2])
review = log.ReviewLog.open(sys.argv[1], "slide", "a")
verdict = log.Verdict("slide", "p", "m1", "1", 1, Region(0, 0, 9, 9), 0.5, "", "agree", "n" * 900)
for i in range(3):
    review.add(replace(verdict, box=Region(i, 0, 9, 9)))
full = review.path.stat().st_size + 100  # a tenth of a line more: no file here may be larger
resource.setrlimit(resource.RLIMIT_FSIZE, (full, full))
for i in (3, 4):
    try:
        review.add(replace(verdict, box=Region(i, 0, 9, 9)))
    except ReviewError as err:
        print(err, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
def test_what_the_system_refuses_outlives_kill_9_in_a_second_place(
    store: Path, own_second_place: Path
) -> None:
    """The system itself refuses to let the file grow; the process is killed; room is made."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(store), str(own_second_place)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[4], check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.count("The verdict is safe in") == 2
    path = review_path(store, "slide", "a")
    assert [v.box.x0 for v in read_verdicts(path)] == [0, 1, 2]
    again = ReviewLog.open(store, "slide", "a")
    assert [v.box.x0 for v in read_verdicts(path)] == [0, 1, 2, 3, 4]
    assert {v.box.x0 for v in again.said.values()} == {0, 1, 2, 3, 4}
    assert (again.unsaved, list(own_second_place.iterdir())) == ([], [])


def test_the_second_place_is_emptied_without_its_slide_being_opened(
    store: Path, own_second_place: Path
) -> None:
    path = review_path(store, "slide", "a")
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("in the way")
    review = ReviewLog(path, "a")
    for index in range(2):
        with pytest.raises(ReviewError):
            review.add(replace(FIRST, box=box(index)))
    assert write_spared() == 2
    path.parent.unlink()
    assert write_spared() == 0
    assert [v.box for v in read_verdicts(path)] == [box(0), box(1)]
    assert list(own_second_place.iterdir()) == []
    review.flush()  # the program that said them runs on: twice is no harm
    assert len(ReviewLog.open(store, "slide", "a").said) == 2


def test_a_second_place_of_a_run_that_is_gone_is_left_alone(own_second_place: Path) -> None:
    own_second_place.mkdir(parents=True)
    lines = [json.dumps({"path": "/gone/out/reviews/s/a.jsonl"}), FIRST.to_line()]
    for name, text in (("x.jsonl", "\n".join(lines)), ("y.jsonl", "no JSON"), ("z.jsonl", "")):
        (own_second_place / name).write_text(text)
    before = {p.name: p.read_bytes() for p in own_second_place.iterdir()}
    assert write_spared() == 1
    assert {p.name: p.read_bytes() for p in own_second_place.iterdir()} == before


def test_a_folder_that_cannot_be_written_keeps_the_verdict_too(store: Path) -> None:
    path = review_path(store, "slide", "a")
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("in the way")
    review = ReviewLog(path, "a")
    with pytest.raises(ReviewError, match=r"make the folder writable\. The verdict is safe in"):
        review.add(FIRST)
    assert len(review.unsaved) == 1
    assert review.at_risk == []
    assert [replace(v, reader="", time="") for v in read_verdicts(review.spare)] == [FIRST]


@pytest.mark.parametrize("name", ["", "  ", "///", "."])
def test_a_reader_has_a_name(store: Path, name: str) -> None:
    with pytest.raises(ReviewError, match="type a name"):
        review_path(store, "slide", name)


def test_two_readers_never_share_a_file(store: Path) -> None:
    ReviewLog.open(store, "slide", "A B").add(FIRST)
    with pytest.raises(ReviewError, match="is the review of A B"):
        ReviewLog.open(store, "slide", "A_B")


def test_stores_at_a_url_have_no_place_for_reviews() -> None:
    with pytest.raises(ReviewError, match="copy the run here"):
        review_path("s3://bucket/out/stores/a.zarr", "a", "x")


@pytest.mark.parametrize(
    "line", ['{"answer": "agree"}', "[1]", "null", '{"slide_id": "a", "box": 3}', "\x00", "{}"]
)
def test_lines_that_are_no_verdict_are_passed_over(store: Path, line: str) -> None:
    review = ReviewLog.open(store, "slide", "a")
    review.add(FIRST)
    with review.path.open("a") as file:
        file.write(line + "\n")
    assert len(read_verdicts(review.path)) == 1
