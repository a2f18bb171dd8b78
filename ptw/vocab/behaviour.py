"""Which vectors does what users do give the items?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.vocab.svd import leading
from ptw.workspace.manifest import DatasetEntry

NEAR = 5  # events: how far apart two items still stand beside each other
WIDTH = 64
SMOOTHED = 0.75  # the power of an item's count as a neighbour, so that rare ones are not all that counts


def of_behaviour(root: Path, dataset: DatasetEntry, row_of: Mapping[str, int], seed: int) -> Tensor:
    """(N, D) by the positive pointwise mutual information of items in the same sequence, near each other.

    Levy and Goldberg, 2014: what skip-gram factorises. What `leave_out` holds out is not looked at. Items
    that stand in no sequence have zeros, the others length 1.
    """
    pairs_P, counts_P = _pairs(_sequences(root, dataset, row_of), len(row_of))
    if not len(counts_P):
        raise PtwError(f"dataset {dataset.name}: no two items of the vocabulary stand beside each other")
    total = counts_P.sum()
    of_item_N = torch.zeros(len(row_of), dtype=torch.float64).index_add_(0, pairs_P[0], counts_P)
    share_N = of_item_N**SMOOTHED / (of_item_N**SMOOTHED).sum()
    information_P = (
        (counts_P / total).log() - (of_item_N[pairs_P[0]] / total).log() - share_N[pairs_P[1]].log()
    )
    kept = information_P > 0
    entries = (information_P[kept].float().numpy(), tuple(pairs_P[:, kept].numpy()))
    matrix_NN = csr_array(entries, shape=(len(row_of), len(row_of)))
    left_ND, strength_D, _ = leading(matrix_NN, WIDTH, seed)
    acted_N = torch.from_numpy(np.diff(matrix_NN.indptr) > 0)
    # where nothing is known there is still the rounding of the others
    return torch.nn.functional.normalize(left_ND * strength_D.sqrt()) * acted_N[:, None]


def _sequences(root: Path, dataset: DatasetEntry, row_of: Mapping[str, int]) -> list[np.ndarray]:
    found = []
    for part in dataset.parts:
        for row in rows(root, part.dataset.source):
            if row.fault is not None:
                raise row.fault
            items = row.value.get("items")
            if not isinstance(items, list):
                raise PtwError(f"{row.place}: an event row needs `items`, a list of item ids")
            kept = items[: max(len(items) - part.dataset.leave_out, 0)]
            found.append(np.array([row_of[str(item)] for item in kept if str(item) in row_of], np.int64))
    return found


def _pairs(sequences: Sequence[np.ndarray], items: int) -> tuple[Tensor, Tensor]:
    """(2, P) pairs of items that stand near each other, both ways round, and how often each does."""
    whole = np.concatenate([np.empty(0, np.int64), *sequences])
    owner = np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])
    numbers = []
    for apart in range(1, NEAR + 1):
        together = owner[apart:] == owner[:-apart]
        one, other = whole[:-apart][together], whole[apart:][together]
        both = one != other
        numbers += [one[both] * items + other[both], other[both] * items + one[both]]
    found, counts = np.unique(np.concatenate(numbers), return_counts=True)
    pairs = np.stack([found // items, found % items])
    return torch.from_numpy(pairs), torch.from_numpy(counts.astype(np.float64))
