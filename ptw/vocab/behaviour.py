"""Which vectors does what users do give the items?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.vocab.sparse import blocks
from ptw.vocab.svd import leading
from ptw.workspace.manifest import DatasetEntry

Rows = np.ndarray[Any, np.dtype[np.int32]]
EVENTS_AT_ONCE = 2**20  # whose pairs are in memory beside those that were counted
NEAR = 5  # events: how far apart two items still stand beside each other
WIDTH = 64
SMOOTHED = 0.75  # the power of an item's count as a neighbour, so that rare ones are not all that counts


def of_behaviour(root: Path, dataset: DatasetEntry, row_of: Mapping[str, int], seed: int) -> Tensor:
    """(N, D) by the positive pointwise mutual information of items in the same sequence, near each other.

    Levy and Goldberg, 2014: what skip-gram factorises. What `leave_out` holds out is not looked at. Items
    that stand in no sequence have zeros, the others length 1.
    """
    counts_NN = _together(_sequences(root, dataset, row_of), len(row_of))
    if not counts_NN.nnz:
        raise PtwError(f"dataset {dataset.name}: no two items of the vocabulary stand beside each other")
    matrix_NN = _informed(counts_NN)
    del counts_NN
    left_ND, strength_D, _ = leading(matrix_NN, WIDTH, seed)
    acted_N = torch.from_numpy(np.diff(matrix_NN.indptr) > 0)
    # where nothing is known there is still the rounding of the others
    return torch.nn.functional.normalize(left_ND * strength_D.sqrt()) * acted_N[:, None]


def _sequences(root: Path, dataset: DatasetEntry, row_of: Mapping[str, int]) -> Iterator[Rows]:
    for part in dataset.parts:
        for row in rows(root, part.dataset.source):
            if row.fault is not None:
                raise row.fault
            items = row.value.get("items")
            if not isinstance(items, list):
                raise PtwError(f"{row.place}: an event row needs `items`, a list of item ids")
            kept = items[: max(len(items) - part.dataset.leave_out, 0)]
            yield np.array([row_of[str(item)] for item in kept if str(item) in row_of], np.int32)


def _together(sequences: Iterable[Rows], items: int) -> csr_array:
    """(N, N) how often two items stand near each other, both ways round; no item beside itself."""
    found, waiting, events = csr_array((items, items), dtype=np.int32), [], 0
    for sequence in sequences:
        waiting.append(sequence)
        events += len(sequence)
        if events >= EVENTS_AT_ONCE:
            found, waiting, events = found + _of_some(waiting, items), [], 0
    if waiting:
        found = found + _of_some(waiting, items)
    return csr_array(found + found.T)


def _of_some(sequences: Sequence[Rows], items: int) -> csr_array:
    """(N, N) how often an item stands near one of a higher row."""
    whole = np.concatenate(sequences)
    owner = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    low, high = [], []
    for apart in range(1, NEAR + 1):
        both = (owner[apart:] == owner[:-apart]) & (whole[apart:] != whole[:-apart])
        one, other = whole[:-apart][both], whole[apart:][both]
        low.append(np.minimum(one, other))
        high.append(np.maximum(one, other))
    pairs = np.concatenate(low), np.concatenate(high)
    return csr_array((np.ones(len(pairs[0]), np.int32), pairs), shape=(items, items))


def _informed(counts_NN: csr_array) -> csr_array:
    """(N, N) the information that is positive, of counts that are the same both ways; in their memory."""
    of_item_N = torch.zeros(counts_NN.shape[0], dtype=torch.float64)
    for among, entries, own_P in blocks(counts_NN):
        found = np.bincount(own_P, counts_NN.data[entries], minlength=among.stop - among.start)
        of_item_N[among] = torch.from_numpy(found)
    share_N = of_item_N**SMOOTHED / (of_item_N**SMOOTHED).sum()
    total, log_of_item_N = of_item_N.sum(), (of_item_N / of_item_N.sum()).log()
    values = np.empty(counts_NN.nnz, np.float32)
    for among, entries, own_P in blocks(counts_NN):
        counts_P = torch.from_numpy(counts_NN.data[entries].astype(np.float64))
        information_P = (counts_P / total).log() - log_of_item_N[among][own_P]
        information_P -= share_N.log()[counts_NN.indices[entries]]
        values[entries] = information_P.clamp(min=0).float().numpy()
    found_NN = csr_array((values, counts_NN.indices, counts_NN.indptr), shape=counts_NN.shape)
    found_NN.eliminate_zeros()
    return found_NN
