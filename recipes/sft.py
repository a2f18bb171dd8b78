"""Supervised fine-tuning: next-token cross entropy on the answer tokens only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ptw.train.adapted import AdapterSettings
from ptw.train.run import Run


@dataclass(frozen=True)
class Settings(AdapterSettings):
    epochs: int = 1
    steps: int | None = None  # in place of epochs: so many steps, over as many epochs as they take
    window: int = 1024  # tokens of a packed row
    rows: int = 8  # packed rows of a step, over all workers
    rows_at_once: int = 8  # of these, how many a worker computes in one pass
    learning_rate: float = 1e-5
    warmup: int = 0  # steps
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    label_smoothing: float = 0.0  # which part of a target is spread over the vocabulary
    z_loss: float = 0.0  # times the squared logarithm of the softmax's sum; 1e-4 is usual
    on_nan: Literal["stop", "skip"] = "stop"  # a loss or gradient that is no number
    on_spike: Literal["stop", "skip", "ignore"] = "ignore"  # a loss far above the last ones; told anyhow
    spike_sigmas: float = 6.0  # how far above is a spike
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 100
    eval_every: int | None = None  # steps between looks at eval_dataset; without it: once an epoch
    seed: int = 0
    record_samples: bool = False  # which samples each worker saw, step by step


def train(run: Run, settings: Settings) -> None:
    model = run.model(precision=settings.precision, seed=settings.seed, adapter=settings)
    optimizer = run.optimizer(
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        schedule=settings.schedule,
    )
    run.heed(settings.on_nan, settings.on_spike, settings.spike_sigmas)
    batches = run.batches(
        settings.steps,
        epochs=settings.epochs,
        window=settings.window,
        rows=settings.rows,
        rows_at_once=settings.rows_at_once,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        record_samples=settings.record_samples,
    )
    for batch in batches:
        if run.due(settings.eval_every):
            measure(run, model)
        loss = run.mean_loss(model, batch, label_smoothing=settings.label_smoothing, z_loss=settings.z_loss)
        run.step(optimizer, loss, settings.clip_norm)
    measure(run, model)
    run.save(model)


def measure(run: Run, model: nn.Module) -> None:
    """The held-out loss before, during and after."""
    if run.holds_out:
        run.log(held_out_loss=run.held_out_loss(model))
