"""How well is each query's document told apart from all other documents of a step?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from ptw.data.pack import PackedRow
from ptw.data.pair import Pairs

CHUNK_ELEMENTS = 2**24  # scores held at a time: 64 MiB in fp32


@dataclass(frozen=True)
class Compared:
    """N queries and M candidates by their places among the vectors of a step, and what is not told apart.

    excused: (2, E) a query's number, and that of a candidate that is right for it too: as a negative it would
    be a false one. excused_back: the same of a query's own document, and the queries that it is right for.
    """

    queries_N: Tensor
    candidates_M: Tensor
    targets_N: Tensor  # the candidate's number that is the query's own document
    excused: Tensor
    excused_back: Tensor

    @classmethod
    def of(cls, rows: Sequence[PackedRow], device: torch.device) -> Compared:
        pairs = Pairs.of(rows)
        candidates, targets = pairs.candidates, pairs.targets
        right = pairs.also_right(candidates)
        whose = {target: number for number, target in enumerate(targets)}
        back = [(whose[at], number) for number, at in right if at in whose]

        def tensor(values: Sequence[int] | Sequence[tuple[int, int]]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            tensor(pairs.queries),
            tensor(candidates),
            tensor(targets),
            tensor(right).view(-1, 2).T,
            tensor(back).view(-1, 2).T,
        )


def told_apart(
    these_ND: Tensor, those_MD: Tensor, targets_N: Tensor, excused: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(N,) cross entropies of the target among those, by products over a temperature; if it is nearest.

    In chunks that the backward pass computes again: the products never stand in memory whole.
    """
    count = max(1, CHUNK_ELEMENTS // len(those_MD))
    losses, nearest = [], []
    for begin in range(0, len(these_ND), count):
        part = slice(begin, begin + count)
        inside = (excused[0] >= begin) & (excused[0] < begin + count)
        chunk = (these_ND[part], those_MD, targets_N[part], excused[0][inside] - begin, excused[1][inside])
        loss_C, nearest_C = checkpoint(_told_apart, *chunk, temperature, use_reentrant=False)
        losses.append(loss_C)
        nearest.append(nearest_C)
    return torch.cat(losses), torch.cat(nearest)


def _told_apart(
    these_CD: Tensor, those_MD: Tensor, targets_C: Tensor, row_E: Tensor, at_E: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    scores_CM = these_CD @ those_MD.T / temperature
    scores_CM = scores_CM.index_put((row_E, at_E), scores_CM.new_tensor(-torch.inf))
    nearest_C = (scores_CM.argmax(-1) == targets_C).to(scores_CM.dtype)
    return cross_entropy(scores_CM, targets_C, reduction="none"), nearest_C
