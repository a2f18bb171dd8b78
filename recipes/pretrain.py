"""Pre-training: next-token cross entropy on every token of texts, or next-item on sequences of events."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ptw.train import classes, demand
from ptw.train.run import Run
from ptw.train.settings import NextTokenSettings, SampledSettings

FORMATS = ("chat", "text", "event")


@dataclass(frozen=True)
class Settings(NextTokenSettings, SampledSettings):
    window: int = 512  # tokens of a packed row
    learning_rate: float = 1e-3
    warmup: int = 20  # steps
    weight_decay: float = 0.1
    eval_sequences: int | None = None  # events: rank so many of the held-out ones, evenly taken; None: all
    keep_best: bool = False  # events: save the model of the best validation ndcg@10, not the last

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.positive(eval_sequences=1 if self.eval_sequences is None else self.eval_sequences)
        alone = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        demand.only_with("sampled", None, self.sampled, **alone)


def train(run: Run, settings: Settings) -> None:
    model, optimizer = run.model(), run.optimizer()
    drawn = classes.drawing(run, settings, lambda: classes.target_counts(run))
    form = {"label_smoothing": settings.label_smoothing, "z_loss": settings.z_loss}
    for batch in run.batches():
        if run.due():
            measure(run, model, settings)
        run.step(optimizer, run.mean_loss(model, batch, drawn=drawn(), **form))
    measure(run, model, settings)
    run.save(model)


def measure(run: Run, model: nn.Module, settings: Settings) -> None:
    """Next-item ranking where events were held out, the held-out loss where there is an eval_dataset."""
    if run.holds_out:
        run.log(**run.held_out_losses(model))
    ranking = run.held_out_ranking(model, settings.eval_sequences) if run.ranks else {}
    if ranking:
        run.log(**ranking)
    if settings.keep_best:
        run.keep_best(model, ranking, "validation_ndcg@10")
