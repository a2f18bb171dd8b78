"""How sure is a mean over sequences? By a percentile bootstrap: they are drawn anew."""

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
    tail = (100 - SHARE) / 2
    found = []
    for f in range(figures):
        drawn_D = means_DF[~np.isnan(means_DF[:, f]), f] if told_F[f] else np.full(1, np.nan)
        low, high = np.percentile(drawn_D, [tail, 100 - tail])
        found.append(Estimate(float(means_F[f]), float(low), float(high)))
    return found


def _alike(values_C: np.ndarray) -> bool:
    return len(values_C) == 0 or bool((values_C == values_C[0]).all())


def _means(filled_CF: np.ndarray, known_CF: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """(D, F) the means of as many cases, drawn with replacement."""
    rng = np.random.default_rng(seed)
    cases = len(filled_CF)
    step = max(1, AT_ONCE // cases)
    whole = bool(known_CF.all())
    found = []
    for start in range(0, draws, step):
        some = min(step, draws - start)
        drawn = rng.integers(0, cases, size=(some, cases)) + cases * np.arange(some)[:, None]
        times_DC = np.bincount(drawn.ravel(), minlength=some * cases).reshape(some, cases).astype(float)
        found.append((times_DC @ filled_CF) / (cases if whole else times_DC @ known_CF.astype(float)))
    return np.concatenate(found)
