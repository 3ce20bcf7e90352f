"""The free-response ROC of CAMELYON16, as the challenge's program computes it, and corrected.

The sensitivity to lesions over the mean number of false positives on a slide. The score is the
mean sensitivity at 1/4, 1/2, 1, 2, 4 and 8 false positives per slide.

The program has quirks, which move figures a little and which published figures hold:

- lesions that were not found, and isolated tumour cells, stand in its list of scores as 0, and the
  lowest value of all lists is no threshold: usually that 0; where every region was hit it is the
  lowest detection, whose point is missing from the curve;
- scores of lesions are float32, those of false positives float64: 0.7 as one and 0.7 as the other
  are two thresholds;
- a slide counts if it has a file of detections: without one neither its lesions nor the slide
  itself is in a denominator;
- where the rate stays equal over several thresholds, the curve stands in the program's order and
  is not sorted again.

References
----------
`Evaluation_FROC.py` of the CAMELYON16 challenge; Ehteshami Bejnordi et al. 2017, JAMA 318:2199.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mil_models.lesions import DOWNSAMPLE, Lesions
from mil_models.resampling import RESAMPLES, patient_draws, percentile_interval

Floats = NDArray[np.float64]
RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per slide at which the score reads the sensitivity."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideHits:
    """What the detections of one slide hit.

    `false_positives` ``(F,)``: the scores of detections outside every region. `region_scores`
    ``(regions,)``: the highest score in each region, NaN where there is none; `itc` its labels of
    isolated tumour cells, counted from 1.
    """

    detections: int
    false_positives: Floats
    region_scores: Floats
    itc: tuple[int, ...] = ()

    @property
    def is_lesion(self) -> NDArray[np.bool_]:
        """Which regions have to be found, shape ``(regions,)``."""
        lesion = np.ones(len(self.region_scores), bool)
        lesion[np.array(self.itc, int) - 1] = False
        return lesion

    @property
    def lesions(self) -> int:
        """How many regions have to be found."""
        return len(self.region_scores) - len(self.itc)

    @property
    def hits(self) -> int:
        """How many of them were."""
        return int((~np.isnan(self.region_scores) & self.is_lesion).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Froc:
    """The curve, thresholds ascending ``(T,)`` with infinity last, and what is read from it.

    `draws` are the scores of bootstrap draws, NaN where a draw had no lesion.
    """

    thresholds: Floats
    rates: Floats
    sensitivities: Floats
    sensitivity_at: tuple[float, ...]
    draws: Floats

    @property
    def score(self) -> float:
        """Mean sensitivity at :data:`RATES`."""
        return float(np.mean(self.sensitivity_at))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % percentile interval of the score over slides drawn with replacement."""
        return percentile_interval(self.draws)


