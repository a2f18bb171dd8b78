"""Do the vectors of queries find their documents among all documents?

Every different document of the data is a candidate, hard negatives too. Of several documents that are right
for a query each is looked for alone, the others being left out. Means are over all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ptw.data.pack import PackedRow
from ptw.data.pair import Pairs
from ptw.evals.loss import ROWS_AT_ONCE
from ptw.evals.rows import Packed, forward_of, groups, last, of_documents

Pooling = Literal["mean", "last"]  # of a document's tokens: the mean of all, or the last one
CUTS = (1, 10)
AT_ONCE = 2**24  # scores
MISSED = 2**31


def figures(
    vectors_KD: Tensor, pairs: Pairs, widths: Sequence[int], device: torch.device
) -> dict[str, float]:
    """recall@k, mrr and ndcg@10 of vectors cut to each of these widths; of the first without its name."""
    found: dict[str, float] = {}
    for width in widths:
        prefix = "" if width == widths[0] else f"width_{width}_"
        found |= metrics_of(ranks_of(vectors_KD[:, :width], pairs, device), prefix)
    return found


def pooled(hidden_BTD: Tensor, batch: Packed, pooling: Pooling) -> Tensor:
    """(K, D) vectors of the documents of a batch's samples, in fp32 at least; their lengths mean nothing."""
    hidden_BTD = hidden_BTD.to(torch.promote_types(hidden_BTD.dtype, torch.float32))
    if pooling == "last":
        return last(hidden_BTD, batch)
    lengths_K = of_documents(torch.ones_like(hidden_BTD[..., 0]), batch)
    return of_documents(hidden_BTD, batch) / lengths_K[:, None]


@torch.no_grad()
def measured(
    module: nn.Module, rows: Iterable[PackedRow], pooling: Pooling, device: torch.device
) -> dict[str, float]:
    """The figures of a model's vectors on rows of pairs, and how many pairs there are."""
    found, seen = list[Tensor](), list[PackedRow]()
    for together in groups(rows, ROWS_AT_ONCE):
        forward = forward_of(together, device)
        found.append(pooled(module(forward.ids_BT, forward.layout), forward, pooling).cpu())
        seen += together
    vectors_KD, pairs = torch.cat(found), Pairs.of(seen)
    return {**figures(vectors_KD, pairs, [vectors_KD.shape[1]], device), "pairs": len(pairs.queries)}


def ranks_of(vectors_KD: Tensor, pairs: Pairs, device: torch.device) -> list[int]:
    """Of each query its document's rank by cosine, from 1. Of equal scores it is the last; NaN finds none."""
    unit_KD = normalize(vectors_KD.to(device), dim=-1)
    first = {pairs.texts[place]: place for place in reversed(pairs.candidates)}
    candidates = sorted(first.values())
    column = {pairs.texts[place]: at for at, place in enumerate(candidates)}
    documents_MD = unit_KD[candidates]
    targets = [column[pairs.texts[place + 1]] for place in pairs.queries]
    others: list[list[int]] = [[] for _ in pairs.queries]
    for number, at in pairs.also_right(candidates):
        if at != targets[number]:
            others[number].append(at)
    ranks: list[int] = []
    count = max(1, AT_ONCE // len(candidates))
    for begin in range(0, len(pairs.queries), count):
        part = slice(begin, begin + count)
        scores_CM = unit_KD[list(pairs.queries[part])] @ documents_MD.T
        rows = [row for row, left_out in enumerate(others[part]) for _ in left_out]
        scores_CM[rows, [at for left_out in others[part] for at in left_out]] = -torch.inf
        target_C = scores_CM.gather(1, torch.tensor(targets[part], device=device)[:, None])
        better_C = (~(scores_CM < target_C)).sum(-1)  # the target itself among them
        ranks += torch.where(torch.isfinite(target_C[:, 0]), better_C, MISSED).tolist()
    return ranks


def metrics_of(ranks: Sequence[int], prefix: str = "") -> dict[str, float]:
    """recall@k, mrr and ndcg@10, the means over the pairs."""
    count = max(1, len(ranks))
    found = {f"{prefix}recall@{cut}": sum(rank <= cut for rank in ranks) / count for cut in CUTS}
    found[f"{prefix}mrr"] = sum(1 / rank for rank in ranks) / count
    top = max(CUTS)
    found[f"{prefix}ndcg@{top}"] = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= top) / count
    return found
