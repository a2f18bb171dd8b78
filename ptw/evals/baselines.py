"""How do rankers that learn nothing rank: popularity, and the items that stood beside those of the input?

They score few items above 0, which come first; all others follow by their popularity. No case costs more than
these few, however large the catalogue is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from ptw.evals.cases import Case
from ptw.evals.known import Known, incidence
from ptw.evals.neighbours import AT_ONCE, TIE, most, spans
from ptw.evals.ranking import MISSED, Ranked

Ranker = Callable[[Sequence[Case], Known], Any]  # (N, I) sparse: the scores above 0 of some cases


def popularity(sequences: Sequence[Case], known: Known) -> Any:
    """None: by events of the training part; ties, in the catalogue's order, are no misses."""
    return sparse.csr_array((len(sequences), len(known.places)))


def item_knn(sequences: Sequence[Case], known: Known) -> Any:
    """Summed cosine to the input's items of those that are among their neighbours.

    Of equal sums the more popular item comes first.
    """
    inputs_NI = incidence([np.unique(case.seen) for case in sequences], len(known.places))
    return (inputs_NI @ known.neighbours).tocsr()


BASELINES: dict[str, Ranker] = {"popularity": popularity, "knn": item_knn}


def ranked_by(ranker: Ranker, sequences: Sequence[Case], known: Known, top: int = 0) -> list[Ranked]:
    """What came of each case, some at a time; items of the input are not ranked."""
    found: list[Ranked] = []
    sizes = np.array([len(case.seen) for case in sequences]) * most(len(known.places))
    for part in spans(np.minimum(sizes, len(known.places)), AT_ONCE):
        chunk = sequences[part]
        scores_NI = ranker(chunk, known)
        ends = zip(scores_NI.indptr[:-1], scores_NI.indptr[1:], strict=True)
        for case, (start, end) in zip(chunk, ends, strict=True):
            items, scores = scores_NI.indices[start:end], scores_NI.data[start:end]
            unseen = ~np.isin(items, case.seen)
            found.append(_ranked(case, items[unseen], scores[unseen], known, top))
    return found


def _ranked(case: Case, items: np.ndarray, scores: np.ndarray, known: Known, top: int) -> Ranked:
    """items: those that have a score, none of the input's."""
    scores = scores - TIE * known.places[items] / len(known.places)
    taken = np.concatenate([np.unique(case.seen), items])
    best = items[_best(scores, top)]
    if len(best) < top:
        popular = known.popular_first[: top + len(taken)]
        best = np.concatenate([best, popular[~np.isin(popular, taken)]])
    return Ranked(_rank(case, items, scores, known, taken), tuple(best[:top].tolist()))


def _rank(case: Case, items: np.ndarray, scores: np.ndarray, known: Known, taken: np.ndarray) -> int:
    """The target's place: among the scored, or among all others by popularity behind them."""
    if case.target in case.seen:
        return MISSED
    own = scores[items == case.target]
    if len(own):
        return int((scores >= own[0]).sum())
    place = known.places[case.target]
    return len(items) + 1 + int(place - (known.places[taken] < place).sum())


def _best(scores: np.ndarray, top: int) -> np.ndarray:
    """The places of the highest, the highest first."""
    if len(scores) > top > 0:
        near = np.argpartition(scores, -top)[-top:]
        return near[np.argsort(-scores[near], kind="stable")]
    return np.argsort(-scores, kind="stable")[:top]
