"""What a reader said of regions, kept at once: a file that is only ever added to.

One JSON object a line, a line a verdict, on disk before the next key is taken. A line that a killed
process left half written is passed over; the next one begins on a line of its own. What the file
does not take, on a full disk, is kept in a second place until it does.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import platformdirs

from tiling.geometry import Region
from viewers.errors import ReviewError

Answer = Literal["agree", "disagree", "unsure"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reader said of one region of one model.

    Attributes
    ----------
    slide_id, prediction, model_id, version
        The slide, the prediction's name in its store, the model's hash, and the version of
        this software.
    rank, box, score
        The region as it was shown: level-0 px, and its peak.
    answer
        None where there is only a note.
    time
        UTC, ISO 8601.
    """

    slide_id: str
    prediction: str
    model_id: str
    version: str
    rank: int
    box: Region
    score: float
    reader: str
    answer: Answer | None
    note: str = ""
    time: str = ""

    @property
    def key(self) -> tuple[str, str, Region]:
        """What it is about: a later verdict of the same reader with this key takes its place."""
        return self.slide_id, self.model_id, self.box

    def to_line(self) -> str:
        """Return it as a line of the file, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Verdict | None:
        """Return what a line holds; None for one that was never finished, or is none of ours."""
        try:
            found: dict[str, Any] = json.loads(line)
            verdict = cls(**{**found, "box": Region(**found["box"])})
        except (json.JSONDecodeError, KeyError, TypeError):
            return None
        return verdict if verdict.answer in (None, *ANSWERS) else None


def utc_now() -> str:
    """Return the time in UTC to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def review_path(store: str | Path, slide_id: str, reader: str) -> Path:
    """Return a reader's file: ``OUT/reviews/<slide_id>/<reader>.jsonl`` beside ``OUT/stores``.

    Raises
    ------
    ReviewError
        The reader has no name that a file can have, or the store is not in a folder.
    """
    name = re.sub(r"[^\w.-]+", "_", reader.strip()).strip("._")
    if not name:
        raise ReviewError(f"reader {reader!r}: type a name or initials first")
    if "://" in str(store):
        raise ReviewError(f"{store}: reviews are kept beside stores on a disk; copy the run here")
    folder = Path(store).resolve().parent
    root = folder.parent if folder.name == "stores" else folder
    return root / "reviews" / slide_id / f"{name}.jsonl"


def read_verdicts(path: Path) -> list[Verdict]:
    """Return all lines of a file, oldest first; none if there is no file.

    Raises
    ------
    ReviewError
        It cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ReviewError(f"{path}: cannot be read ({err.strerror or err})") from err
    found = (Verdict.from_line(line) for line in text.split("\n") if line.strip())
    return [verdict for verdict in found if verdict is not None]


def latest(verdicts: Iterable[Verdict]) -> dict[tuple[str, str, Region], Verdict]:
    """Return the last word on each region, by :attr:`Verdict.key`."""
    return {verdict.key: verdict for verdict in verdicts}


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a file and wait until they are on the disk; all of them or none.

    Raises
    ------
    ReviewError
        There is no space, or the file cannot be written; what was there stays as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as err:
        raise _write_error(path, err) from err
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = end > 0 and _last_byte(descriptor, end) != b"\n"
        data = (("\n" if torn else "") + "".join(f"{line}\n" for line in lines)).encode()
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    except OSError as err:
        raise _write_error(path, err) from err
    finally:
        os.close(descriptor)


def _last_byte(descriptor: int, end: int) -> bytes:
    os.lseek(descriptor, end - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


def _write_error(path: Path, err: OSError) -> ReviewError:
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return ReviewError(f"{path}: the disk is full: make room")
    why = err.strerror or str(err)
    return ReviewError(f"{path}: cannot be written ({why}): make the folder writable")


def spare_folder() -> Path:
    """Return the second place: a folder in the user's own data."""
    return platformdirs.user_data_path("wsi-pipeline") / "reviews-to-be-written"


