"""Supervised fine-tuning: next-token cross entropy on the answer tokens only."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ptw.train.run import Run
from ptw.train.settings import NextTokenSettings

FORMATS = ("chat", "text", "event")


@dataclass(frozen=True)
class Settings(NextTokenSettings):
    pass


def train(run: Run, settings: Settings) -> None:
    model, optimizer = run.model(), run.optimizer()
    for batch in run.batches():
        if run.due():
            measure(run, model)
        loss = run.mean_loss(model, batch, label_smoothing=settings.label_smoothing, z_loss=settings.z_loss)
        run.step(optimizer, loss)
    measure(run, model)
    run.save(model)


def measure(run: Run, model: nn.Module) -> None:
    """The held-out loss before, during and after."""
    if run.holds_out:
        run.log(**run.held_out_losses(model))
