"""Patients drawn with replacement: the interval of any figure that slides can be weighted for.

A draw is a weight per slide (how often its patient was drawn), so that a figure is computed for
hundreds of draws at once instead of once per draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Figures = Callable[[Floats], Mapping[str, Floats]]
"""Figures by name, each ``(R,)``, of weights ``(R, N)``; NaN where a figure is not defined."""

RESAMPLES = 1000
BLOCK_VALUES = 1 << 21
"""Weights handled at once: 16 MiB of them."""


def patient_draws(patients: Sequence[str], *, seed: int, resamples: int) -> Iterator[Floats]:
    """Yield weights ``(R, N)`` of slides, a block of draws at a time.

    As many patients are drawn as there are, with replacement; all slides of a patient share a
    weight. The draws depend on the seed and the order of patients' names, not on the block.
    """
    names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_VALUES // max(len(index), 1))
    share = np.full(len(names), 1 / len(names))
    for start in range(0, resamples, block):
        counts = rng.multinomial(len(names), share, size=min(block, resamples - start))
        yield counts[:, index].astype(np.float64)


def bootstrap(
    figures: Figures, patients: Sequence[str], *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Floats]:
    """Return every figure of every draw, ``(resamples,)`` each; of 0 draws none."""
    blocks = [
        figures(weights) for weights in patient_draws(patients, seed=seed, resamples=resamples)
    ] or [figures(np.zeros((0, len(patients))))]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """Return the percentile interval of the draws in which the figure is defined.

    None if it is defined in fewer than half of them: the interval would speak of the others.
    """
    defined = draws[np.isfinite(draws)]
    if 2 * len(defined) < len(draws) or len(defined) < 2:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
