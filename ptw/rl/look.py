"""What does the trainer hold of each token that was drawn, with the weights that drew it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ptw.data.pack import IGNORED
from ptw.nn.head import Head
from ptw.nn.nucleus import Drawable, drawable, log_probs_among
from ptw.ports import adapter
from ptw.ports.parallel import reshard
from ptw.rl.answers import Judged
from ptw.rl.gap import Gap
from ptw.rl.settings import RolloutSettings
from ptw.train.feed import Batch, StepRows, batches
from ptw.train.run import Run


class Read(NamedTuple):
    """Of the M learnt tokens of a batch: what the head makes of them."""

    head: Head
    hidden_MD: Tensor
    targets_M: Tensor

    def log_probs(self, temperature: float, among: Drawable | None) -> Tensor:
        return log_probs_among(self.head, self.hidden_MD, self.targets_M, temperature, among)


@contextmanager
def read(run: Run, model: nn.Module, batch: Batch) -> Iterator[Read]:
    """Without dropout: the engine has none, nor may what was drawn differ from what is learnt by chance."""
    model.eval()
    with run.computing():
        hidden_BTD = model(batch.ids_BT, batch.layout)
        learnt = batch.targets_BT != IGNORED
        yield Read(model.head(), hidden_BTD[learnt], batch.targets_BT[learnt])  # type: ignore[operator]


def log_probs(run: Run, model: nn.Module, batch: Batch, told: Sequence[Judged], temperature: float) -> Tensor:
    """(M,) of the tokens of these answers, which are the batch's, among what each could be drawn from."""
    parts = [one.among for one in told if one.among is not None]
    with read(run, model, batch) as found:
        return found.log_probs(temperature, Drawable.joined(parts) if parts else None)


@torch.no_grad()
def look_back(
    run: Run,
    settings: RolloutSettings,
    model: nn.Module,
    reference: nn.Module | None,
    step: StepRows,
    told: Mapping[str, Judged],
) -> None:
    """Write it down with each answer of the step; PtwError where the engine holds the answers too far apart.

    All workers call it together, while the model has the weights that drew. All are told of all answers, for
    a run may go on with other workers.
    """
    gap, heat = Gap(settings.most_gap), settings.temperature
    own: dict[str, tuple[Tensor, Tensor, Drawable | None]] = {}
    for batch in batches(step, settings.rows_at_once, run.group):
        samples = [sample for row in batch.rows for sample in row.samples]
        counts = [len(told[sample].answer.drawn.ids) for sample in samples]
        with read(run, model, batch) as found:
            among = drawable(*found, heat, settings.top_p, settings.top_k)
            before = found.log_probs(heat, among).float().cpu().split(counts)
        seen = before
        if reference is not None:
            with adapter.without(reference), read(run, reference, batch) as found:
                seen = found.log_probs(heat, among).float().cpu().split(counts)
        kept = [None] * len(samples) if among is None else among.split(counts)
        own |= dict(zip(samples, zip(before, seen, kept, strict=True), strict=True))
        gap.add(samples, before, [told[sample].engine for sample in samples])
    reshard(model)  # an optimizer may be next
    gap.demand_small(run.group)
    for part in run.group.gathered(own):
        for sample, (before_L, reference_L, among_L) in part.items():
            one = told[sample]
            one.before, one.reference, one.among = before_L, reference_L, among_L
