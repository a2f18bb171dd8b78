"""How is a model measured while it trains, by all workers together?"""

import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.stream import Stream
from ptw.evals.loss import ROWS_AT_ONCE, summed_loss
from ptw.evals.ranking import cases, metrics_of, model_ranks, split_of
from ptw.evals.rows import Forward, dealt, forward_of, groups

if TYPE_CHECKING:
    from ptw.train.run import Run


def loss(run: "Run", model: nn.Module) -> float:
    """Mean loss of a token of the plan's eval_dataset; NaN without one."""
    plan, group = run.plan, run.group
    if plan.eval_dataset is None:
        return math.nan
    with closing(rows_of(run)) as rows, run.computing():
        own, tokens = summed_loss(model, rows, group.device, group.data_rank, group.data_world)
    total: float = group.sum(group.once(own))[0]
    return total / max(1, tokens)


@torch.no_grad()
def means(run: "Run", model: nn.Module, judge: Callable[[Forward], dict[str, Tensor]]) -> dict[str, float]:
    """Of each figure that `judge` gives for each sample, the mean over the plan's eval_dataset."""
    group, totals, samples = run.group, defaultdict[str, float](float), 0
    model.eval()
    with closing(rows_of(run)) as stream:
        for rows in groups(stream, ROWS_AT_ONCE * group.data_world):
            forward = forward_of(dealt(rows, group.data_rank, group.data_world), group.device)
            for name, values_N in judge(forward).items():
                totals[name] += values_N.double().sum().item()
            samples += sum(len(row.samples) for row in rows)
    model.train()
    summed = group.sum(*(group.once(total) for total in totals.values()))
    return {name: total / max(1, samples) for name, total in zip(totals, summed, strict=True)}


def rows_of(run: "Run") -> Stream:
    """Of the plan's eval_dataset, in order."""
    entry = run.plan.datasets[str(run.plan.eval_dataset)]
    window = run.settings.window
    return Stream(run.plan.root, entry, run.tokenizer, window=window, seed=0, epochs=1, shuffle=False)


def ranking(run: "Run", model: nn.Module) -> dict[str, float]:
    """Recall and ndcg on the validation items, which training never sees; the test's with leave_out = 1."""
    plan, group = run.plan, run.group
    entry = plan.datasets[plan.dataset]
    split = split_of(entry)
    held_out = cases(plan.root, entry, run.tokenizer, split, run.settings.window)
    with run.computing():
        place = (group.device, group.data_rank, group.data_world)
        own = model_ranks(model, held_out, run.tokenizer, run.settings.window, *place)
    return metrics_of([rank for part in group.by_batch(own) for rank in part], f"{split}_")
