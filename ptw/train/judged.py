"""How does a model learn from a judgement of each sample, whatever is judged?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ptw.evals.rows import Forward, of_documents
from ptw.train.feed import Batch

if TYPE_CHECKING:
    from ptw.train.run import Run

__all__ = ["Judge", "Rows", "learn", "measure", "of_documents"]

Rows = Forward | Batch
Judge = Callable[[Rows], dict[str, Tensor]]  # of each sample: its loss, and figures to look at


def learn(run: Run, model: nn.Module, judge: Judge) -> None:
    """Steps on the mean of the samples' losses; what is held out is judged before, when due and after."""
    optimizer = run.optimizer()
    for batch in run.batches():
        if run.due():
            measure(run, model, judge)
        shares = {name: values_N.sum() / len(batch.step.samples) for name, values_N in judge(batch).items()}
        run.step(optimizer, shares.pop("loss"), **shares)
    measure(run, model, judge)
    run.save(model)


def measure(run: Run, model: nn.Module, judge: Judge) -> None:
    if run.holds_out:
        run.log(**run.held_out_means(model, judge))
