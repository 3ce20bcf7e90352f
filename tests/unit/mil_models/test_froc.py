"""The FROC against a loop over thresholds, which is what the challenge's program is."""

from __future__ import annotations

import numpy as np
import pytest

from mil_models.froc import RATES, SlideHits, froc, hits_of
from mil_models.lesions import Lesions


def plain(slides: list[SlideHits]) -> tuple[list[float], list[float]]:
    """The program's rates and sensitivities: lists, a loop, float32 scores of lesions."""
    alarms = [float(p) for s in slides for p in s.false_positives]
    regions = []
    for s in slides:
        for number, p in enumerate(s.region_scores, start=1):
            held = np.float32(0 if np.isnan(p) or number in s.itc else p)
            regions.append(held)
    thresholds = sorted({*alarms, *map(float, regions)})[1:]
    lesions = sum(len(s.region_scores) - len(s.itc) for s in slides)
    rates = [sum(a >= t for a in alarms) / len(slides) for t in thresholds]
    found = [sum(r >= np.float32(t) for r in regions) / lesions for t in thresholds]
    return [*rates, 0.0], [*found, 0.0]


def random_slides(seed: int, decimals: int, misses: bool = True) -> list[SlideHits]:
    rng = np.random.default_rng(seed)
    slides = []
    for _ in range(rng.integers(3, 9)):
        regions = rng.integers(1, 5)
        scores = np.round(rng.uniform(0.01, 1, regions), decimals)
        if misses:
            scores[rng.random(regions) < 0.4] = np.nan
        alarms = np.round(rng.uniform(0, 1, rng.integers(0, 30)), decimals)
        itc = (int(regions),) if misses and regions > 1 else ()
        slides.append(SlideHits(len(alarms), alarms, scores, itc))
    return slides


@pytest.mark.parametrize("misses", [True, False])
@pytest.mark.parametrize("decimals", [1, 4])  # 1: many ties, between lesions and alarms too
@pytest.mark.parametrize("seed", range(5))
def test_the_curve_is_the_programs(seed: int, decimals: int, misses: bool) -> None:
    slides = random_slides(seed, decimals, misses)
    found = froc(slides, resamples=0)
    rates, sensitivities = plain(slides)
    assert found.rates.tolist() == pytest.approx(rates, abs=1e-12)
    assert found.sensitivities.tolist() == pytest.approx(sensitivities, abs=1e-12)
    at = np.interp(RATES, rates[::-1], sensitivities[::-1])
    assert found.sensitivity_at == pytest.approx(at.tolist(), abs=1e-12)
    assert found.score == pytest.approx(at.mean(), abs=1e-12)


@pytest.mark.parametrize("corrected", [True, False])
def test_draws_are_the_scores_of_slides_drawn(corrected: bool) -> None:
    """Weights of slides give what the same slides, written out as often, give."""
    slides = random_slides(3, 2)
    found = froc(slides, corrected=corrected, seed=11, resamples=20)
    share = np.full(len(slides), 1 / len(slides))
    counts = np.random.default_rng(11).multinomial(len(slides), share, size=20)
    for draw, weights in zip(found.draws, counts, strict=True):
        drawn = [s for s, w in zip(slides, weights, strict=True) for _ in range(w)]
        assert draw == pytest.approx(froc(drawn, corrected=corrected, resamples=0).score)
    low, high = found.interval or (np.nan, np.nan)
    assert low < found.score < high


def test_the_quirks_by_hand() -> None:
    """Both lesions hit and no zero in the list: the program drops the lowest detection, 0.2."""
    slides = [
        SlideHits(2, np.array([0.5]), np.array([0.9])),
        SlideHits(1, np.array([]), np.array([0.2])),
    ]
    official, corrected = froc(slides, resamples=0), froc(slides, corrected=True, resamples=0)
    assert official.rates.tolist() == [0.5, 0.0, 0.0]
    assert official.sensitivities.tolist() == [0.5, 0.5, 0.0]
    assert official.score == 0.5
    assert corrected.thresholds.tolist() == [0.2, 0.5, 0.9, np.inf]
    assert corrected.rates.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert corrected.sensitivities.tolist() == [1.0, 0.5, 0.5, 0.0]
    # 0 alarms: 1/2; 1/2 alarm a slide and more: all. At 1/4 half way between.
    assert corrected.sensitivity_at == (0.75, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_a_score_of_an_alarm_and_of_a_lesion_are_two_thresholds_in_float32() -> None:
    """0.7 in float32 is 0.69999999; 0.6 is 0.60000002."""
    for score, rates in ((0.7, [1.0, 1.0, 0.0]), (0.6, [1.0, 0.0, 0.0])):
        slide = SlideHits(2, np.array([score]), np.array([score, np.nan]))
        assert froc([slide], resamples=0).rates.tolist() == rates
        assert len(froc([slide], corrected=True, resamples=0).rates) == 2


def test_hits_of_lesions_isolated_cells_and_nothing() -> None:
    """Pixels 32 to 63 are mask pixel 1; the best of each region counts, ITC as neither."""
    labels = np.array([[0, 1, 1, 0], [0, 0, 0, 2]], np.int32)
    x0 = np.array([31, 32, 95, 96, 127, 130])
    y0 = np.array([0, 31, 0, 31, 32, 70])
    scores = np.array([0.1, 0.2, 0.6, 0.4, 0.5, 0.9])
    found = hits_of(scores, x0, y0, Lesions(labels, 2, (2,)))
    assert found.false_positives.tolist() == [0.1, 0.4]
    assert found.region_scores.tolist() == [0.6, 0.9]
    assert (found.lesions, found.hits, found.detections) == (1, 1, 6)


def test_a_score_of_0_finds_nothing() -> None:
    """The program keeps the highest score of a lesion from 0 on: 0 is not above it."""
    at = Lesions(np.array([[1, 0]], np.int32), 1, ())
    found = hits_of(np.zeros(2), np.array([0, 40]), np.zeros(2, np.int64), at)
    assert (found.hits, found.false_positives.tolist()) == (0, [0.0])


def test_no_detection_is_a_score_of_0_and_no_lesion_is_refused() -> None:
    empty = np.zeros(0)
    assert froc([SlideHits(0, empty, np.array([np.nan]))]).score == 0
    with pytest.raises(ValueError, match="no slide has a lesion"):
        froc([SlideHits(0, empty, np.array([0.5]), (1,))])
