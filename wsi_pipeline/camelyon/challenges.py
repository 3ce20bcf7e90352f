"""Which slides the two challenges published, and what is known to be wrong with some of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Challenge = Literal["camelyon16", "camelyon17"]
CHALLENGES: tuple[Challenge, ...] = ("camelyon16", "camelyon17")

NAMES: dict[Challenge, re.Pattern[str]] = {
    "camelyon16": re.compile(r"(?:normal|tumor|test)_\d{3}", re.IGNORECASE),
    "camelyon17": re.compile(r"patient_\d{3}_node_\d", re.IGNORECASE),
}
NORMAL, TUMOR, TEST = 160, 111, 130
"""Highest numbers of CAMELYON16's names; 159 normal slides, since normal_086 is tumor_111."""
PATIENTS, TRAINING_PATIENTS, NODES = 200, 100, 5
TRAINING_PER_CENTER = 20

DUPLICATES = {
    "test_049": "a duplicate of another test slide, withdrawn: no line in the reference",
    "normal_086": "published as normal by mistake: it shows tumour, and is tumor_111 since",
}
"""Left out of a manifest, and never missing."""
NOT_EXHAUSTIVE = frozenset(
    f"tumor_{n:03d}" for n in (15, 18, 20, 29, 33, 44, 46, 51, 54, 55, 79, 92, 95)
) | {"test_114"}
"""Tumour that nobody outlined is on them: tiles outside the outlines are not surely normal."""
REMARKS = {
    **DUPLICATES,
    "test_114": "its lesions are not all outlined: leave it out of FROC (--exclude test_114)",
    "test_124": "some papers leave it out; it is in the challenge's reference",
    **dict.fromkeys(
        sorted(NOT_EXHAUSTIVE - {"test_114"}),
        "its tumour is outlined in part: strong training takes no normal tile from it",
    ),
}  # fmt: skip
SITES_BY_MPP = {"radboud": 0.243, "utrecht": 0.226}
"""CAMELYON16's two scanners, told apart by their pixel size, µm."""
MPP_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class PublishedSlide:
    """A slide of a challenge; `label` is "" where only a table says it."""

    slide_id: str
    patient_id: str
    split: Literal["train", "test"]
    label: Literal["normal", "tumor", ""]


def published_slides(challenge: Challenge) -> dict[str, PublishedSlide]:
    """Return every slide that a challenge published, withdrawn ones left out.

    CAMELYON16 says nothing of patients: each of its slides counts as one.

    Examples
    --------
    >>> {name: len(published_slides(name)) for name in CHALLENGES}
    {'camelyon16': 399, 'camelyon17': 1000}
    """
    if challenge == "camelyon17":
        return {
            (name := f"patient_{patient:03d}_node_{node}"): PublishedSlide(
                name, f"patient_{patient:03d}",
                "train" if patient < TRAINING_PATIENTS else "test", "",
            )
            for patient in range(PATIENTS) for node in range(NODES)
        }  # fmt: skip
    slides = [
        *(_slide(f"normal_{n:03d}", "train", "normal") for n in range(1, NORMAL + 1)),
        *(_slide(f"tumor_{n:03d}", "train", "tumor") for n in range(1, TUMOR + 1)),
        *(_slide(f"test_{n:03d}", "test", "") for n in range(1, TEST + 1)),
    ]
    return {s.slide_id: s for s in slides if s.slide_id not in DUPLICATES}


def _slide(
    name: str, split: Literal["train", "test"], label: Literal["normal", "tumor", ""]
) -> PublishedSlide:
    return PublishedSlide(name, name, split, label)


def challenge_of(name: str) -> Challenge | None:
    """Return the challenge whose slides are named so; None for no slide of either."""
    return next((c for c, pattern in NAMES.items() if pattern.fullmatch(name)), None)


def center_of(slide_id: str) -> str:
    """Return the medical centre of a training slide of CAMELYON17: 20 patients each, in order.

    Of the test patients it is not published.

    Examples
    --------
    >>> center_of("patient_019_node_4"), center_of("patient_020_node_0")
    ('0', '1')
    >>> center_of("patient_100_node_0")
    ''
    """
    patient = int(slide_id.split("_")[1])
    return str(patient // TRAINING_PER_CENTER) if patient < TRAINING_PATIENTS else ""


def site_of(mpp: float) -> str:
    """Return the hospital whose scanner has this pixel size (µm), "" if neither's has.

    Examples
    --------
    >>> site_of(0.2431), site_of(0.2263), site_of(0.5)
    ('radboud', 'utrecht', '')
    """
    return next(
        (s for s, own in SITES_BY_MPP.items() if abs(mpp / own - 1) < MPP_TOLERANCE), ""
    )  # fmt: skip
