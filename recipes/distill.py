"""Distillation: a student learns a teacher's distribution of every next token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ptw.train import demand, own, teach
from ptw.train.divergence import Divergence
from ptw.train.judged import Rows, of_documents
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings

FORMATS = ("chat", "text", "event")
ROLES = ("teacher",)


@dataclass(frozen=True)
class Settings(TrainingSettings):
    """Hinton et al., 2015; on_policy, reverse and jsd: Agarwal et al., 2024 (GKD)."""

    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    jsd_beta: float = 0.5  # weight of the teacher's side; near 0 as forward, near 1 as reverse
    temperature: float = 1.0  # of both distributions
    hard: float = 0.0  # which part of the loss is the cross entropy of the data's own tokens
    top_k: int | None = None  # the teacher's likeliest tokens, computed once; without it: all, at each step
    on_policy: float = 0.0  # which part of the steps learns on answers that the student draws
    max_new_tokens: int = 256  # of such an answer

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.above_zero(temperature=self.temperature)
        demand.inside(jsd_beta=self.jsd_beta)
        demand.share(hard=self.hard, on_policy=self.on_policy)
        demand.positive(top_k=1 if self.top_k is None else self.top_k, max_new_tokens=self.max_new_tokens)
        demand.only_with("top_k", None, self.top_k, on_policy=self.on_policy)
        demand.only_with("compile", False, self.compile, on_policy=self.on_policy)


def train(run: Run, settings: Settings) -> None:
    if settings.on_policy:
        own.demand_sense(run, f"on_policy = {settings.on_policy}")
    model = run.model()
    kept = settings.top_k
    teacher = teach.present(run) if kept is None else teach.stored(run, kept, settings.temperature)
    form = Divergence(settings.divergence, settings.temperature, settings.jsd_beta)

    def losses(rows: Rows) -> tuple[Tensor, Tensor]:
        return teach.losses(run, model, rows, teacher(rows), form, settings.hard)

    optimizer = run.optimizer()
    for batch in run.batches():
        if run.due():
            measure(run, model, losses)
        if own.is_due(run, settings.on_policy):
            rows = own.answers(run, model, batch, settings.max_new_tokens)
            loss, far = (means(found, rows).sum() / len(batch.step.samples) for found in losses(rows))
        else:
            loss, far = (found.sum() / max(1, batch.step.learnt) for found in losses(batch))
        run.step(optimizer, loss, divergence=far)
    measure(run, model, losses)
    run.save(model)


def means(found_BT: Tensor, rows: Rows) -> Tensor:
    """(N,) of each sample's learnt tokens: however long, it weighs the same; 0 of one without any."""
    return of_documents(found_BT, rows) / of_documents((rows.targets_BT >= 0).float(), rows).clamp(min=1)


def measure(run: Run, model: nn.Module, losses: Callable[[Rows], tuple[Tensor, Tensor]]) -> None:
    """How far the student is from the teacher on what is held out, and its loss there."""
    if run.holds_out:
        found = run.held_out_means(model, lambda rows: {"divergence": means(losses(rows)[1], rows)})
        run.log(**found, **run.held_out_losses(model))
