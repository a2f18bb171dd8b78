"""How is a model measured while it trains, by all workers together?"""

import math
from typing import TYPE_CHECKING

from torch import nn

from ptw.data.stream import Stream
from ptw.evals.loss import summed_loss
from ptw.evals.ranking import cases, metrics_of, model_ranks, split_of

if TYPE_CHECKING:
    from ptw.train.run import Run


def loss(run: "Run", model: nn.Module) -> float:
    """Mean loss of a token of the plan's eval_dataset; NaN without one."""
    plan, group = run.plan, run.group
    if plan.eval_dataset is None:
        return math.nan
    entry = plan.datasets[plan.eval_dataset]
    rows = Stream(plan.root, entry, run.tokenizer, window=run.window, seed=0, epochs=1, shuffle=False)
    with run.computing():
        own, tokens = summed_loss(model, rows, group.device, group.data_rank, group.data_world)
    rows.close()
    total: float = group.sum(group.once(own))[0]
    return total / max(1, tokens)


def ranking(run: "Run", model: nn.Module) -> dict[str, float]:
    """Recall and ndcg on the validation items, which training never sees; the test's with leave_out = 1."""
    plan, group = run.plan, run.group
    entry = plan.datasets[plan.dataset]
    split = split_of(entry)
    held_out = cases(plan.root, entry, run.tokenizer, split, run.window)
    with run.computing():
        place = (group.device, group.data_rank, group.data_world)
        own = model_ranks(model, held_out, run.tokenizer, run.window, *place)
    return metrics_of([rank for part in group.by_batch(own) for rank in part], f"{split}_")
