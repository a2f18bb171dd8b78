"""Another head in place of words: one of a catalogue's items, any of several labels, or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ptw.train import classes, demand, scored
from ptw.train.judged import Rows, learn
from ptw.train.run import Run
from ptw.train.settings import SampledSettings

FORMATS = ("labelled",)
FILES = ("catalogue",)


@dataclass(frozen=True)
class Settings(SampledSettings):
    head: Literal["items", "labels", "number"]  # one of the items; any of the labels; one number, or several
    catalogue: str | None = None  # a file with an `id` a row: the items or labels, in the order of the scores
    labels: list[str] | None = None  # in place of a file, their names; of several numbers theirs

    def demand_sense(self) -> None:
        super().demand_sense()
        classes.demand_sense(self.head, self.catalogue, self.labels)
        if self.sampled is not None and self.head != "items":
            demand.refuse("sampled", self.sampled, 'it has an effect with head = "items" only; leave it out')


def train(run: Run, settings: Settings) -> None:
    known = classes.classes_of(run.plan, settings.head, settings.catalogue, settings.labels)
    model = run.model(scores=known.scores)
    drawn = classes.drawing(run, settings, lambda: classes.label_counts(run.plan, known))

    def judged(batch: Rows) -> dict[str, Tensor]:
        targets = known.targets(batch.rows, batch.ids_BT.device)
        if settings.head == "items":
            hidden_ND = scored.pooled(run, model, batch)
            with run.computing():
                return one_of(model, hidden_ND, targets, drawn)
        scores_NL = scored.scores(run, model, batch)
        return any_of(scores_NL, targets) if settings.head == "labels" else numbers(scores_NL, targets)

    learn(run, model, judged)


def one_of(
    model: nn.Module, hidden_ND: Tensor, targets_N: Tensor, drawn: classes.Drawing
) -> dict[str, Tensor]:
    """Cross entropy over all items, or over those that are drawn; what is held out is held against all."""
    head, learning = model.head(), torch.is_grad_enabled()  # type: ignore[operator]
    if learning and (others := drawn()) is not None:
        return {"loss": head.sampled_losses(hidden_ND[None], targets_N[None], others)}
    loss_N = -head.log_probs(hidden_ND[None], targets_N[None])[0]
    return {"loss": loss_N, **({} if learning else classes.found(head, hidden_ND, targets_N))}


def any_of(scores_NL: Tensor, targets_NL: Tensor) -> dict[str, Tensor]:
    """Binary cross entropy, the mean over the labels; f1 of each sample's labels, at a probability of 1/2."""
    loss_NL = binary_cross_entropy_with_logits(scores_NL, targets_NL, reduction="none")
    said_NL = (scores_NL > 0).to(targets_NL.dtype)
    right_N, either_N = (said_NL * targets_NL).sum(-1), (said_NL + targets_NL).sum(-1)
    f1_N = torch.where(either_N > 0, 2 * right_N / either_N.clamp(min=1), 1.0)
    return {"loss": loss_NL.mean(-1), "sample_f1": f1_N}


def numbers(scores_NL: Tensor, targets_NL: Tensor) -> dict[str, Tensor]:
    """Squared error, the mean over the numbers."""
    away_NL = scores_NL - targets_NL
    return {"loss": away_NL.square().mean(-1), "absolute_error": away_NL.detach().abs().mean(-1)}
