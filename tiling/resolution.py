"""Pixel size: which sources state it, which of them is believed, and why.

Opening a slide never fails on its pixel size; :func:`require_mpp` is where a stage refuses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tiling.errors import ConflictingMppError, ImplausibleMppError, MissingMppError

PLAUSIBLE_MPP = (0.05, 20.0)
"""µm per pixel that a slide scan can have; 72 dpi placeholders (352.8) lie far outside."""
MPP_TOLERANCE = 0.05
"""Relative difference up to which two stated pixel sizes are the same."""
OBJECTIVE_FACTOR = 1.5
"""Disagreement with ``10 / objective power`` that is worth a warning, never an error."""

_DENSITY_UM = {"centimeter": 10_000.0, "inch": 25_400.0}
_DEFAULT_DENSITY = "inch"
"""What a TIFF means that states a resolution and no unit (TIFF 6.0, section 8)."""
_LENGTH_UM = {
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("µm", "\u03bcm", "um", "micron", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("Å", "\u212b", "angstrom"), 1e-4),
    **dict.fromkeys(("in", "inch"), 25_400.0),
}
"""Units of length as OME-XML, OME-NGFF and ImageJ spell them; µ and Å are two letters each."""
_IMAGEJ_MICRO = "\\u00B5m"
"""ImageJ escapes what is not ASCII."""
_VENDOR_SOURCES = (
    ("aperio.MPP", "aperio.MPP", "aperio.MPP", 1.0),
    ("philips.PixelSpacing", "philips.PixelSpacingX", "philips.PixelSpacingY", 1e3),
    ("dicom.PixelSpacing", "dicom.PixelSpacingX", "dicom.PixelSpacingY", 1e3),
)
_LIBRARY_SOURCES = (
    ("openslide.mpp", "openslide.mpp-x", "openslide.mpp-y", 1.0),
    ("tiffslide.mpp", "tiffslide.mpp-x", "tiffslide.mpp-y", 1.0),
)
"""Name, keys for x and y, and µm per unit."""
_UNIT_SOURCES = (
    ("ome.PhysicalSize", "ome.PhysicalSize{}", "ome.PhysicalSize{}Unit", "µm"),
    ("ngff.scale", "ngff.Scale{}", "ngff.Scale{}Unit", ""),
)
"""Name, key of the value and of its unit by axis, and the unit where none is stated."""
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
    """Return every physical pixel size that `properties` state, the most explicit first.

    What the file itself says in words (vendor, DICOM, OME) comes before what a library makes of
    it, and the resolution tags, which editing programs overwrite, come last: so the choice does
    not depend on the reader.

    Examples
    --------
    >>> [str(c) for c in mpp_candidates({"aperio.MPP": "0.25"})]
    ['aperio.MPP = 0.25 x 0.25 µm']
    """
    stated = [
        *_plain_sizes(properties, _VENDOR_SOURCES),
        *((name, _with_unit(properties, *keys)) for name, *keys in _UNIT_SOURCES),
        *_plain_sizes(properties, _LIBRARY_SOURCES),
        *_tag_sizes(properties),
    ]
    return tuple(
        MppCandidate(name, (x, y))
        for name, (x, y) in stated
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    )


_Stated = tuple[float | None, float | None]


def _plain_sizes(
    properties: Mapping[str, str], sources: tuple[tuple[str, str, str, float], ...]
) -> Iterator[tuple[str, _Stated]]:
    for name, key_x, key_y, unit_um in sources:
        x, y = (_positive(properties.get(key)) for key in (key_x, key_y))
        yield name, (x and x * unit_um, y and y * unit_um)


def _with_unit(properties: Mapping[str, str], key: str, unit_key: str, default: str) -> _Stated:
    """Return (x, y) in µm of a length that has a unit of its own on each axis."""
    found = []
    for axis in ("X", "Y"):
        value = _positive(properties.get(key.format(axis)))
        unit_um = _LENGTH_UM.get(properties.get(unit_key.format(axis), default))
        found.append(value * unit_um if value and unit_um else None)
    return found[0], found[1]


def _tag_sizes(properties: Mapping[str, str]) -> Iterator[tuple[str, _Stated]]:
    """Yield what the TIFF resolution tags say; ImageJ gives them a unit in its description."""
    x, y = (_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    unit = properties.get("imagej.unit", "")
    unit_um = _LENGTH_UM.get(unit.replace(_IMAGEJ_MICRO, "µm"))
    if unit_um is not None:
        yield "imagej.unit", (x and unit_um / x, y and unit_um / y)
        return
    density = properties.get("tiff.ResolutionUnit", _DEFAULT_DENSITY).lower()
    density_um = _DENSITY_UM.get(density)
    if density_um is not None:
        yield "tiff.XResolution", (x and density_um / x, y and density_um / y)


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
            problem = f"no mpp in the metadata{_unusable(properties)}"
            return Resolution(None, "", (), (problem,), problem)
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


def as_pair(mpp: float | tuple[float, float] | None) -> tuple[float, float] | None:
    """Return a pixel size as the caller gives it, µm, as (x, y); raise `ValueError` if it is none.

    Examples
    --------
    >>> as_pair(0.25), as_pair(None)
    ((0.25, 0.25), None)
    """
    pair = (float(mpp), float(mpp)) if isinstance(mpp, int | float) else mpp
    if pair is not None and not all(math.isfinite(v) and v > 0 for v in pair):
        raise ValueError(f"mpp={mpp}: must be positive, in µm per pixel")
    return pair


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


def _unusable(properties: Mapping[str, str]) -> str:
    """Return, in brackets, what a slide without a pixel size states that looks like one."""
    found = []
    power = objective_power(properties)
    if power is not None:
        found.append(f"a {power:g}x objective is stated, which is not a pixel size")
    if "ngff.ScaleX" in properties:
        unit = properties.get("ngff.ScaleXUnit")
        found.append(
            f"ngff.scale = {properties['ngff.ScaleX']} is stated "
            f"{f'in {unit!r}' if unit else 'without a unit'}"
        )
    density = properties.get("tiff.XResolution", "1")
    if _positive(density) not in (None, 1.0):  # 1 per nothing is what writers put by default
        found.append(f"tiff.XResolution = {density} is stated without a unit of length")
    return f" ({'; '.join(found)})" if found else ""


def _positive(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