def hits_of(scores: Floats, x0: NDArray[np.int64], y0: NDArray[np.int64], at: Lesions) -> SlideHits:
    """Return what detections ``(N,)`` at level-0 pixels hit of a slide's lesions.

    Positions must lie on the mask; those in the pixels that the mask rounds off at the right and
    the bottom count as in its last column and row. A score of 0 finds no lesion, as in the program.
    """
    height, width = at.labels.shape
    rows, columns = (
        np.minimum(y0 // DOWNSAMPLE, height - 1),
        np.minimum(x0 // DOWNSAMPLE, width - 1),
    )
    region = at.labels[rows, columns]
    best = np.zeros(at.regions + 1)
    np.maximum.at(best, region, scores)
    best = np.where(best > 0, best, np.nan)[1:]
    return SlideHits(len(scores), scores[region == 0], best, at.itc)


def froc(
    slides: Sequence[SlideHits],
    *,
    corrected: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Froc:
    """Return the curve over `slides`, its score and the bootstrap's draws.

    Parameters
    ----------
    slides
        What was hit on every slide that counts; slides without a detection among them.
    corrected
        Every score is a threshold, in double precision; at equal rates the highest sensitivity
        counts. Otherwise exactly the challenge's program.
    seed, resamples
        Draws of slides for the interval; 0 draws none.

    Raises
    ------
    ValueError
        There is no lesion that could be found.
    """
    counted = _Counted.of(slides, corrected=corrected)
    if not counted.lesions.sum():
        raise ValueError("no slide has a lesion (isolated tumour cells do not count): no FROC")
    ones = np.ones(len(slides))
    thresholds, rates, sensitivities = counted.curve(ones)
    at = _read(rates, sensitivities, corrected=corrected)
    names = [f"{i:09d}" for i in range(len(slides))]
    draws = [
        float(np.mean(_read(*counted.curve(weights)[1:], corrected=corrected)))
        if weights @ counted.lesions
        else np.nan
        for block in (patient_draws(names, seed=seed, resamples=resamples) if resamples else ())
        for weights in block
    ]
    return Froc(thresholds, rates, sensitivities, tuple(at.tolist()), np.array(draws))


def _read(rates: Floats, sensitivities: Floats, *, corrected: bool) -> Floats:
    """Return the sensitivities at :data:`RATES`, linear between the curve's points."""
    if corrected:  # of equal rates keep the first: the lowest threshold, the highest sensitivity
        keep = np.r_[True, rates[1:] != rates[:-1]]
        rates, sensitivities = rates[keep], sensitivities[keep]
    return np.interp(RATES, rates[::-1], sensitivities[::-1])


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """The scores of all slides in order, so that a curve is two sums for any weights of slides.

    `alarms` and `founds` are ascending, `alarm_slide` and `found_slide` say on which slide each
    was. Thresholds are ascending; `alarm_from` and `found_from` are the first that reach each.
    """

    alarms: Floats
    alarm_slide: NDArray[np.intp]
    founds: Floats
    found_slide: NDArray[np.intp]
    thresholds: Floats
    alarm_from: NDArray[np.intp]
    found_from: NDArray[np.intp]
    lesions: Floats
    corrected: bool

    @classmethod
    def of(cls, slides: Sequence[SlideHits], *, corrected: bool) -> _Counted:
        alarms, alarm_slide = _joined([s.false_positives for s in slides])
        kept = [s.region_scores[s.is_lesion] if corrected else _as_program(s) for s in slides]
        founds, found_slide = _joined([k[~np.isnan(k)] for k in kept])
        thresholds = np.unique(np.concatenate([alarms, founds]))
        # The program compares lesions' scores with a threshold in float32, alarms in float64.
        single = thresholds if corrected else thresholds.astype(np.float32).astype(np.float64)
        return cls(
            alarms, alarm_slide, founds, found_slide, thresholds,
            np.searchsorted(alarms, thresholds), np.searchsorted(founds, single),
            np.array([s.lesions for s in slides], float), corrected,
        )  # fmt: skip

    def curve(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Return thresholds, rates, sensitivities where slides count `weights` ``(S,)`` times."""
        alarm_weights, found_weights = weights[self.alarm_slide], weights[self.found_slide]
        rates = _from_top(alarm_weights)[self.alarm_from] / weights.sum()
        hits = _from_top(found_weights)[self.found_from] / (weights @ self.lesions)
        thresholds = self.thresholds
        if not self.corrected and len(thresholds):  # the lowest of the drawn is no threshold
            first = [v[w > 0][:1] for v, w in
                     ((self.alarms, alarm_weights), (self.founds, found_weights))]  # fmt: skip
            kept = thresholds > np.concatenate(first).min()
            thresholds, rates, hits = thresholds[kept], rates[kept], hits[kept]
        return np.r_[thresholds, np.inf], np.r_[rates, 0.0], np.r_[hits, 0.0]


def _as_program(slide: SlideHits) -> Floats:
    """Return the program's scores of regions: float32, 0 where missed or isolated cells."""
    scores = np.where(slide.is_lesion, np.nan_to_num(slide.region_scores), 0.0)
    return scores.astype(np.float32).astype(np.float64)


def _joined(parts: Sequence[Floats]) -> tuple[Floats, NDArray[np.intp]]:
    """Return all values ascending, and the index of the part each came from."""
    slide = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    values = np.concatenate([*parts, np.zeros(0)])
    order = np.argsort(values, kind="stable")
    return values[order], slide[order]


def _from_top(weights: Floats) -> Floats:
    """Return the sum of `weights` ``(N,)`` from each to the last, and 0 after it: ``(N + 1,)``."""
    return np.append(np.cumsum(weights[::-1])[::-1], 0.0)
