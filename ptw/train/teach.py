"""What does a teacher say of the tokens that a student is to learn?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.data.pack import IGNORED
from ptw.errors import PtwError
from ptw.evals.rows import Forward
from ptw.nn.head import Head
from ptw.train.divergence import Divergence, Present, Stored, Teaching, divergences
from ptw.train.judged import Rows, of_documents
from ptw.train.kept import Values, kept
from ptw.train.roles import open_role

if TYPE_CHECKING:
    from ptw.train.run import Run

ROLE = "teacher"

Teacher = Callable[[Rows], Teaching]  # of the learnt tokens of a batch, row by row


def present(run: Run) -> Teacher:
    """The teacher in memory beside the student, asked at each step."""
    model = open_role(run, ROLE)

    @torch.no_grad()
    def teaching(batch: Rows) -> Present:
        with run.computing():
            hidden_BTD = model(batch.ids_BT, batch.layout)
        head: Head = model.head()  # type: ignore[operator]
        return Present(hidden_BTD[batch.targets_BT != IGNORED], head)

    return teaching


def stored(run: Run, most_likely: int, temperature: float) -> Teacher:
    """The teacher's likeliest tokens, computed once before the first step; then it leaves memory."""
    vocabulary = run.tokenizer.size
    if most_likely >= vocabulary:
        raise PtwError(
            f"settings: top_k = {most_likely}: the tokenizer has {vocabulary} tokens; set it lower"
        )
    teachers: list[Teacher] = []  # opened only where there is something to compute

    def said(batch: Forward) -> dict[str, Values]:
        if not teachers:
            teachers.append(present(run))
        with run.computing():
            found = Stored.of(teachers[0](batch), vocabulary, most_likely, temperature)  # type: ignore[arg-type]
        counts = of_documents((batch.targets_BT != IGNORED).long(), batch).tolist()
        samples = [sample for row in batch.rows for sample in row.samples]
        parts = zip(samples, found.ids_MK.split(counts), found.log_probs_MK.split(counts), strict=True)
        return {sample: {"ids": ids.int(), "log_probs": probs.float()} for sample, ids, probs in parts}

    found = kept(run, ROLE, said)
    teachers.clear()
    device = run.group.device

    def teaching(batch: Rows) -> Stored:
        values = [found[sample] for row in batch.rows for sample in row.samples]
        ids = [torch.empty(0, most_likely), *(value["ids"] for value in values)]
        log_probs = [torch.empty(0, most_likely + 1), *(value["log_probs"] for value in values)]
        return Stored(torch.cat(ids).to(device, torch.int64), torch.cat(log_probs).to(device))

    return teaching


def losses(
    run: Run, model: nn.Module, batch: Rows, teaching: Teaching, form: Divergence, hard: float
) -> tuple[Tensor, Tensor]:
    """(B, T) of each learnt token its loss, and its divergence from what the teacher says; 0 elsewhere.

    hard: the part of the loss that is the cross entropy of the token that the data has.
    """
    learnt_BT = batch.targets_BT != IGNORED
    with run.computing():
        hidden_BTD = model(batch.ids_BT, batch.layout)
        head: Head = model.head()  # type: ignore[operator]
        far_M = divergences(hidden_BTD[learnt_BT], head, teaching, form, run.tokenizer.size)
        far_BT = far_M.new_zeros(learnt_BT.shape).masked_scatter(learnt_BT, far_M)
        if not hard:
            return far_BT, far_BT
        return (1 - hard) * far_BT - hard * head.log_probs(hidden_BTD, batch.targets_BT), far_BT
