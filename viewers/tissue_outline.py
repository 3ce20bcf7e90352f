"""Where tissue was found, as outlines over the slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tiling.outlines import mask_outlines
from tiling.slide import open_slide
from tiling.tissue import TissueMask, tissue_mask


def tissue_outlines(
    path: str, mpp: float | tuple[float, float] | None = None
) -> list[NDArray[np.float64]]:
    """Return the rings around a slide's tissue and its holes, as `wsi tile` finds it.

    The mask is found anew: a store keeps each tile's share of it, not the mask. It takes about as
    long as reading the slide at 8 µm a pixel.

    Returns
    -------
    Closed rings ``(K, 2)``, level-0 px (y, x), pixel corners at whole numbers.

    Raises
    ------
    SlideError
        The slide cannot be read, or has no pixel size.
    """
    with open_slide(path, mpp=mpp) as slide:
        return rings_of(tissue_mask(slide))


def rings_of(mask: TissueMask) -> list[NDArray[np.float64]]:
    """Return the rings of a mask, as :func:`tissue_outlines` does."""
    area = mask_outlines(lambda rows, columns: mask.mask[rows, columns], mask.mask.shape[:2])
    rings = [ring for polygon in area.geoms for ring in (polygon.exterior, *polygon.interiors)]
    return [(np.asarray(ring.coords) * mask.downsample)[:, ::-1] for ring in rings]
