"""Which settings does every recipe take over, so that all of them call the same thing by one name?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptw.errors import PtwError
from ptw.train import demand
from ptw.train.adapted import AdapterSettings


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(AdapterSettings):
    """What `Run` itself reads. A recipe's Settings inherit it, and declare anew what they set otherwise."""

    epochs: int = 1
    steps: int | None = None  # in place of epochs: so many steps, over as many epochs as they take
    window: int = 1024  # tokens of a packed row
    rows: int = 8  # packed rows of a step, over all workers
    rows_at_once: int = 8  # of these, how many a worker computes in one pass
    stage: Literal["all", "new-rows"] = "all"  # new-rows: only those of the tokenizer's new tokens learn
    learning_rate: float = 1e-5
    warmup: int = 0  # steps
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # how long a gradient may be; 0: however long
    on_nan: Literal["stop", "skip"] = "stop"  # a loss or gradient that is no number
    on_spike: Literal["stop", "skip", "ignore"] = "ignore"  # a loss far above the last ones; told anyhow
    spike_sigmas: float = 6.0  # how far above is a spike
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False  # each block by torch.compile: other kernels, the same numbers but for rounding
    checkpoint_every: int = 100  # steps
    keep_checkpoints: int = 2  # the newest so many
    keep_checkpoint_every: int | None = None  # steps: each multiple of these stays for good
    eval_every: int | None = None  # steps between measurements; without it: once an epoch
    seed: int = 0
    record_samples: bool = False  # which samples each worker saw, step by step

    @property
    def read_window(self) -> int:
        """Tokens of a row as it is read, where a run adds its own to them."""
        return self.window

    def demand_sense(self) -> None:
        """PtwError names a setting whose value can't be."""
        demand.positive(
            epochs=self.epochs,
            steps=1 if self.steps is None else self.steps,
            window=self.window,
            rows=self.rows,
            rows_at_once=self.rows_at_once,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            keep_checkpoint_every=1 if self.keep_checkpoint_every is None else self.keep_checkpoint_every,
            eval_every=1 if self.eval_every is None else self.eval_every,
        )
        demand.not_negative(
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            spike_sigmas=self.spike_sigmas,
        )
        if self.stage == "new-rows" and self.adapter != "none":
            demand.refuse("adapter", self.adapter, "beside stage = new-rows: rows learn, or an adapter")
        if self.stage == "new-rows" and self.weight_decay:
            hint = "beside stage = new-rows it would move the rows that stay; set it to 0"
            demand.refuse("weight_decay", self.weight_decay, hint)
        if self.keep_checkpoint_every is not None and self.keep_checkpoint_every % self.checkpoint_every:
            raise PtwError(
                f"settings: keep_checkpoint_every = {self.keep_checkpoint_every} is no multiple of "
                f"checkpoint_every = {self.checkpoint_every}; set it to one, or checkpoints would be missing"
            )


@dataclass(frozen=True, kw_only=True)
class NextTokenSettings(TrainingSettings):
    """Of a recipe whose loss is the cross entropy of the next token."""

    label_smoothing: float = 0.0  # which part of a target is spread over the vocabulary
    z_loss: float = 0.0  # times the squared logarithm of the softmax's sum; 1e-4 is usual

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.part(label_smoothing=self.label_smoothing)
        demand.not_negative(z_loss=self.z_loss)


@dataclass(frozen=True, kw_only=True)
class SampledSettings(TrainingSettings):
    """Of a recipe whose softmax may learn from a part of its classes, which are many."""

    sampled: int | None = None  # so many classes, drawn for each step, in place of all
    sampled_by: Literal["uniform", "popularity"] = "uniform"  # popularity: by how often each is a target

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.positive(sampled=1 if self.sampled is None else self.sampled)
        if self.sampled is None and self.sampled_by != "uniform":
            demand.refuse("sampled_by", self.sampled_by, "it has an effect with sampled only; set sampled")
