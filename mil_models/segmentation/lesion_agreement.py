"""Lesion by lesion: which were found, how well, and what was found where nothing is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mil_models.segmentation.lesion_measures import Lesion, measure_lesions
from mil_models.segmentation.metrics import Agreement, agreement

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LesionAgreement:
    """A true lesion and how what was found agrees with it; nothing shared means missed."""

    lesion: Lesion
    agreement: Agreement

    @property
    def is_hit(self) -> bool:
        """Whether a pixel of it was found."""
        return self.agreement.both > 0


@dataclass(frozen=True, slots=True)
class LesionReport:
    """The true lesions of a slide, and the lesions found that touch none of them."""

    lesions: tuple[LesionAgreement, ...]
    false: tuple[Lesion, ...]

    @property
    def hits(self) -> int:
        """How many true lesions were found, in part at least."""
        return sum(one.is_hit for one in self.lesions)


def compare_lesions(
    found: Labels, there: Labels, mpp: tuple[float, float], *, tolerance_um: float
) -> LesionReport:
    """Compare lesions as :func:`lesion_labels` tells them apart.

    A true lesion is compared with all found lesions that touch it, without their pixels that lie
    in other true lesions: one found region over two lesions is judged on each by itself.

    Parameters
    ----------
    found, there
        int32 of one shape ``(height, width)``, 0 outside.
    mpp
        Size (x, y) of a pixel, µm.
    tolerance_um
        See :func:`mil_models.segmentation.metrics.agreement`.
    """
    pairs = _touching(found, there)
    found_places, there_places = ndimage.find_objects(found), ndimage.find_objects(there)
    rows = []
    for lesion in measure_lesions(there, mpp):
        touching = pairs[pairs[:, 1] == lesion.number, 0]
        places = [there_places[lesion.number - 1], *(found_places[n - 1] for n in touching)]
        # All of the regions lies in the part: beyond it is nothing of either.
        part = tuple(
            slice(min(p[axis].start for p in places), max(p[axis].stop for p in places))
            for axis in (0, 1)
        )
        true = there[part] == lesion.number
        mine = np.isin(found[part], touching) & (true | (there[part] == 0))
        rows.append(LesionAgreement(lesion, agreement(mine, true, mpp, tolerance_um=tolerance_um)))
    hit = set(pairs[:, 0].tolist())
    false = tuple(le for le in measure_lesions(found, mpp) if le.number not in hit)
    return LesionReport(tuple(rows), false)


def _touching(found: Labels, there: Labels) -> NDArray[np.int64]:
    """Return the pairs (found, there) of labels that share a pixel, shape ``(P, 2)``."""
    both = (found > 0) & (there > 0)
    numbers = np.stack([found[both], there[both]], axis=1).astype(np.int64)
    return np.unique(numbers, axis=0) if len(numbers) else numbers.reshape(0, 2)
