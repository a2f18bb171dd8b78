"""Does a model rank the next item of a sequence high, and higher than popularity does?

Protocol: the test is a sequence's last item, its input all before it; the validation is the last but one.
Every item of the catalogue is scored, those of the input are set to minus infinity; means are over all
sequences.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ptw.data.pack import lay_out
from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.rows import dealt, forward_of, groups
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

Split = Literal["validation", "test"]
BACK: dict[Split, int] = {"test": 1, "validation": 2}  # the how manieth last item is the target
CUTS = (5, 10)
ROWS_AT_ONCE = 8
MISSED = 2**31


@dataclass(frozen=True)
class Case:
    """One sequence: what is known of it, and which item comes next."""

    input: Sample
    seen: tuple[int, ...]  # the whole input's items, also those that the window cuts off
    target: int


def split_of(dataset: DatasetEntry) -> Split:
    """What may be measured while training: the last but one where it is held out, else the last."""
    if dataset.format != "event" or dataset.leave_out < 1:
        raise PtwError(
            f"dataset {dataset.name}: ranking needs events that were held out; "
            'give it format = "event" and leave_out = 2'
        )
    return "validation" if dataset.leave_out >= BACK["validation"] else "test"


def cases(
    root: Path, dataset: DatasetEntry, tokenizer: Tokenizer, split: Split, window: int
) -> Iterator[Case]:
    """Sequences with at least one item before the target; of an input the newest items fit the window."""
    shown = dataclasses.replace(dataset, leave_out=BACK[split] - 1)
    for row in rows(root, dataset.source):
        whole = render(row, shown, tokenizer)
        ids = whole.ids.tolist()
        first = 0 if tokenizer.bos_id is None else 1
        if len(ids) < first + 2:
            continue
        kept = np.array(ids[:first] + ids[first:-1][first - window :], dtype=np.int32)
        yield Case(Sample(whole.id, kept, np.zeros(len(kept), bool)), tuple(ids[first:-1]), ids[-1])


def catalogue(tokenizer: Tokenizer) -> Tensor:
    """(V,) which ids are items."""
    items = torch.ones(tokenizer.size, dtype=torch.bool)
    items[sorted(tokenizer.special_ids)] = False
    return items


@torch.no_grad()
def model_ranks(
    module: nn.Module,
    sequences: Iterable[Case],
    tokenizer: Tokenizer,
    window: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> list[int]:
    """The target's rank, from 1, in each sequence of this worker's share."""
    items_V = catalogue(tokenizer).to(device)
    training = module.training
    module.eval()
    ranks: list[int] = []
    for packs in groups(_packs(sequences, window), ROWS_AT_ONCE * world):
        laid = [lay_out([case.input for case in pack], window, tokenizer.pad_id or 0) for pack in packs]
        forward = forward_of(dealt(laid, rank, world), device)
        hidden_BTD = module(forward.ids_BT, forward.layout)
        own = packs[rank::world]
        if own:
            ends = [(b, end - 1) for b, pack in enumerate(own) for end in _ends(pack)]
            last_ND = hidden_BTD[[b for b, _ in ends], [t for _, t in ends]]
            scores_NV = module.head().logits(last_ND).float()  # type: ignore[operator]
            ranks += ranks_of(scores_NV[:, : len(items_V)], [case for pack in own for case in pack], items_V)
    module.train(training)
    return ranks


def popularity_ranks(
    sequences: Iterable[Case], root: Path, dataset: DatasetEntry, tokenizer: Tokenizer
) -> list[int]:
    """The same for the baseline that knows only how often an item stands in the training part."""
    count: Counter[int] = Counter()
    for row in rows(root, dataset.source):
        count.update(render(row, dataset, tokenizer).ids.tolist())
    items_V = catalogue(tokenizer)
    # equally popular items stand in catalogue order, so that ties are no misses
    scores_V = torch.tensor([float(count[i]) for i in range(len(items_V))], dtype=torch.float64)
    scores_V -= torch.arange(len(items_V)) / (2 * len(items_V))
    ranks: list[int] = []
    for chunk in groups(sequences, 256):
        ranks += ranks_of(scores_V.expand(len(chunk), -1).clone(), chunk, items_V)
    return ranks


def ranks_of(scores_NV: Tensor, sequences: Sequence[Case], items_V: Tensor) -> list[int]:
    """Ranks from 1. Of equal scores the target comes last, so that a constant or NaN score gains nothing."""
    scores_NV = scores_NV.masked_fill(~items_V, -torch.inf)
    place = torch.arange(len(sequences), device=scores_NV.device)
    targets_N = torch.tensor([case.target for case in sequences], device=scores_NV.device)
    lengths_N = torch.tensor([len(case.seen) for case in sequences], device=scores_NV.device)
    seen = torch.tensor([item for case in sequences for item in case.seen], device=scores_NV.device)
    scores_NV[place.repeat_interleave(lengths_N), seen] = -torch.inf
    target_N = scores_NV[place, targets_N]
    better_N = (~(scores_NV < target_N[:, None])).sum(-1)  # the target itself among them
    found_N = torch.isfinite(target_N)
    return torch.where(found_N, better_N, MISSED).tolist()


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
