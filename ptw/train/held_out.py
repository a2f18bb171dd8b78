"""How is a model measured while it trains, by all workers together?"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.stream import Stream
from ptw.evals.cases import cases, catalogue_of, count, evenly, split_of
from ptw.evals.loss import ROWS_AT_ONCE, summed_loss
from ptw.evals.ranker import model_ranked
from ptw.evals.ranking import metrics_of
from ptw.evals.rows import Forward, dealt, forward_of, groups
from ptw.workspace.manifest import DatasetEntry

if TYPE_CHECKING:
    from ptw.train.run import Run


def losses(run: "Run", model: nn.Module) -> dict[str, float]:
    """Mean loss of a token of the plan's eval_dataset; of a mix that of each part, too, by its name."""
    entry = run.plan.datasets[str(run.plan.eval_dataset)]
    found = {"held_out_loss": _loss(run, model, rows_of(run))}
    for share in entry.mix:
        found[f"held_out_loss_{share.dataset.name}"] = _loss(run, model, _rows_of(run, share.dataset))
    return found


def _loss(run: "Run", model: nn.Module, rows: Stream) -> float:
    group = run.group
    with closing(rows), run.computing():
        place = (group.device, group.data_rank, group.data_world)
        own, tokens = summed_loss(model, rows, *place, at_once=at_once(run))
    total: float = group.sum(group.once(own))[0]
    return total / max(1, tokens)


@torch.no_grad()
def means(run: "Run", model: nn.Module, judge: Callable[[Forward], dict[str, Tensor]]) -> dict[str, float]:
    """Of each figure that `judge` gives for each sample, the mean over the plan's eval_dataset."""
    group, totals, samples = run.group, defaultdict[str, float](float), 0
    model.eval()
    with closing(rows_of(run)) as stream:
        for rows in groups(stream, at_once(run) * group.data_world):
            forward = forward_of(dealt(rows, group.data_rank, group.data_world), group.device)
            for name, values_N in judge(forward).items():
                totals[name] += values_N.double().sum().item()
            samples += sum(len(row.samples) for row in rows)
    model.train()
    summed = group.sum(*(group.once(total) for total in totals.values()))
    return {name: total / max(1, samples) for name, total in zip(totals, summed, strict=True)}


def at_once(run: "Run") -> int:
    """Rows of a pass of a worker: no more than fit where it trains."""
    return min(ROWS_AT_ONCE, run.settings.rows_at_once)


def rows_of(run: "Run") -> Stream:
    """Of the plan's eval_dataset, in order."""
    return _rows_of(run, run.plan.datasets[str(run.plan.eval_dataset)])


def _rows_of(run: "Run", entry: DatasetEntry) -> Stream:
    window = run.settings.read_window
    return Stream(run.plan.root, entry, run.tokenizer, window=window, seed=0, epochs=1, shuffle=False)


def ranking(run: "Run", model: nn.Module, most: int | None) -> dict[str, float]:
    """Recall and ndcg on the validation items, which training never sees; the test's with leave_out = 1."""
    plan, group = run.plan, run.group
    entry = plan.datasets[plan.dataset]
    split = split_of(entry)
    catalogue, window = catalogue_of(run.tokenizer), run.settings.window
    # of millions of sequences only those that are measured are made
    chosen = None if most is None else evenly(count(plan.root, entry, split), most)
    held_out = cases(plan.root, entry, run.tokenizer, catalogue, split, window, chosen=chosen)
    with run.computing():
        place = (group.device, group.data_rank, group.data_world)
        ranked = model_ranked(model, held_out, catalogue, run.tokenizer, window, *place, at_once=at_once(run))
        own = [one.rank for one in ranked]
    return metrics_of([rank for part in group.by_batch(own) for rank in part], f"{split}_")
