"""How likely does a model hold both answers of a pair, now and before it learnt?"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.pack import IGNORED
from ptw.evals.rows import dealt, forward_of, groups
from ptw.ports import adapter
from ptw.runs.record import write_json
from ptw.train.count import Stopped
from ptw.train.judged import Rows

if TYPE_CHECKING:
    from ptw.train.run import Run

SIDES = 2  # documents of a pair: the chosen answer, then the rejected one
KEPT = "reference.json"


def of_pairs(values_BT: Tensor, batch: Rows) -> Tensor:
    """(N, 2) sums over the tokens of both documents of each pair, in the order of the samples."""
    sums = batch.layout.summed(values_BT)
    counts = [SIDES * len(row.samples) for row in batch.rows]
    return torch.cat([sums[at, :count] for at, count in enumerate(counts)]).view(-1, SIDES)


def log_probs(run: Run, model: nn.Module, batch: Rows) -> Tensor:
    """(N, 2) log-probabilities of the chosen and the rejected answer of each pair, in fp32 at least."""
    with run.computing():
        hidden_BTD = model(batch.ids_BT, batch.layout)
        head = model.head()  # type: ignore[operator]
        return of_pairs(head.log_probs(hidden_BTD, batch.targets_BT), batch)


def lengths(batch: Rows) -> Tensor:
    """(N, 2) learnt tokens of both answers of each pair."""
    return of_pairs((batch.targets_BT != IGNORED).float(), batch)


def reference(run: Run, model: nn.Module) -> Callable[[Rows], Tensor]:
    """`log_probs` of the model that training begins with.

    Under an adapter that is the model without it. Else each pair that training or measuring will meet is
    computed once, before the first step, and kept in the run's folder.
    """
    if run.settings.adapter != "none":

        @torch.no_grad()
        def beneath(batch: Rows) -> Tensor:
            with adapter.without(model):
                return log_probs(run, model, batch)

        return beneath
    kept = _kept(run, model)

    def looked_up(batch: Rows) -> Tensor:
        found = [kept[sample] for row in batch.rows for sample in row.samples]
        return torch.tensor(found, dtype=torch.float32, device=run.group.device).view(-1, SIDES)

    return looked_up


def _kept(run: Run, model: nn.Module) -> dict[str, list[float]]:
    """By sample; of what an earlier start of the run wrote down, or computed now."""
    file = run.plan.run_folder() / KEPT
    known = run.group.shared(json.loads(file.read_text()) if run.group.first and file.is_file() else None)
    if known is None:
        run.ledger.say("the reference's log-probabilities are computed, once")
        known = _computed(run, model)
        if run.group.first:
            write_json(file, known)
        run.ledger.say(f"the reference's log-probabilities of {len(known):,} pairs are in {KEPT}")
    found: dict[str, list[float]] = known
    return found


@torch.no_grad()
def _computed(run: Run, model: nn.Module) -> dict[str, list[float]]:
    group, found = run.group, dict[str, list[float]]()
    model.eval()
    for rows in groups(run.rows_ahead(), run.settings.rows_at_once * group.data_world):
        if group.sum(float(run.is_asked_to_stop()))[0]:
            raise Stopped
        batch = forward_of(dealt(rows, group.data_rank, group.data_world), group.device)
        samples = [sample for row in batch.rows for sample in row.samples]
        found |= zip(samples, log_probs(run, model, batch).float().tolist(), strict=True)
    model.train()
    return {sample: pair for part in group.by_batch(found) for sample, pair in part.items()}
