"""At which place does a model put the next item of a sequence, and which items does it put first?

Every item of the catalogue is scored, those of the input are set to minus infinity. `Ranked` is all that
figures are made of, whoever ranked.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptw.data.pack import lay_out
from ptw.evals.cases import Case, Catalogue
from ptw.evals.rows import dealt, forward_of, groups
from ptw.nn.head import CHUNK_ELEMENTS, Head
from ptw.tokens.tokenizer import Tokenizer

CUTS = (5, 10)
ROWS_AT_ONCE = 8
TOKENS_AT_ONCE = 2**14  # of these rows
MISSED = 2**31


@dataclass(frozen=True)
class Ranked:
    """What came of a case: the target's rank, from 1, and the first items by their numbers, the best first.

    A ranker that gives a list only, as beams do: the rank is the place in the list, or MISSED.
    """

    rank: int
    top: tuple[int, ...] = ()


@torch.no_grad()
def scored(
    module: nn.Module,
    sequences: Iterable[Case],
    catalogue: Catalogue,
    tokenizer: Tokenizer,
    window: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    top: int = 0,
    at_once: int = ROWS_AT_ONCE,
) -> list[Ranked]:
    """What came of each sequence of this worker's share, with its first `top` items.

    `at_once`: rows of a pass, fewer where the window is long.
    """
    at_once = max(1, min(at_once, TOKENS_AT_ONCE // window))
    ids_I = torch.tensor(tokenizer.item_ids(catalogue.names), device=device)
    found: list[Ranked] = []
    for packs in groups(_packs(sequences, window), at_once * world):
        laid = [lay_out([case.input for case in pack], window, tokenizer.pad_id or 0) for pack in packs]
        forward = forward_of(dealt(laid, rank, world), device)
        hidden_BTD = module(forward.ids_BT, forward.layout)
        own = packs[rank::world]
        if own:
            ends = [(b, end - 1) for b, pack in enumerate(own) for end in _ends(pack)]
            last_ND = hidden_BTD[[b for b, _ in ends], [t for _, t in ends]]
            asked = [case for pack in own for case in pack]
            found += _by_head(module.head(), last_ND, ids_I, asked, top)  # type: ignore[operator]
    return found


def _by_head(head: Head, last_ND: Tensor, ids_I: Tensor, cases: Sequence[Case], top: int) -> list[Ranked]:
    """Some cases' scores at a time: all of a row's short sequences would not fit beside a large catalogue."""
    found: list[Ranked] = []
    step = max(1, CHUNK_ELEMENTS // len(ids_I))
    for start in range(0, len(cases), step):
        scores_NI = head.wide_logits(last_ND[start : start + step], ids_I)
        found += ranked_of(scores_NI, cases[start : start + step], top)
    return found


def ranked_of(scores_NI: Tensor, sequences: Sequence[Case], top: int = 0) -> list[Ranked]:
    """Of equal scores the target comes last, so that a constant or NaN score gains nothing."""
    place = torch.arange(len(sequences), device=scores_NI.device)
    targets_N = torch.tensor([case.target for case in sequences], device=scores_NI.device)
    lengths_N = torch.tensor([len(case.seen) for case in sequences], device=scores_NI.device)
    seen = torch.tensor([item for case in sequences for item in case.seen], device=scores_NI.device)
    scores_NI = scores_NI.clone()
    scores_NI[place.repeat_interleave(lengths_N), seen] = -torch.inf
    target_N = scores_NI[place, targets_N]
    better_N = (~(scores_NI < target_N[:, None])).sum(-1)  # the target itself among them
    ranks = torch.where(torch.isfinite(target_N), better_N, MISSED).tolist()
    if not top:
        return [Ranked(rank) for rank in ranks]
    best_NK, items_NK = scores_NI.nan_to_num(-torch.inf, torch.inf, -torch.inf).topk(
        min(top, scores_NI.shape[1])
    )
    counts = (best_NK > -torch.inf).sum(-1).tolist()
    lists = zip(ranks, items_NK.tolist(), counts, strict=True)
    return [Ranked(rank, tuple(items[:count])) for rank, items, count in lists]


def metrics_of(ranks: Sequence[int], prefix: str = "") -> dict[str, float]:
    """recall@k and ndcg@k, the means over the sequences."""
    count = max(1, len(ranks))
    found = {}
    for cut in CUTS:
        hits = [rank for rank in ranks if rank <= cut]
        found[f"{prefix}recall@{cut}"] = len(hits) / count
        found[f"{prefix}ndcg@{cut}"] = sum(1 / math.log2(rank + 1) for rank in hits) / count
    return found


def _ends(pack: Sequence[Case]) -> Iterator[int]:
    end = 0
    for case in pack:
        end += len(case.input.ids)
        yield end


def _packs(sequences: Iterable[Case], window: int) -> Iterator[list[Case]]:
    """One row's sequences after another, as many as the window takes."""
    pack: list[Case] = []
    used = 0
    for case in sequences:
        if pack and used + len(case.input.ids) > window:
            yield pack
            pack, used = [], 0
        pack.append(case)
        used += len(case.input.ids)
    if pack:
        yield pack
