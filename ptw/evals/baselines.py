"""How do rankers that learn nothing rank: popularity, and the items that stood beside those of the input?"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ptw.evals.cases import Case
from ptw.evals.known import Known, incidence
from ptw.evals.ranking import Ranked, ranked_of
from ptw.evals.rows import groups

AT_ONCE = 2**23  # scores
TIE = 1e-9  # far below what two similarities differ by

Ranker = Callable[[Sequence[Case], Known], np.ndarray]  # scores (N, I) of some cases


def popularity(sequences: Sequence[Case], known: Known) -> np.ndarray:
    """By events of the training part; ties, in the catalogue's order, are no misses."""
    return np.broadcast_to(-known.places.astype(float), (len(sequences), len(known.places)))


def item_knn(sequences: Sequence[Case], known: Known) -> np.ndarray:
    """Summed cosine of an item's column to those of the input's items; of equal sums the more popular first.

    Never the item-item matrix: (inputs @ rows.T) @ rows holds a chunk's rows only. It adds to each item its
    cosine with itself, but those are the input's, which are not recommended.
    """
    sums_I = known.rows_RI.sum(axis=0)
    scale_I = 1 / np.sqrt(np.maximum(sums_I, 1))
    inputs_NI = incidence([np.unique(case.seen) for case in sequences], len(sums_I))
    beside_NI = ((inputs_NI * scale_I) @ known.rows_RI.T @ known.rows_RI).toarray() * scale_I
    scores_NI: np.ndarray = beside_NI - TIE * known.places / len(known.places)
    return scores_NI


BASELINES: dict[str, Ranker] = {"popularity": popularity, "knn": item_knn}


def ranked_by(ranker: Ranker, sequences: Sequence[Case], known: Known, top: int = 0) -> list[Ranked]:
    """What came of each case, a chunk at a time."""
    found: list[Ranked] = []
    for chunk in groups(sequences, max(1, AT_ONCE // len(known.counts_I))):
        found += ranked_of(torch.from_numpy(np.array(ranker(chunk, known))), chunk, top)
    return found
