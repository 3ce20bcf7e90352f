"""`wsi camelyon report`: one page, our figures beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mil_models.answers import ClassAnswers
from mil_models.evaluation import roc_points
from mil_models.staging import STAGES
from tiling.store import SlideStore, iter_stores
from viewers import charts
from viewers.camelyon import crop_picture, score_chart
from viewers.evaluation import Section, write_evaluation
from viewers.froc import froc_figure
from wsi_pipeline.camelyon.challenges import published_slides
from wsi_pipeline.camelyon.evaluation import load_figures, unjudged
from wsi_pipeline.camelyon.files import DETECTIONS, PAGE
from wsi_pipeline.camelyon.misses import caption_of, crop_of, find_misses
from wsi_pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Published:
    """A figure of a paper, and where it stands."""

    figure: str
    who: str
    value: str
    source: str


JAMA = "Ehteshami Bejnordi et al. 2017, JAMA 318:2199"
WANG = "Wang et al. 2016, arXiv:1606.05718"
BANDI = "Bándi et al. 2019, IEEE TMI 38:550"
PUBLISHED = (
    Published("auroc", "best of the challenge (HMS and MIT II)", "0.994 (0.983 to 0.999)", JAMA),
    Published("auroc", "pathologist without time limit", "0.966", JAMA),
    Published("auroc", "winner at the deadline", "0.925", WANG),
    Published("froc_score", "best of the challenge", "0.807 (0.732 to 0.889)", JAMA),
    Published("froc_score", "pathologist: sensitivity without a false positive", "0.724", JAMA),
    Published("froc_score", "winner at the deadline", "0.705", WANG),
    Published("kappa", "best at CAMELYON17's deadline", "0.89", BANDI),
)  # fmt: skip


def write_camelyon_report(
    folder: Path,
    *,
    out: Path | None = None,
    stores: Path | None = None,
    masks: Path | None = None,
    misses: int = 6,
    tumour_value: int | None = None,
) -> Path:
    """Write a page about ``figures.json`` in `folder`; return its path.

    Parameters
    ----------
    out
        Where; ``report.html`` in the folder if not given.
    stores, masks
        The slides' stores, which say where the slides are, and the tumour masks: for pictures of
        what was missed.
    misses
        Pictures of missed lesions, and as many of false alarms.

    Raises
    ------
    UsageError
        There is no ``figures.json``, or one of `stores` and `masks` is given alone.
    """
    if (stores is None) != (masks is None):
        raise UsageError("pictures of what was missed need both --stores and --masks")
    found = load_figures(folder)
    sections = [_beside(found), _slides(found), *_lesions(found), *_patients(found)]
    sections += [*_centers(found), *_segmentation(found)]
    if stores is not None and masks is not None:
        sections += _misses(folder, found, stores, masks, misses, tumour_value)
    sections.append(_every_slide(found))
    slides = found["slides"]
    path = folder / PAGE if out is None else out
    return write_evaluation(
        path,
        title=f"CAMELYON figures of {folder.resolve().name}",
        subtitle=f"{slides['slides']} slides, {slides['tumour']} with tumour · model "
        f"{found['predictions'].get('head', {}).get('name', 'unknown')}",
        sections=sections,
        parameters={k: found[k] for k in ("predictions", "options", "versions")},
        warnings=_warnings(found),
    )


def _warnings(found: Mapping[str, Any]) -> list[str]:
    names = {row["slide"] for row in found["rows"]}
    tests = {n for n, s in published_slides("camelyon16").items() if s.split == "test"}
    said = []
    if names != tests and "patients" not in found:
        said.append(
            "These are not CAMELYON16's 129 test slides, of which the published figures are: those "
            "stand beside ours for orientation and do not compare."
        )
    seen = sum(row["seen_in_training"] for row in found["rows"])
    if seen:
        said.append(f"The model was trained on {seen} of the slides: their figures flatter it.")
    left_out = found["slides"]["left_out"]
    if left_out:
        said.append(f"Left out, a duplicate: {', '.join(left_out)}.")
    missing = found["slides"]["missing"]
    if missing:
        said.append(f"{len(missing)} slides of the truth have no prediction and are left out.")
    if found["not_judged"]:
        said.append(unjudged(found) + ".")
    return said


def _interval(found: Mapping[str, Any], name: str) -> str:
    low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _beside(found: Mapping[str, Any]) -> Section:
    """Return our figures, each followed by the published ones of its kind."""
    ours: list[tuple[str, str, Any, str]] = [
        ("auroc", "AUROC of slides", found["slides"]["auroc"], _interval(found["slides"], "auroc"))
    ]
    for kind, one in found.get("lesions", {}).items():
        name = f"FROC score, {kind}"
        ours.append(("froc_score", name, one["froc_score"], _interval(one, "froc_score")))
    if "patients" in found:
        one = found["patients"]
        ours.append(("kappa", "kappa of pN stages", one["kappa"], _interval(one, "kappa")))
    rows: list[tuple[Any, ...]] = []
    for number, (key, name, value, interval) in enumerate(ours):
        text = "–" if value is None else f"{value:.3f}"
        shown = text if interval == "–" else f"{text} ({interval})"
        rows.append((name, "ours", shown, "this run"))
        if number + 1 == len(ours) or ours[number + 1][0] != key:
            rows += [("", p.who, p.value, p.source) for p in PUBLISHED if p.figure == key]
    notes = ("Intervals: 95 %, slides (or patients) drawn with replacement.",)
    return Section(
        "Beside the published figures", notes, {}, ("figure", "who", "value", "source"), rows
    )


def _slides(found: Mapping[str, Any]) -> Section:
    targets = np.array([row["tumour"] for row in found["rows"]], np.int64)
    scores = np.array([row["score"] for row in found["rows"]], np.float64)
    answers = ClassAnswers(
        "binary", ("normal", "tumour"), targets, np.stack([1 - scores, scores], axis=1)
    )
    curves = [
        charts.Curve(f"AUROC {found['slides']['auroc']:.3f}", x, y)
        for name, (x, y) in roc_points(answers).items()
        if name == "tumour"
    ]
    groups = {"tumour": scores[targets == 1], "normal": scores[targets == 0]}
    pictures = {"ROC of slides": charts.roc_chart(curves), "A dot is a slide": score_chart(groups)}
    delong = f"DeLong's 95 % interval: {_interval(found['slides'], 'delong')}."
    return Section("Slides", (delong,), pictures)


def _lesions(found: Mapping[str, Any]) -> list[Section]:
    if "lesions" not in found:
        return []
    official, corrected = found["lesions"]["official"], found["lesions"]["corrected"]
    at = official["sensitivity_at_fp"]
    points = np.array([(float(rate), value) for rate, value in at.items()])
    figure = froc_figure(
        np.array(official["curve"]["avg_false_positives"]),
        np.array(official["curve"]["sensitivity"]), points,
        title=f"FROC score {official['froc_score']:.3f}",
    )  # fmt: skip
    hits = official["slides"].values()
    lesions, hit = sum(h["n_lesions"] for h in hits), sum(h["n_lesions_hit"] for h in hits)
    itc = sum(len(h["itc_labels"]) for h in hits)
    alarms = sum(h["n_false_positives"] for h in hits)
    notes = (
        f"{hit} of {lesions} lesions found at some threshold; {itc} groups of isolated tumour "
        f"cells count neither way; {alarms} false positives on {len(hits)} slides.",
        "Official: as the challenge's program computes it, its quirks included. Corrected: without "
        "them.",
    )
    rows = [(rate, value, corrected["sensitivity_at_fp"][rate]) for rate, value in at.items()]
    columns = ("false positives per slide", "sensitivity, official", "corrected")
    return [
        Section("Lesions", notes, {"FROC, official": charts.picture_uri(figure)}, columns, rows)
    ]


def _patients(found: Mapping[str, Any]) -> list[Section]:
    if "patients" not in found:
        return []
    one = found["patients"]
    matrix = np.array(one["confusion"], np.int64)
    picture = charts.confusion_chart(matrix, STAGES)
    note = f"{one['patients']} patients, {one['accuracy']:.1%} with the right stage."
    rows = [
        (name, c["patients"], c["kappa"], _interval(c, "kappa"))
        for name, c in one["centers"].items()
    ]
    columns = ("centre", "patients", "kappa", "95 % interval") if rows else ()
    caption = "Patients by stage (rows) and predicted stage"
    return [Section("Patients", (note,), {caption: picture}, columns, rows)]


def _centers(found: Mapping[str, Any]) -> list[Section]:
    if not found["centers"]:
        return []
    rows = [
        (name, one["slides"], one["tumour"], one["auroc"], _interval(one, "auroc"),
         one.get("froc_score"), _interval(one, "froc_score"))
        for name, one in found["centers"].items()
    ]  # fmt: skip
    columns = ("centre", "slides", "with tumour", "AUROC", "95 % interval", "FROC score",
               "95 % interval")  # fmt: skip
    return [Section("By centre", (), {}, columns, rows)]


def _segmentation(found: Mapping[str, Any]) -> list[Section]:
    """Return the table of what another command left about masks, whatever of it there is."""
    held = found.get("segmentation", {})
    slides = held.get("slides", held)
    if isinstance(slides, list):
        slides = {row.get("slide", row.get("slide_id", "")): row for row in slides}
    names = ("dice", "iou", "boundary_f1")
    rows = [
        (name, *(one.get(figure) for figure in names))
        for name, one in slides.items()
        if isinstance(one, Mapping) and "dice" in one
    ]
    if not rows:
        return []
    return [Section("Segmentation", (), {}, ("slide", "Dice", "IoU", "boundary F1"), rows)]


def _misses(
    folder: Path,
    found: Mapping[str, Any],
    stores: Path,
    masks: Path,
    count: int,
    tumour_value: int | None,
) -> list[Section]:
    truth = {row["slide"]: row["tumour"] for row in found["rows"]}
    missed, slides = find_misses(
        folder / DETECTIONS, masks, truth, tumour_value=tumour_value,
        exclude=found["options"]["exclude"],
    )  # fmt: skip
    held = {store.slide_id: store for store in iter_stores(stores)}
    sections = []
    for is_lesion, title, nothing in (
        (True, "Missed lesions, the largest first", "No lesion was missed altogether."),
        (False, "False alarms, the surest first", "There is no false alarm."),
    ):
        own = [miss for miss in missed if miss.is_lesion == is_lesion]
        pictures: dict[str, str] = {}
        notes = [
            f"{len(own)} in all. Yellow: tumour by the mask; blue: detections." if own else nothing
        ]
        for miss in own[:count]:
            notes += _draw(miss, slides[miss.slide], held.get(miss.slide), pictures)
        sections.append(Section(title, tuple(notes), pictures))
    return sections


def _draw(miss: Any, slide: Any, store: SlideStore | None, pictures: dict[str, str]) -> list[str]:
    """Add a miss's picture; or return why there is none."""
    if store is None:
        return [f"{miss.slide}: no store of it, so no picture."]
    crop = crop_of(miss, slide, store)
    if isinstance(crop, str):
        return [crop]
    pictures[caption_of(miss, crop.mpp)] = crop_picture(crop)
    return []


def _every_slide(found: Mapping[str, Any]) -> Section:
    has_lesions = "lesions" in found
    columns = ["slide", "is", "score", "centre", "trained on"]
    if has_lesions:
        columns += ["lesions", "found", "isolated cells", "false positives"]
    rows = []
    for row in found["rows"]:
        cells = [row["slide"], "tumour" if row["tumour"] else "normal", row["score"],
                 row["site"] or "–", "yes" if row["seen_in_training"] else "no"]  # fmt: skip
        if has_lesions:
            cells += [row.get(k) for k in ("lesions", "lesions_hit", "itc", "false_positives")]
        rows.append(cells)
    return Section("Every slide, the most wrong first", (), {}, tuple(columns), rows)
