"""How sure is a figure of many cases? By a percentile bootstrap: they are drawn anew."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

DRAWS = 1000
SHARE = 95  # percent of the draws that an interval holds
FEW = 20  # cases: of fewer no interval is told
AT_ONCE = 2**22  # drawn cases


class Estimate(NamedTuple):
    """A mean; `low` and `high` are NaN where the cases can't tell: too few, or all alike."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def estimates(values_CF: np.ndarray, draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """Of each column the mean over the cases, and its interval. NaN: the figure does not apply to the case.

    All columns share their draws, so that a column of differences is a paired bootstrap.
    """
    cases, figures = values_CF.shape
    known_CF = ~np.isnan(values_CF)
    filled_CF = np.where(known_CF, values_CF, 0.0)
    counts_F = known_CF.sum(axis=0)
    with np.errstate(invalid="ignore"):
        means_F = filled_CF.sum(axis=0) / counts_F
        means_DF = _means(filled_CF, known_CF, draws, seed) if cases else np.empty((0, figures))
    alike_F = np.array([_alike(values_CF[known_CF[:, f], f]) for f in range(figures)], bool)
    told_F = (counts_F >= FEW) & ~alike_F
    return [_estimate(means_F[f], means_DF[:, f] if told_F[f] else None) for f in range(figures)]


def estimated(
    figures: Callable[[np.ndarray], np.ndarray], cases: int, draws: int = DRAWS, seed: int = 0
) -> list[Estimate]:
    """Of figures that are no means: `figures` takes (D, C) how often each case counts, and gives (D, F)."""
    values_F = figures(np.ones((1, cases)))[0]
    if cases < FEW:
        return [_estimate(value, None) for value in values_F]
    drawn_DF = np.concatenate([figures(times_DC) for times_DC in times_drawn(cases, draws, seed)])
    return [_estimate(values_F[f], drawn_DF[:, f]) for f in range(len(values_F))]


def times_drawn(cases: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """(D, C) how often each case is drawn, of as many, with replacement; some draws at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, AT_ONCE // cases)
    for start in range(0, draws, step):
        some = min(step, draws - start)
        drawn = rng.integers(0, cases, size=(some, cases)) + cases * np.arange(some)[:, None]
        yield np.bincount(drawn.ravel(), minlength=some * cases).reshape(some, cases).astype(float)


def _estimate(value: float, drawn_D: np.ndarray | None) -> Estimate:
    """Without draws, and where they say nothing or all the same, no interval is known."""
    known_D = np.empty(0) if drawn_D is None else drawn_D[~np.isnan(drawn_D)]
    if _alike(known_D):
        return Estimate(float(value), np.nan, np.nan)
    tail = (100 - SHARE) / 2
    low, high = np.percentile(known_D, [tail, 100 - tail])
    return Estimate(float(value), float(low), float(high))


def _alike(values: np.ndarray) -> bool:
    return len(values) == 0 or bool((values == values[0]).all())


def _means(filled_CF: np.ndarray, known_CF: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(D, F) the means of as many cases, drawn with replacement."""
    cases, whole = len(filled_CF), bool(known_CF.all())
    return np.concatenate(
        [
            (times_DC @ filled_CF) / (cases if whole else times_DC @ known_CF.astype(float))
            for times_DC in times_drawn(cases, draws, seed)
        ]
    )