@dataclass(slots=True)
class ReviewLog:
    """One reader's file on one slide; nobody else's verdicts are seen here.

    Verdicts that could not be written wait in `unsaved` and go with the next one. The first
    `spared` of them are in the file `spare`, so that they outlive this program.
    """

    path: Path
    reader: str
    unsaved: list[Verdict] = field(default_factory=list)
    said: dict[tuple[str, str, Region], Verdict] = field(default_factory=dict)
    spared: int = 0

    @classmethod
    def open(cls, store: str | Path, slide_id: str, reader: str) -> ReviewLog:
        """Return the log of `reader`, with what was said before.

        What waits in the second place since an earlier day is written where it belongs now.

        Raises
        ------
        ReviewError
            No reader is named, the file cannot be read, or it is another reader's whose name
            makes the same file name.
        """
        path = review_path(store, slide_id, reader)
        verdicts = read_verdicts(path)
        others = {v.reader for v in verdicts} - {reader.strip()}
        if others:
            raise ReviewError(
                f"{path}: is the review of {', '.join(sorted(others))}; choose another name than "
                f"{reader!r}"
            )
        return cls._with_spared(path, reader.strip(), verdicts)

    @classmethod
    def _with_spared(cls, path: Path, reader: str, verdicts: list[Verdict]) -> ReviewLog:
        found = cls(path, reader)
        written = set(verdicts)
        found.unsaved = [v for v in read_verdicts(found.spare) if v not in written]
        found.spared = len(found.unsaved)
        found.said = latest([*verdicts, *found.unsaved])
        with contextlib.suppress(ReviewError):
            found.flush()
        return found

    @property
    def spare(self) -> Path:
        """The file in the second place, known by the path of the first."""
        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return spare_folder() / f"{digest}.jsonl"

    @property
    def at_risk(self) -> list[Verdict]:
        """Verdicts that are on no disk at all: they end with this program."""
        return self.unsaved[self.spared :]

    def add(self, verdict: Verdict) -> None:
        """Keep a verdict: in memory always, and on the disk before this returns.

        Raises
        ------
        ReviewError
            It could not be written where it belongs; it is in `unsaved`, and the message says
            whether it is in the second place.
        """
        stamped = replace(verdict, reader=self.reader, time=verdict.time or utc_now())
        self.said[stamped.key] = stamped
        self.unsaved.append(stamped)
        self.flush()

    def flush(self) -> None:
        """Write what waits, where it belongs or else in the second place.

        Raises
        ------
        ReviewError
            As :meth:`add`.
        """
        try:
            if self.unsaved:
                append_lines(self.path, [verdict.to_line() for verdict in self.unsaved])
        except ReviewError as err:
            self._save_to_spare(err)
        self.unsaved.clear()
        self.spared = 0
        with contextlib.suppress(OSError):
            self.spare.unlink(missing_ok=True)

    def _save_to_spare(self, err: ReviewError) -> NoReturn:
        """Write what is at risk to the second place, and say where it is now."""
        try:
            # The file begins with where its lines belong.
            first = [] if self.spare.exists() else [json.dumps({"path": str(self.path)})]
            lines = [verdict.to_line() for verdict in self.at_risk]
            if lines:
                append_lines(self.spare, [*first, *lines])
        except ReviewError:
            raise ReviewError(
                f"NOT SAVED: {err}. Leave napari open: the verdict is written as soon as there is "
                "room"
            ) from err
        self.spared = len(self.unsaved)
        raise ReviewError(
            f"{err}. The verdict is safe in {self.spare} meanwhile, and written here as soon as "
            "there is room"
        ) from err

    def save_to(self, folder: Path) -> Path:
        """Write what waits to ``FOLDER/<slide_id>/<reader>.jsonl``, and return that.

        Raises
        ------
        ReviewError
            There is no room either.
        """
        path = folder / self.path.parent.name / self.path.name
        append_lines(path, [verdict.to_line() for verdict in self.unsaved])
        self.spared = len(self.unsaved)
        return path

    def of(self, key: tuple[str, str, Region]) -> Verdict | None:
        """Return this reader's last word on a region, or None."""
        return self.said.get(key)


def write_spared() -> int:
    """Write what waits in the second place where it belongs; return how many verdicts still wait.

    A run that is gone, or on a disk that is not plugged in, is left for another day.
    """
    waiting = 0
    for spare in sorted(spare_folder().glob("*.jsonl")):
        spared: list[Verdict] = []
        try:
            first = spare.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
            path = Path(json.loads(first)["path"])
            spared = read_verdicts(spare)
            if spared and path.parents[2].is_dir():
                log = ReviewLog._with_spared(path, spared[0].reader, read_verdicts(path))
                spared = log.unsaved
        except (OSError, ValueError, LookupError, TypeError, ReviewError):
            pass  # none of ours, or not to be read today: it stays as it is
        waiting += len(spared)
    return waiting
