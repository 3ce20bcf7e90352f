"""Pixel size: which sources state it, which of them is believed, and why.

Opening a slide never fails on its pixel size; :func:`require_mpp` is where a stage refuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tiling.errors import ConflictingMppError, ImplausibleMppError, MissingMppError

PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel that a slide scan can have; 72 dpi placeholders (352.8) lie far outside."""
MPP_TOLERANCE = 0.05
"""Relative difference up to which two stated pixel sizes are the same."""
OBJECTIVE_FACTOR = 1.5
"""Disagreement with ``10 / objective power`` that is worth a warning, never an error."""

_DENSITY_UM = {"centimeter": 10_000.0, "inch": 25_400.0}
_LENGTH_UM = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""OME's units of length; micrometres are spelt with either of two letters."""
_SOURCES = (
    ("openslide.mpp", "openslide.mpp-x", "openslide.mpp-y", 1.0),
    ("tiffslide.mpp", "tiffslide.mpp-x", "tiffslide.mpp-y", 1.0),
    ("aperio.MPP", "aperio.MPP", "aperio.MPP", 1.0),
    ("philips.PixelSpacing", "philips.PixelSpacingX", "philips.PixelSpacingY", 1e3),
    ("dicom.PixelSpacing", "dicom.PixelSpacingX", "dicom.PixelSpacingY", 1e3),
)
"""Name, keys for x and y, and µm per unit."""
_OBJECTIVES = ("openslide.objective-power", "tiffslide.objective-power", "aperio.AppMag",
               "ome.NominalMagnification", "dicom.ObjectiveLensPower")  # fmt: skip


@dataclass(frozen=True, slots=True)
class MppCandidate:
    """One statement of the pixel size, (x, y) in µm, and where it stands."""

    source: str
    mpp: tuple[float, float]

    @property
    def is_plausible(self) -> bool:
        """Whether both axes lie within `PLAUSIBLE_MPP`."""
        low, high = PLAUSIBLE_MPP
        return all(low <= value <= high for value in self.mpp)

    def agrees_with(self, other: MppCandidate) -> bool:
        """Whether both axes differ by at most `MPP_TOLERANCE`."""
        pairs = zip(self.mpp, other.mpp, strict=True)
        return all(abs(a - b) <= MPP_TOLERANCE * max(a, b) for a, b in pairs)

    def __str__(self) -> str:
        return f"{self.source} = {self.mpp[0]:.6g} x {self.mpp[1]:.6g} µm"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The pixel size of a slide at level 0.

    `mpp` is (x, y) in µm, or None where no source states one; `problem` says why a stage that
    needs it must refuse ("" if it may go on).
    """

    mpp: tuple[float, float] | None
    source: str
    candidates: tuple[MppCandidate, ...]
    warnings: tuple[str, ...]
    problem: str = ""


def mpp_candidates(properties: Mapping[str, str]) -> tuple[MppCandidate, ...]:
    """Return every physical pixel size that `properties` state, the reader's own first.

    Examples
    --------
    >>> [str(c) for c in mpp_candidates({"aperio.MPP": "0.25"})]
    ['aperio.MPP = 0.25 x 0.25 µm']
    """
    found = []

    def add(source: str, x: float | None, y: float | None) -> None:
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            found.append(MppCandidate(source, (x, y)))

    for source, key_x, key_y, unit_um in _SOURCES:
        x, y = _positive(properties.get(key_x)), _positive(properties.get(key_y))
        add(source, x and x * unit_um, y and y * unit_um)
    add("ome.PhysicalSize", _ome_um(properties, "X"), _ome_um(properties, "Y"))
    density_um = _DENSITY_UM.get(str(properties.get("tiff.ResolutionUnit", "")).lower())
    density_x = _positive(properties.get("tiff.XResolution"))
    density_y = _positive(properties.get("tiff.YResolution"))
    if density_um and density_x and density_y:
        add("tiff.XResolution", density_um / density_x, density_um / density_y)
    return tuple(found)


def objective_power(properties: Mapping[str, str]) -> float | None:
    """Return the objective's nominal magnification, if stated: never a pixel size."""
    return next((p for key in _OBJECTIVES if (p := _positive(properties.get(key)))), None)


def resolve_mpp(
    properties: Mapping[str, str], *, override: tuple[float, float] | None = None
) -> Resolution:
    """Decide on a pixel size from a slide's `properties` and the user's `override`.

    The user's value wins and a disagreement is a warning. Without one, the first plausible
    source is taken; an implausible other source is noted, and two plausible sources more than
    5 % apart are a problem. Objective power only ever warns.
    """
    candidates = mpp_candidates(properties)
    warnings: list[str] = []
    if override is not None:
        chosen = MppCandidate("user", override)
        warnings += [
            f"{c} disagrees with the given {chosen}"
            for c in candidates
            if not chosen.agrees_with(c)
        ]
    else:
        if not candidates:
            return Resolution(None, "", (), (), "no mpp in the metadata")
        chosen = next((c for c in candidates if c.is_plausible), candidates[0])
        warnings += [
            f"{c} is implausible and ignored"
            for c in candidates
            if chosen.is_plausible and not c.is_plausible
        ]
    problem = ""
    if not chosen.is_plausible:
        low, high = PLAUSIBLE_MPP
        problem = f"{chosen} is implausible (allowed {low} to {high})"
    elif override is None:
        rivals = [c for c in candidates if c.is_plausible and not chosen.agrees_with(c)]
        if rivals:
            problem = f"{chosen} contradicts {rivals[0]}"
    if problem:
        warnings.append(problem)
    warnings += _objective_warnings(properties, chosen)
    return Resolution(chosen.mpp, chosen.source, candidates, tuple(warnings), problem)


def require_mpp(resolution: Resolution, name: str) -> tuple[float, float]:
    """Return the pixel size (x, y) in µm, or refuse, naming the slide and the remedy.

    Raises
    ------
    MissingMppError, ImplausibleMppError, ConflictingMppError
        The slide called `name` has no pixel size that can be believed.
    """
    remedy = "pass mpp= (--slide-mpp, or a manifest's mpp column) in µm per pixel, e.g. 0.25"
    if resolution.mpp is None:
        raise MissingMppError(f"{name}: {resolution.problem}; {remedy}")
    if "contradicts" in resolution.problem:
        raise ConflictingMppError(f"{name}: {resolution.problem}; {remedy}")
    if resolution.problem:
        raise ImplausibleMppError(f"{name}: {resolution.problem}; {remedy}")
    return resolution.mpp


def _objective_warnings(properties: Mapping[str, str], chosen: MppCandidate) -> list[str]:
    power = objective_power(properties)
    if power is None:
        return []
    ratio = chosen.mpp[0] * power / 10.0
    if 1 / OBJECTIVE_FACTOR <= ratio <= OBJECTIVE_FACTOR:
        return []
    return [f"{chosen} is unusual for a {power:g}x objective (about {10 / power:.3g} µm)"]


def _ome_um(properties: Mapping[str, str], axis: str) -> float | None:
    value = _positive(properties.get(f"ome.PhysicalSize{axis}"))
    unit_um = _LENGTH_UM.get(properties.get(f"ome.PhysicalSize{axis}Unit", "µm"))
    return value * unit_um if value and unit_um else None


def _positive(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
