"""Whether a slide's pixels are fine enough for a network."""

from __future__ import annotations

from tiling.errors import SlideError
from tiling.slide import Slide

COARSER = 1.1
"""A slide with pixels larger than so many of the network's holds less than it was made for."""


class CoarseSlideError(SlideError, ValueError):
    """The slide's finest pixels are larger than those the network works at."""


def check_scale(slide: Slide, mpp: float) -> None:
    """Make sure that `slide` has pixels as fine as `mpp` µm.

    Raises
    ------
    MissingMppError, ImplausibleMppError, ConflictingMppError
        The slide has no pixel size that can be believed.
    CoarseSlideError
        Its pixels are larger.
    """
    finest = max(slide.require_mpp())
    if finest > COARSER * mpp:
        raise CoarseSlideError(
            f"{slide.name}: its finest pixels have {finest:.4g} µm, the network works at {mpp:g} "
            "µm; use a model for coarser pixels, or leave the slide out"
        )
