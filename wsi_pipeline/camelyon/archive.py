"""What of a challenge lies in a folder, what is wrong with it, and a manifest of what is right."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mil_models.staging import NODE_CLASSES
from tiling.atomic import replacing
from tiling.errors import WSIError
from tiling.readers.tiff_extent import missing_bytes
from tiling.slide import open_slide
from wsi_pipeline.camelyon.archive_files import Found, look_below
from wsi_pipeline.camelyon.challenges import (
    CHALLENGES,
    DUPLICATES,
    NOT_EXHAUSTIVE,
    REMARKS,
    Challenge,
    PublishedSlide,
    center_of,
    challenge_of,
    published_slides,
    site_of,
)
from wsi_pipeline.camelyon.errors import ChallengeTableError
from wsi_pipeline.camelyon.tables import few, read_reference, read_rows, read_table, slide_name
from wsi_pipeline.errors import UsageError

IS_TUMOUR = {"negative": "normal", **dict.fromkeys(NODE_CLASSES[1:], "tumor")}
COLUMNS = (
    "path", "slide_id", "patient_id", "label", "split", "site", "node_class", "stage", "mask",
    "annotation", "exhaustive",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong (`is_error`), or to be known, of a slide or of the whole."""

    kind: str
    slide: str
    message: str
    is_error: bool = True


