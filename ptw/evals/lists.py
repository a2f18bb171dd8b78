"""What are lists of recommendations like, right or wrong: how popular, varied, like the past?

A case without a list, or whose items lack the attribute, has NaN: the figure does not apply to it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import jensenshannon

from ptw.evals.attributes import Attribute, shares
from ptw.evals.cases import Case
from ptw.evals.known import Known

POPULAR = (1, 10)  # percent of the catalogue, the most popular items
AT_ONCE = 2**23  # numbers


def described(tops_NK: np.ndarray, known: Known, cuts: Sequence[int]) -> dict[str, np.ndarray]:
    """(N,) each of the first k: mean self-information in bits, and the share of the most popular items.

    tops_NK: items' numbers, -1 behind a list's end.
    """
    found: dict[str, np.ndarray] = {}
    place_NK = known.places[tops_NK]
    for cut in cuts:
        there = tops_NK[:, :cut] >= 0
        found[f"novelty@{cut}"] = _mean(known.information[tops_NK[:, :cut]], there)
        for percent in POPULAR:
            popular = place_NK[:, :cut] < math.ceil(len(known.places) * percent / 100)
            found[f"popular_{percent}%@{cut}"] = _mean(popular, there)
    return found


def coverage(tops_NK: np.ndarray, items: int, cuts: Sequence[int]) -> dict[str, float]:
    """The share of the catalogue that is in anybody's first k."""
    seen = {cut: np.unique(tops_NK[:, :cut]) for cut in cuts}
    return {f"coverage@{cut}": float((one >= 0).sum()) / items for cut, one in seen.items()}


def varied(
    tops_NK: np.ndarray, sequences: Sequence[Case], attribute: Attribute, cuts: Sequence[int]
) -> dict[str, np.ndarray]:
    """(N,) each of the first k: diversity and miscalibration by the attribute, a chunk at a time."""
    width = max(1, tops_NK.shape[1] * max(tops_NK.shape[1], len(attribute.values)))
    step = max(1, AT_ONCE // width)
    parts = [
        {
            **_diversity(tops_NK[start : start + step], attribute.sets_IA, cuts),
            **_miscalibration(
                tops_NK[start : start + step], sequences[start : start + step], attribute, cuts
            ),
        }
        for start in range(0, len(sequences), step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _diversity(tops_NK: np.ndarray, sets_IA: Any, cuts: Sequence[int]) -> dict[str, np.ndarray]:
    """The mean Jaccard distance of two items of a list."""
    sets_NKA = _rows(sets_IA, tops_NK).astype(np.float32)
    sizes_NK = sets_NKA.sum(-1)
    common_NKK = sets_NKA @ sets_NKA.transpose(0, 2, 1)
    union_NKK = sizes_NK[:, :, None] + sizes_NK[:, None, :] - common_NKK
    distance_NKK = 1 - common_NKK / np.maximum(union_NKK, 1)
    pairs_NKK = np.triu((sizes_NK[:, :, None] > 0) & (sizes_NK[:, None, :] > 0), 1)
    flat = len(tops_NK), -1
    return {
        f"diversity@{cut}": _mean(
            distance_NKK[:, :cut, :cut].reshape(flat), pairs_NKK[:, :cut, :cut].reshape(flat)
        )
        for cut in cuts
    }


def _miscalibration(
    tops_NK: np.ndarray, sequences: Sequence[Case], attribute: Attribute, cuts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Steck's (2018), as a Jensen-Shannon divergence in bits: 0: the input's mix, 1: nothing of it.

    Every item's values share its weight of 1; of the input every event counts.
    """
    shares_IA = shares(attribute.sets_IA).tocsr()
    past_NA = np.stack([shares_IA[list(case.seen)].sum(axis=0) for case in sequences])
    shares_NKA = _rows(shares_IA, tops_NK)
    found = {}
    for cut in cuts:
        list_NA = shares_NKA[:, :cut].sum(axis=1)
        applies_N = (past_NA.sum(-1) > 0) & (list_NA.sum(-1) > 0)
        found[f"miscalibration@{cut}"] = values_N = np.full(len(tops_NK), np.nan)
        values_N[applies_N] = jensenshannon(past_NA[applies_N], list_NA[applies_N], base=2, axis=1) ** 2
    return found


def _rows(array_IA: Any, tops_NK: np.ndarray) -> np.ndarray:
    """(N, K, A) the rows of the lists' items; of places behind a list's end zeros."""
    there_NK = tops_NK >= 0
    rows: np.ndarray = array_IA[np.maximum(tops_NK, 0).ravel()].toarray().reshape(*tops_NK.shape, -1)
    return rows * there_NK[:, :, None]


def _mean(values_NK: np.ndarray, there_NK: np.ndarray) -> np.ndarray:
    counts_N = there_NK.sum(axis=1)
    sums_N = np.where(there_NK, values_NK, 0.0).sum(axis=1)
    return np.where(counts_N > 0, sums_N / np.maximum(counts_N, 1), np.nan)
