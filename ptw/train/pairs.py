"""How likely does a model hold both answers of a pair, now and before it learnt?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.pack import IGNORED
from ptw.ports import adapter
from ptw.train.judged import Rows, of_documents
from ptw.train.kept import Values, kept

if TYPE_CHECKING:
    from ptw.train.run import Run

SIDES = 2  # documents of a pair: the chosen answer, then the rejected one
KEPT = "reference"


def of_pairs(values_BT: Tensor, batch: Rows) -> Tensor:
    """(N, 2) sums over the tokens of both documents of each pair, in the order of the samples."""
    return of_documents(values_BT, batch).view(-1, SIDES)


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

    def measured(batch: Rows) -> dict[str, Values]:
        samples = [sample for row in batch.rows for sample in row.samples]
        return {
            sample: {"log_probs": pair_2.float()}
            for sample, pair_2 in zip(samples, log_probs(run, model, batch), strict=True)
        }

    model.eval()
    found = kept(run, KEPT, measured)
    model.train()

    def looked_up(batch: Rows) -> Tensor:
        pairs = [found[sample]["log_probs"] for row in batch.rows for sample in row.samples]
        return torch.cat([torch.empty(0), *pairs]).to(run.group.device).view(-1, SIDES)

    return looked_up
