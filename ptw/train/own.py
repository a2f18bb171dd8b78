"""What would the model that learns have answered itself, in place of the answers of the data?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ptw.data.pack import IGNORED, PackedRow, lay_out
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.rows import Forward, empty, forward_of
from ptw.nn.decode import generate
from ptw.train import demand
from ptw.train.feed import Batch

if TYPE_CHECKING:
    from ptw.train.run import Run


def demand_sense(run: Run, setting: str) -> None:
    """PtwError where the data has no answers to put others in place of, or workers share a batch."""
    demand.format_of_data(run.plan, "chat", setting)
    if run.group.tensor > 1:
        raise PtwError(
            f"settings: {setting}: each worker draws its own answers; set tensor = 1 of the cluster"
        )


def is_due(run: Run, part: float) -> bool:
    """Whether the step that is computed now is one of these, which are `part` of all: drawn by its number."""
    return random.Random(f"{run.settings.seed} own {run.steps_done}").random() < part


def answers(run: Run, model: nn.Module, batch: Batch, max_new_tokens: int) -> Forward:
    """The batch's samples with a drawn answer in place of their last one, which alone is learnt.

    Each at most as long as the window has room for. Every worker calls this together, and draws as often.
    """
    window, tokenizer = run.settings.window, run.tokenizer
    prompts = [prompt for row in batch.rows if row.samples for prompt in prompts_of(row)]
    drawn = generate(
        model.eval(),
        prompts or [[0]],  # a worker without a sample computes along
        max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        temperature=1.0,
        seed=random.Random(f"{run.settings.seed} {run.steps_done} {run.group.data_rank}").getrandbits(63),
        allowed_ids=tokenizer.answer_ids,
        agreed=lambda going: run.group.sum(float(going))[0] > 0,
        room=[window - len(prompt) for prompt in prompts] or None,
    )
    model.train()
    samples = [
        Sample("", np.array([*prompt, *new], np.int32), np.arange(len(prompt) + len(new)) >= len(prompt))
        for prompt, new in zip(prompts, drawn, strict=False)
    ]
    return forward_of(list(_rows(samples, window)) or [empty(window)], run.group.device)


def prompts_of(row: PackedRow) -> Iterator[list[int]]:
    """Of each document, what stands before the last of its answers."""
    begin = 0
    for length in row.lengths:
        learnt = row.targets[begin : begin + length] != IGNORED
        before = int(np.flatnonzero(learnt & ~np.append(False, learnt[:-1]))[-1])
        yield row.ids[begin : begin + before + 1].tolist()
        begin += length


def _rows(samples: list[Sample], window: int) -> Iterator[PackedRow]:
    """As they come: what they are packed with is drawn anew each time."""
    row: list[Sample] = []
    for sample in samples:
        if sum(len(one.ids) for one in row) + len(sample.ids) > window:
            yield lay_out(row, window, 0)
            row = []
        row.append(sample)
    if row:
        yield lay_out(row, window, 0)
