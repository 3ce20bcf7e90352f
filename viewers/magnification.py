"""Magnification, as microscopists speak of it, and the window's zoom: screen px per µm."""

from __future__ import annotations

PRESETS = (2.5, 5.0, 10.0, 20.0, 40.0)
"""The keys 1 to 5."""
OBJECTIVE_UM = 10.0
"""µm per pixel at 1x, by the convention that 0.25 µm is 40x."""
OBJECTIVE_FACTOR = 1.5
"""How far a stated objective may be from ``10 / mpp`` and still be believed."""


def native_magnification(mpp: float, objective: float | None = None) -> float:
    """Return the magnification at which one slide pixel is one screen pixel.

    Parameters
    ----------
    mpp
        Pixel size at level 0, µm.
    objective
        The objective's magnification as the slide states it; left out of account where the pixel
        size says otherwise.

    Examples
    --------
    >>> native_magnification(0.2525, 40.0), native_magnification(0.25), native_magnification(0.5, 4)
    (40.0, 40.0, 20.0)
    """
    by_size = OBJECTIVE_UM / mpp
    if objective and 1 / OBJECTIVE_FACTOR <= objective / by_size <= OBJECTIVE_FACTOR:
        return objective
    return by_size


def zoom_of(magnification: float, mpp: float, objective: float | None = None) -> float:
    """Return the camera's zoom, screen px per µm, at `magnification`.

    Examples
    --------
    >>> zoom_of(20, 0.25, 40.0)  # half of the slide's pixels: one in 0.5 µm
    2.0
    """
    return magnification / native_magnification(mpp, objective) / mpp


def magnification_of(zoom: float, mpp: float, objective: float | None = None) -> float:
    """Return the magnification at a camera's `zoom`, screen px per µm.

    Examples
    --------
    >>> magnification_of(4.0, 0.25)
    40.0
    """
    return zoom * mpp * native_magnification(mpp, objective)
