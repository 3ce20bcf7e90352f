"""The rules of docs/architecture.md, "Pixel size"."""

from __future__ import annotations

import pytest

from tiling.errors import ConflictingMppError, ImplausibleMppError, MissingMppError
from tiling.resolution import require_mpp, resolve_mpp

SVS = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.252"}


def tiff(pixels_per_cm: float) -> dict[str, str]:
    return {
        "tiff.XResolution": str(pixels_per_cm),
        "tiff.YResolution": str(pixels_per_cm),
        "tiff.ResolutionUnit": "centimeter",
    }


def test_the_readers_own_value_comes_first() -> None:
    found = resolve_mpp(SVS | tiff(40_000))
    assert found.mpp == (0.25, 0.252)
    assert found.source == "openslide.mpp"
    assert found.warnings == ()


def test_missing() -> None:
    found = resolve_mpp({"tiff.ResolutionUnit": "inch"})
    assert found.mpp is None
    with pytest.raises(MissingMppError, match=r"a\.svs: no mpp.*--slide-mpp"):
        require_mpp(found, "a.svs")


@pytest.mark.parametrize(("mpp", "allowed"), [(0.0499, False), (0.05, True), (20, True),
                                              (20.01, False)])  # fmt: skip
def test_plausible_range(mpp: float, allowed: bool) -> None:
    found = resolve_mpp({"openslide.mpp-x": str(mpp), "openslide.mpp-y": str(mpp)})
    assert found.mpp == (mpp, mpp)
    if allowed:
        assert require_mpp(found, "a") == (mpp, mpp)
    else:
        with pytest.raises(ImplausibleMppError, match="allowed 0.05 to 20"):
            require_mpp(found, "a")


def test_an_implausible_second_source_is_noted_and_ignored() -> None:
    found = resolve_mpp(SVS | tiff(28.346))  # 72 dpi: 352.8 µm
    assert require_mpp(found, "a") == (0.25, 0.252)
    assert "tiff.XResolution = 352.78" in found.warnings[0]


def test_two_plausible_sources_more_than_five_percent_apart() -> None:
    found = resolve_mpp(SVS | tiff(20_000))
    with pytest.raises(ConflictingMppError, match="contradicts tiff.XResolution = 0.5"):
        require_mpp(found, "a")
    assert require_mpp(resolve_mpp(SVS | tiff(1e4 / 0.26)), "a") == (0.25, 0.252)


def test_the_users_value_wins_and_disagreement_is_a_warning() -> None:
    found = resolve_mpp(SVS, override=(0.5, 0.5))
    assert require_mpp(found, "a") == (0.5, 0.5)
    assert found.source == "user"
    assert "disagrees with the given user = 0.5" in found.warnings[0]


def test_the_users_value_must_be_plausible_too() -> None:
    with pytest.raises(ImplausibleMppError, match="user = 250"):
        require_mpp(resolve_mpp({}, override=(250.0, 250.0)), "a")


@pytest.mark.parametrize(("power", "warns"), [("40", False), ("30", False), ("20", True)])
def test_objective_power_only_warns(power: str, warns: bool) -> None:
    found = resolve_mpp(SVS | {"openslide.objective-power": power})
    assert bool(found.warnings) is warns
    assert require_mpp(found, "a") == (0.25, 0.252)


@pytest.mark.parametrize("text", ["", "nan", "-1", "0", "inf", "0,25", "abc"])
def test_nonsense_is_no_value(text: str) -> None:
    assert resolve_mpp({"openslide.mpp-x": text, "openslide.mpp-y": text}).mpp is None


@pytest.mark.parametrize("density", ["0", "-1", "nan", "inf", "1e-310", "1e400", "", "12 34"])
def test_what_is_no_pixel_size_is_none(density: str) -> None:
    """1e-310 px per cm are 1e314 µm per px: infinite, for a float."""
    properties = tiff(1) | {"tiff.XResolution": density}
    assert resolve_mpp(properties).mpp is None
