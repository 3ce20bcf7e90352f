"""Lengths and areas of what was drawn, and how they are written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def length_um(path: NDArray[np.floating]) -> float:
    """Return the length of a path, its points ``(N, 2)`` in µm.

    Examples
    --------
    >>> length_um(np.array([[0, 0], [3, 4], [3, 10]]))
    11.0
    """
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def area_um2(outline: NDArray[np.floating]) -> float:
    """Return the area inside an outline, its corners ``(N, 2)`` in µm, however they go round.

    Examples
    --------
    >>> area_um2(np.array([[0, 0], [0, 4], [3, 4], [3, 0]]))
    12.0
    """
    y, x = (outline - outline[0]).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def written_length(um: float) -> str:
    """Return a length as it is written: from 1 mm on in mm.

    Examples
    --------
    >>> written_length(12.34), written_length(999.4), written_length(1234.0)
    ('12.3 µm', '999 µm', '1.23 mm')
    """
    return f"{um:.3g} µm" if round(um) < 1000 else f"{um / 1000:.3g} mm"


def written_area(um2: float) -> str:
    """Return an area as it is written: from 0.1 mm² on in mm².

    Examples
    --------
    >>> written_area(1234.5), written_area(2_000_000.0)
    ('1234 µm²', '2 mm²')
    """
    return f"{um2:.0f} µm²" if um2 < 100_000 else f"{um2 / 1e6:.3g} mm²"
