"""Which items stood beside each in the same rows, and how alike are they?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

NEAREST = 200  # neighbours of an item, at least
KEPT = 2**24  # of all items together, where these are not more: a small catalogue has them all
LONGEST = 1000  # items of a row: of a longer one so many, for all pairs of a row count
AT_ONCE = 2**22  # pairs, or scores
TIE = 1e-9  # far below what two similarities differ by


def nearest(rows_RI: Any, places_I: np.ndarray) -> Any:
    """(I, I) sparse: of each item the nearest others by the cosine of their columns.

    rows_RI: sparse, 1 where a row has an item. Of equally near ones those of the lower place are kept. Only a
    part of the items is beside all others at once.
    """
    rows_RI = shortened(rows_RI)
    scale_I = 1 / np.sqrt(np.maximum(rows_RI.sum(axis=0), 1))
    owners_IR = rows_RI.T.tocsr()
    pairs_I = owners_IR @ rows_RI.sum(axis=1)
    found = []
    for part in spans(pairs_I, AT_ONCE):
        beside = (owners_IR[part] @ rows_RI).tocsr()
        own = np.repeat(np.arange(part.start, part.stop), np.diff(beside.indptr))
        beside.data *= scale_I[own] * scale_I[beside.indices]
        kept = _nearest(beside, places_I, own != beside.indices)
        found.append(_chosen(beside, kept))
    return sparse.vstack(found, format="csr")


def most(items: int) -> int:
    """How many neighbours an item of so many has."""
    return min(items, max(NEAREST, KEPT // items))


def shortened(rows_RI: Any) -> Any:
    """Rows of more than LONGEST items with so many of them, evenly taken; the others as they are."""
    sizes_R = np.diff(rows_RI.indptr)
    size_P = np.repeat(sizes_R, sizes_R)
    place_P = np.arange(len(size_P)) - np.repeat(rows_RI.indptr[:-1], sizes_R)
    kept_P = (size_P <= LONGEST) | ((place_P + 1) * LONGEST // size_P > place_P * LONGEST // size_P)
    return _chosen(rows_RI, kept_P)


def spans(sizes: np.ndarray, room: int) -> Iterator[slice]:
    """One stretch after another whose sizes sum up to `room`, or that is a single larger one."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + room, side="right")))
        yield slice(start, stop)
        start = stop


def _nearest(beside: Any, places_I: np.ndarray, kept_P: np.ndarray) -> np.ndarray:
    """Of kept entries which are among their row's nearest."""
    width = most(len(places_I))
    order_P = beside.data - TIE * places_I[beside.indices] / len(places_I)
    order_P[~kept_P] = -np.inf
    for start, end in zip(beside.indptr[:-1], beside.indptr[1:], strict=True):
        if end - start > width:
            kept_P[start + np.argpartition(order_P[start:end], -width)[:-width]] = False
    return kept_P


def _chosen(array: Any, kept_P: np.ndarray) -> Any:
    """The sparse array with these of its entries alone."""
    ends = np.concatenate([[0], np.cumsum(kept_P)])[array.indptr]
    return sparse.csr_array((array.data[kept_P], array.indices[kept_P], ends), shape=array.shape)