@dataclass(frozen=True, slots=True)
class SlideRow:
    """A usable slide of the manifest."""

    path: Path
    slide_id: str
    patient_id: str
    label: str
    split: str
    site: str
    node_class: str
    stage: str
    mask: str
    annotation: str
    exhaustive: bool


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What of one challenge is there, and what is wrong with it."""

    challenge: Challenge
    published: int
    missing: tuple[str, ...]
    rows: tuple[SlideRow, ...]
    findings: tuple[Finding, ...]
    masks: int
    annotations: int
    bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether every published slide is there and nothing is wrong."""
        return not self.missing and not any(f.is_error for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the slides' rows as JSON values."""
        return {
            "published": self.published,
            "there": self.published - len(self.missing),
            "usable": len(self.rows),
            "labelled": sum(bool(row.label) for row in self.rows),
            "missing": list(self.missing),
            "masks": self.masks,
            "annotations": self.annotations,
            "bytes": self.bytes,
            "is_whole": self.is_whole,
            "findings": [asdict(f) for f in self.findings],
        }


def check_archive(
    root: Path,
    *,
    reference: Path | None = None,
    stages: Path | None = None,
    labels: Path | None = None,
) -> list[ArchiveReport]:
    """Return a report on each challenge of which `root` holds slides.

    Slides are known by their names, wherever below `root` they lie, as the challenges' two
    published layouts have them; masks by names that end on `_mask` or by a folder of masks.

    Parameters
    ----------
    reference
        Labels of CAMELYON16's test slides; without it a `reference.csv` below `root`.
    stages
        Classes of CAMELYON17's nodes; without it a `stages.csv` or `stage_labels.csv`.
    labels
        CSV of slide and class (negative, itc, micro, macro) in place of the challenges' own, such
        as a cleaned data set's (CAMELYON+): slides that it does not name are left out.

    Raises
    ------
    UsageError, ChallengeTableError
        There is no such folder, no slide of either challenge in it, or a table is wrong.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    found, tables = look_below(root)
    cleaned = None if labels is None else read_classes(labels)
    reports = []
    for challenge in CHALLENGES:
        here = found[challenge]
        if not here.slides and not here.zipped:
            continue
        if challenge == "camelyon16":
            table = _table(reference, tables, ("reference.csv",))
        else:
            table = _table(stages, tables, ("stages.csv", "stage_labels.csv"))
        reports.append(_report(challenge, here, table, cleaned))
    if not reports:
        raise UsageError(
            f"{root}: no slide of CAMELYON16 (normal_001.tif, tumor_001.tif, test_001.tif) or "
            "CAMELYON17 (patient_000_node_0.tif) in it or below"
        )
    return reports


def write_manifest(path: Path, reports: Sequence[ArchiveReport]) -> tuple[int, int]:
    """Write the labelled slides as a manifest for `wsi embed` and `wsi train`.

    Slides without a label (CAMELYON17's test patients) go into a file of their own beside it,
    which `wsi embed` takes. Paths are relative to the manifest where the slides lie below it.
    Return the number of slides in either.
    """
    rows = [row for report in reports for row in report.rows]
    labelled = [row for row in rows if row.label]
    others = [row for row in rows if not row.label]
    _write_rows(path, labelled)
    if others:
        _write_rows(path.with_name(f"{path.stem}_unlabelled{path.suffix}"), others)
    return len(labelled), len(others)


def read_classes(path: Path) -> dict[str, str]:
    """Return the class of each slide of a table: negative, itc, micro, macro, normal or tumor.

    Raises
    ------
    ChallengeTableError
        There is no column for either, a class is none of these, or a slide stands twice.
    """
    rows = read_rows(path)
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    slide = next((c for c in ("slide_id", "slide", "name", "patient", "path") if c in header), None)
    value = next((c for c in ("node_class", "stage", "class", "label") if c in header), None)
    if slide is None or value is None:
        raise ChallengeTableError(
            f"{path.name}: needs the columns slide_id and class; it has {', '.join(header)}"
        )
    found: dict[str, str] = {}
    for place, cells in rows[1:]:
        cells = [*cells, *[""] * len(header)]
        name, said = slide_name(cells[header.index(slide)]).lower(), cells[header.index(value)]
        known = {**IS_TUMOUR, "normal": "normal", "tumor": "tumor"}
        if said.lower() not in known:
            raise ChallengeTableError(f"{place}: class is {said!r}; use one of {', '.join(known)}")
        if name in found:
            raise ChallengeTableError(f"{place}: {name} stands in the table already")
        found[name] = said.lower()
    if not found:
        raise ChallengeTableError(f"{path.name}: no slide in it")
    return found


def _table(
    given: Path | None, tables: Mapping[str, list[Path]], names: Sequence[str]
) -> Path | None:
    if given is not None:
        return given
    there = [path for name in names for path in tables.get(name, [])]
    if len(there) > 1:
        raise UsageError(
            f"several tables: {', '.join(map(str, there[:3]))}; name one by "
            f"--{'reference' if names[0].startswith('ref') else 'stages'}"
        )
    return there[0] if there else None


def _report(
    challenge: Challenge, here: Found, table: Path | None, cleaned: Mapping[str, str] | None
) -> ArchiveReport:
    published = published_slides(challenge)
    findings: list[Finding] = []
    classes, stages = _classes(challenge, table, findings)
    there = {**here.zipped, **here.slides}
    missing = tuple(name for name in published if name not in there)
    if missing:
        findings.append(Finding("missing", "", f"{len(missing)} slides: {few(missing, 10)}"))
    still = sorted(set(here.zipped) - set(here.slides))
    if still:
        findings.append(Finding("zipped", "", f"not unpacked yet: {few(still)}"))
    rows, left_out, size = [], [], 0
    for name, paths in sorted(here.slides.items()):
        size += paths[0].stat().st_size
        if name in REMARKS:
            findings.append(Finding("known", name, REMARKS[name], is_error=False))
        if len(paths) > 1:
            findings.append(Finding("twice", name, f"in {' and '.join(map(str, paths[:3]))}"))
        if name in DUPLICATES:
            continue
        if name not in published:
            findings.append(Finding("unknown", name, "no slide that the challenge published"))
            continue
        if cleaned is not None and name not in cleaned:
            left_out.append(name)
            continue
        said = cleaned.get(name, "") if cleaned is not None else classes.get(name, "")
        row = _row(published[name], paths[0], said, stages, here, findings)
        if row is not None:
            rows.append(row)
    if left_out:
        text = f"{len(left_out)} slides that the table of labels does not name: {few(left_out)}"
        findings.append(Finding("left out", "", text, is_error=False))
    _match(challenge, here, rows, findings)
    return ArchiveReport(
        challenge, len(published), missing, tuple(rows), tuple(findings), len(here.masks),
        len(here.annotations), size,
    )  # fmt: skip


def _classes(
    challenge: Challenge, table: Path | None, findings: list[Finding]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the challenge's table says: the class by slide, the stage by patient."""
    if table is None:
        name = (
            "reference.csv (labels of test slides)" if challenge == "camelyon16" else "stages.csv"
        )
        findings.append(Finding("no table", "", f"no {name}: slides without a label"))
        return {}, {}
    if challenge == "camelyon16":
        truth = read_reference(table)
        return {n.lower(): "tumor" if t else "normal" for n, t in truth.items()}, {}
    classes, stages = {}, {}
    for line in read_table(table, ["patient", "stage"]):
        name, stage = slide_name(line.cells["patient"]).lower(), line.cells["stage"].lower()
        if name.endswith(".zip"):
            stages[name.removesuffix(".zip")] = line.cells["stage"]
        elif stage not in NODE_CLASSES:
            allowed = ", ".join(NODE_CLASSES)
            raise ChallengeTableError(f"{line.place}: stage is {stage!r}; of a node use {allowed}")
        else:
            classes[name] = stage
    return classes, stages


def _row(
    slide: PublishedSlide,
    path: Path,
    said: str,
    stages: Mapping[str, str],
    here: Found,
    findings: list[Finding],
) -> SlideRow | None:
    """Return a slide's row of the manifest; None where its file cannot be used."""
    name, challenge = slide.slide_id, challenge_of(slide.slide_id)
    try:
        if not path.stat().st_size:
            raise UsageError("0 bytes: the download failed")
        lacking = missing_bytes(path)
        if lacking:
            raise UsageError(f"cut off: {lacking} bytes of its stored tiles are missing")
        with open_slide(path) as opened:
            mpp = opened.resolution.mpp
    except (WSIError, OSError) as err:
        kind = "truncated" if isinstance(err, UsageError) else "unreadable"
        findings.append(Finding(kind, name, f"{path}: {err}"))
        return None
    site = center_of(name) if challenge == "camelyon17" else site_of(mpp[0]) if mpp else ""
    label = IS_TUMOUR.get(said, said) or slide.label
    if slide.label and label != slide.label:
        findings.append(
            Finding("relabelled", name, f"{said} by the table, {slide.label} by its name",
                    is_error=False)
        )  # fmt: skip
    return SlideRow(
        path=path, slide_id=name, patient_id=slide.patient_id, label=label, split=slide.split,
        site=site, node_class=said if said in NODE_CLASSES else "",
        stage=stages.get(slide.patient_id, ""), mask=str(here.masks.get(name, "")),
        annotation=here.annotations.get(name, ""), exhaustive=name not in NOT_EXHAUSTIVE,
    )  # fmt: skip


def _match(
    challenge: Challenge, here: Found, rows: Sequence[SlideRow], findings: list[Finding]
) -> None:
    """Note tumour slides without outlines or mask, and outlines and masks without a slide."""
    if challenge == "camelyon16":  # of CAMELYON17 50 slides are outlined, and no table says which
        bare = [r.slide_id for r in rows if r.label == "tumor" and not (r.annotation or r.mask)]
        if bare:
            text = f"tumour slides without outlines or a mask: {few(bare, 10)}"
            findings.append(Finding("not annotated", "", text))
    strange = [r.slide_id for r in rows if r.label == "normal" and r.annotation]
    if strange:
        findings.append(Finding("annotated", "", f"normal slides with outlines: {few(strange)}"))
    known = set(here.slides) | set(here.zipped)
    for what, files in (("outlines", here.annotations), ("masks", here.masks)):
        alone = sorted(set(files) - known)
        if alone:
            text = f"{what} of slides that are not there: {few(alone)}"
            findings.append(Finding("without slide", "", text, is_error=False))


def _write_rows(path: Path, rows: Sequence[SlideRow]) -> None:
    base = path.parent.resolve()
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            place = row.path.resolve()
            below = place.relative_to(base) if place.is_relative_to(base) else place
            cells = {**asdict(row), "path": below, "exhaustive": str(row.exhaustive).lower()}
            writer.writerow(cells)
