"""How well do the vectors of what is held out find their documents, while a model trains?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.pack import PackedRow
from ptw.data.pair import Pairs
from ptw.evals.retrieval import figures
from ptw.evals.rows import dealt, forward_of, groups
from ptw.train import held_out
from ptw.train.vectors import Embed, gathered

if TYPE_CHECKING:
    from ptw.train.run import Run


def measure(run: Run, model: nn.Module, embed: Embed, widths: Sequence[int]) -> None:
    """To metrics.jsonl, where something is held out: each query among all documents of the eval_dataset."""
    if not run.holds_out:
        return
    with run.off_the_clock():
        model.eval()
        vectors_KD, rows = _held_out(run, embed)
        model.train()
        found = None
        if run.group.first:
            found = figures(vectors_KD, Pairs.of(rows), widths, run.group.device)
        found = run.group.shared(found)
    run.log(**{f"held_out_{name}": value for name, value in found.items()})


@torch.no_grad()
def _held_out(run: Run, embed: Embed) -> tuple[Tensor, list[PackedRow]]:
    """Vectors of all documents, in CPU memory, and the rows that they are of; the first worker has them."""
    group, found, rows = run.group, list[Tensor](), list[PackedRow]()
    with closing(held_out.rows_of(run)) as stream:
        for together in groups(stream, held_out.at_once(run) * group.data_world):
            forward = forward_of(dealt(together, group.data_rank, group.data_world), group.device)
            vectors_KD = gathered(embed(forward), together, group)
            if group.first:
                found.append(vectors_KD.cpu())
                rows += together
    return torch.cat(found or [torch.empty(0, 1)]), rows
