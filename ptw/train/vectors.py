"""Which vector does a model give a text, and which do all workers' models give those of a whole step?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.evals.retrieval import Pooling, pooled
from ptw.train.chance import random_state, restore_random
from ptw.train.contrast import Compared
from ptw.train.feed import Batch, batches
from ptw.train.group import Group
from ptw.train.judged import Rows
from ptw.train.settings import TrainingSettings

if TYPE_CHECKING:
    from ptw.train.run import Run

Embed = Callable[[Rows], Tensor]
Judge = Callable[[Tensor, Compared], dict[str, Tensor]]  # of all vectors of a step: its loss, and figures


def demand_same_dropout(settings: TrainingSettings) -> None:
    """PtwError where dropout could not be drawn again: a compiled block draws otherwise without a graph."""
    if settings.compile and settings.lora_dropout:
        raise PtwError(
            f"settings: lora_dropout = {settings.lora_dropout} beside compile = true: vectors are computed "
            "twice, and would drop other parts each time; set lora_dropout = 0, or compile = false"
        )


def embedder(run: Run, model: nn.Module, pooling: Pooling) -> Embed:
    """(K, D) vectors of the documents of a batch's samples, in fp32 at least; their lengths mean nothing."""

    def embed(batch: Rows) -> Tensor:
        with run.computing():
            hidden_BTD = model(batch.ids_BT, batch.layout)
        return pooled(hidden_BTD, batch, pooling)

    return embed


def widths_of(model: nn.Module, widths: Sequence[int] | None) -> list[int]:
    """The full width of the model's vectors, then the shorter ones; PtwError for one that can't be."""
    full = model.head().weight_VD.shape[1]  # type: ignore[operator]
    for width in widths or ():
        if not 1 <= width <= full:
            raise PtwError(
                f"settings: widths: {width} is none of a vector of {full}: set it from 1 to {full}"
            )
    return sorted({full, *(widths or ())}, reverse=True)


class Whole:
    """Shares of a loss that is of all vectors of a step at once, however many passes and workers it has.

    GradCache (Gao et al., 2021): the vectors are computed without a graph, which holds one pass only; the
    loss and its gradient by each vector are computed of all; then each pass computes its vectors again, and
    hands them their gradients. That is the plain gradient. A worker whose step is one pass computes it once.
    """

    def __init__(self, run: Run, embed: Embed, judge: Judge) -> None:
        self._run, self._embed, self._judge = run, embed, judge
        self._said: dict[str, Tensor] = {}
        self._gradient_KD = torch.empty(0)  # by this worker's vectors of the passes to come
        self._documents = 0  # of the step

    def shares(self, batch: Batch) -> dict[str, Tensor]:
        """For `run.step`: shares of what the judge says, by name. That of `loss` has the gradient."""
        vectors_KD = self._begin(batch) if batch.first else self._embed(batch)
        gradient_KD = self._gradient_KD[: len(vectors_KD)]
        self._gradient_KD = self._gradient_KD[len(vectors_KD) :]
        part = len(vectors_KD) / self._documents
        shares = {name: value * part for name, value in self._said.items()}
        follows = (vectors_KD * gradient_KD).sum()
        return shares | {"loss": shares["loss"] + (follows - follows.detach())}

    def _begin(self, batch: Batch) -> Tensor:
        """The vectors of the step's first pass, once the loss of the whole step is known."""
        if batch.last:
            vectors_KD = self._embed(batch)
            self._compare(batch, vectors_KD.detach())
            return vectors_KD
        run, begun = self._run, random_state()
        with torch.no_grad():
            passes = batches(batch.step, run.settings.rows_at_once, run.group)
            found = [self._embed(one) for one in passes]
        self._compare(batch, torch.cat(found))
        restore_random(begun)  # what dropout drew is drawn again
        return self._embed(batch)

    def _compare(self, batch: Batch, own_KD: Tensor) -> None:
        """Keeps the gradient by each of this worker's vectors, in the order of its passes."""
        rows, group = batch.step.rows, self._run.group
        all_KD = gathered(own_KD, rows, group).requires_grad_()
        said = self._judge(all_KD, Compared.of(rows, all_KD.device))
        (gradient_KD,) = torch.autograd.grad(said["loss"], all_KD)
        self._said = {name: value.detach() for name, value in said.items()}
        self._gradient_KD, self._documents = gradient_KD[_places(rows, group)], len(all_KD)


def gathered(own_KD: Tensor, rows: Sequence[PackedRow], group: Group) -> Tensor:
    """(K, D) vectors of all documents of the rows, from those of the rows that each worker is dealt."""
    if group.world == 1:
        return own_KD
    all_KD = own_KD.new_zeros(sum(sum(row.documents) for row in rows), own_KD.shape[1])
    if group.answers:
        all_KD[_places(rows, group)] = own_KD
    return group.added(all_KD)


def _places(rows: Sequence[PackedRow], group: Group) -> list[int]:
    """Where among all documents of the rows those lie of the rows that this worker is dealt."""
    ends = list(accumulate(sum(row.documents) for row in rows))
    spans = [range(end - sum(row.documents), end) for end, row in zip(ends, rows, strict=True)]
    return [place for span in spans[group.data_rank :: group.data_world] for place in span]
