"""Which codes may follow, so that every sequence of them is an item of the catalogue?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.tokens.semantic import SemanticIds


@dataclass(frozen=True)
class Trie:
    """The prefixes of N items' codes as tables of integers.

    A node of depth d is a prefix of d codes, numbered in the order of the codes; the root is node 0 of depth
    0, and the nodes of depth L are items, in `items_N`: their rows in the vocabulary. Children of a node are
    neighbours: `begins[d][node]` to `begins[d][node + 1]` of depth d + 1, their last codes in `codes[d]`. The
    items below a node are neighbours, too: `spans[d][node]` to `spans[d][node + 1]`.
    """

    begins: tuple[Tensor, ...]
    codes: tuple[Tensor, ...]
    spans: tuple[Tensor, ...]
    items_N: Tensor
    codebook_size: int

    @property
    def levels(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.begins, *self.codes, *self.spans, self.items_N))

    def to(self, device: torch.device) -> Trie:
        def moved(tables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(table.to(device) for table in tables)

        parts = (moved(self.begins), moved(self.codes), moved(self.spans))
        return Trie(*parts, self.items_N.to(device), self.codebook_size)

    def children(self, depth: int, nodes_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of all children of B nodes of this depth: which of the B it is of, its node, its last code."""
        begin_B, end_B = self.begins[depth][nodes_B], self.begins[depth][nodes_B + 1]
        counts_B = end_B - begin_B
        owner_C = torch.repeat_interleave(counts_B)
        ahead_C = torch.arange(len(owner_C), device=owner_C.device) - (counts_B.cumsum(0) - counts_B)[owner_C]
        child_C = begin_B[owner_C] + ahead_C
        return owner_C, child_C, self.codes[depth][child_C]

    def allowing(self, allowed_RN: Tensor) -> tuple[Tensor, ...]:
        """For each depth (R, nodes): whether an item that request r allows is below each node.

        allowed_RN: bool, by the vocabulary's rows.
        """
        sums_RN = torch.nn.functional.pad(allowed_RN[:, self.items_N].cumsum(-1), (1, 0))
        return tuple(sums_RN[:, spans[1:]] > sums_RN[:, spans[:-1]] for spans in self.spans)


def trie_of(ids: SemanticIds, rows: np.ndarray | None = None) -> Trie:
    """Of all items, or of these rows of the vocabulary; PtwError where there are none."""
    kept = np.arange(len(ids.items)) if rows is None else np.asarray(rows)
    if not len(kept):
        raise PtwError(f"semantic_ids.{ids.name}: no item is left to generate")
    order = kept[np.lexsort(ids.codes_NL[kept].T[::-1])]
    codes_NL = ids.codes_NL[order]
    changes_N = np.zeros(len(order), dtype=bool)
    changes_N[0] = True
    starts, begins, codes, spans = np.array([0]), [], [], [_table([0, len(order)])]
    for level in range(ids.levels):
        changes_N[1:] |= codes_NL[1:, level] != codes_NL[:-1, level]
        below = np.flatnonzero(changes_N)
        begins.append(_table([*np.searchsorted(below, starts), len(below)]))
        codes.append(_table(codes_NL[below, level]))
        spans.append(_table([*below, len(order)]))
        starts = below
    return Trie(tuple(begins), tuple(codes), tuple(spans), _table(order), ids.codebook_size)


def _table(values: object) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int64))
