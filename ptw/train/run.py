"""What is a recipe handed? A run: its model, optimizer and batches, on one worker or on many."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.nn.head import Head
from ptw.ports.parallel import whole
from ptw.tokens.tokenizer import open_tokenizer
from ptw.train import checkpoint, count, demand, held_out, weights
from ptw.train.adapted import EVERYTHING, AdapterSettings
from ptw.train.chance import random_state, restore_random
from ptw.train.feed import Batch, Feed, StepRows, batches
from ptw.train.group import Group
from ptw.train.guard import Guard, OnNaN, OnSpike
from ptw.train.ledger import Ledger
from ptw.train.meter import Meter
from ptw.train.optimize import Schedule, ScheduleName, adamw
from ptw.train.peaks import peak
from ptw.train.plan import Plan


class Run:
    """State of one training run in one worker. All methods are called by all workers together."""

    def __init__(self, plan: Plan, group: Group, stopping: Callable[[], bool]) -> None:
        self.plan = plan
        self.group = group
        self.ledger = Ledger(plan.run_folder(), group)
        self.guard = Guard(group, self.ledger)
        self.steps_done = 0
        self.total_steps: int | None = None
        self.best = weights.Best()
        self._stopping = stopping
        self._stop_agreed = False
        self._skipped = False  # the step that was computed last
        self._again = False  # steps_done is as it was a step ago
        self._losses: list[tuple[Tensor, Batch]] = []
        self._current: Batch | None = None
        self._step_began = 0.0
        if not group.first:
            group.wait()  # the first worker builds what is built once
        self.tokenizer = open_tokenizer(plan.workspace(), plan.tokenizer.name)
        if group.first:
            group.wait()
        for note in self.tokenizer.notes:
            self.ledger.say(note)

    def model(
        self, *, precision: str = "fp32", seed: int = 0, adapter: AdapterSettings = EVERYTHING
    ) -> nn.Module:
        """The plan's model with fp32 master weights, spread over the workers; bf16 computes in bf16.

        With an adapter nothing else learns: whatever is frozen has `requires_grad` False.
        """
        torch.manual_seed(seed + self.group.data_rank)
        self.precision = precision
        self.loaded, work = weights.open_for_training(self, seed, adapter)
        for note in self.loaded.notes:
            self.ledger.say(note)
        self._meter = Meter(work, peak(self.group.device, precision), self.group)
        self.loaded.module.train()
        return self.loaded.module

    def optimizer(
        self,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        warmup: int = 0,
        schedule: ScheduleName = "constant",
    ) -> torch.optim.Optimizer:
        """AdamW on the model's trained parameters; `step` sets the schedule's rate."""
        demand.not_negative(learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self._schedule = Schedule(learning_rate, schedule, warmup)
        self._optimizer = adamw(self.loaded.module, learning_rate, weight_decay)
        return self._optimizer

    def heed(self, on_nan: OnNaN, on_spike: OnSpike, spike_sigmas: float) -> None:
        """What to do with a step whose loss is no number, or a spike; one left out has no effect."""
        self.guard.heed(on_nan, on_spike, spike_sigmas)

    def batches(
        self,
        steps: int | None = None,
        *,
        epochs: int = 1,
        window: int = 512,
        rows: int = 8,
        rows_at_once: int = 8,
        seed: int = 0,
        checkpoint_every: int = 100,
        record_samples: bool = False,
    ) -> Iterator[Batch]:
        """This worker's batches of `steps` steps (None: of `epochs` epochs), from the last checkpoint on.

        A step has `rows` rows of `window` tokens over all workers; each worker computes `rows_at_once` of its
        rows in one pass. Saves a checkpoint every so often, when asked to stop, and at the end.
        """
        demand.positive(steps=1 if steps is None else steps, epochs=epochs, rows=rows)
        demand.positive(window=window, rows_at_once=rows_at_once, checkpoint_every=checkpoint_every)
        weights.demand_window(self.loaded, window)
        self.window, self._record_samples = window, record_samples
        stream = self._open_stream(window, seed, None if steps is not None else epochs)
        self._feed = Feed(stream, rows)
        self.total_steps = steps
        try:
            self._resume()
            if self.total_steps is None:
                self.total_steps = self._count(window, rows, seed) * epochs
            while steps is None or self.steps_done < steps:
                step = self._feed.next_step()
                if step is None:
                    break
                yield from self._passes(step, rows_at_once)
                if self._stop_agreed:
                    self._save_checkpoint()
                    raise count.Stopped
                if self.steps_done % checkpoint_every == 0 and not self._skipped:
                    self._save_checkpoint()
            if self.steps_done % checkpoint_every:
                self._save_checkpoint()
            for text, refused in self._feed.remarks():
                self.ledger.say(text, refused=refused)
        finally:
            stream.close()

    def mean_loss(
        self, model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> Tensor:
        """The batch's share of the step's mean loss: all shares of all workers add up to it."""
        demand.part(label_smoothing=label_smoothing)
        demand.not_negative(z_loss=z_loss)
        with self.computing():
            hidden_BTD = model(batch.ids_BT, batch.layout)
            head: Head = model.head()  # type: ignore[operator]
            total = head.loss(hidden_BTD, batch.targets_BT, label_smoothing=label_smoothing, z_loss=z_loss)
        return total / max(1, batch.step.learnt)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None = 1.0) -> None:
        """Backward; after the step's last batch the optimizer moves, by the schedule's rate."""
        batch = self._current
        assert batch is not None, "step belongs into the loop over batches"
        demand.not_negative(clip_norm=0.0 if clip_norm is None else clip_norm)
        # FSDP takes the mean over the workers with a batch of their own, the step's loss is their sum
        (loss * self.group.data_world).backward()
        self._losses.append((loss.detach().double(), batch))
        if not batch.last:
            return
        own = torch.stack([share for share, _ in self._losses]).sum().item()
        mean, stop = self.group.sum(self.group.once(own), float(self._stopping()))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        clipped = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
        norm = whole(clipped).item()
        self._stop_agreed = stop > 0
        self._skipped = self.guard.refuses(self.steps_done + 1, mean, norm, batch.step, self._losses)
        if self._skipped:
            optimizer.zero_grad()
            self._losses.clear()
            return
        rate = self._schedule.at(self.steps_done, self.total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        self.steps_done += 1
        self._write_down(batch.step, mean, norm, rate)
        self._losses.clear()

    def due(self, every: int | None = None) -> bool:
        """Whether to measure now: before the first step, then after each `every` steps (None: each epoch)."""
        demand.positive(eval_every=1 if every is None else every)
        if self._current is None or not self._current.first:
            return False
        if every is None:
            return self._feed.epoch_ended
        return self.steps_done % every == 0 and not self._again

    def log(self, **values: float) -> None:
        """Measured figures, beside the training steps in metrics.jsonl."""
        self.ledger.metric("eval", self.steps_done, **values)

    @property
    def holds_out(self) -> bool:
        """Whether there is a dataset to measure the held-out loss on."""
        return self.plan.eval_dataset is not None

    @property
    def ranks(self) -> bool:
        """Whether the dataset holds events out, to measure the ranking of the next item on."""
        dataset = self.plan.datasets[self.plan.dataset]
        return dataset.format == "event" and dataset.leave_out > 0

    def held_out_loss(self, model: nn.Module) -> float:
        """Mean loss of a token of `eval_dataset`; NaN without one."""
        with self._off_the_clock():
            return held_out.loss(self, model)

    def held_out_ranking(self, model: nn.Module) -> dict[str, float]:
        """Recall and ndcg of the held-out next item of each sequence of events."""
        with self._off_the_clock():
            return held_out.ranking(self, model)

    def keep_best(self, model: nn.Module, measured: dict[str, float], key: str) -> None:
        """Keep the model's weights if no earlier score was as high; `save` then saves the best."""
        if key not in measured:
            hint = f"dataset {self.plan.dataset} needs leave_out = 2, and events of its own (no mix)"
            raise PtwError(f"settings: keep_best = true needs {key}, which is not measured here: {hint}")
        if measured[key] > self.best.score:
            with self._off_the_clock():
                self.best = weights.keep(self, measured[key])

    def save(self, model: nn.Module) -> None:
        """The trained model, the best where one is kept, with its tokenizer, in HF's format."""
        weights.publish(self)

    def computing(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass; from two workers on FSDP's policy sees to it."""
        if self.precision == "bf16" and self.group.world == 1:
            return torch.autocast(self.group.device.type, torch.bfloat16)
        return nullcontext()

    @contextmanager
    def _off_the_clock(self) -> Iterator[None]:
        """What is measured between two steps is no part of the next one's time."""
        began = time.perf_counter()
        yield
        self._step_began += time.perf_counter() - began

    def _open_stream(self, window: int, seed: int, epochs: int | None) -> Stream:
        plan = self.plan
        dataset = plan.datasets[plan.dataset]
        return Stream(plan.root, dataset, self.tokenizer, window=window, seed=seed, epochs=epochs)

    def _count(self, window: int, rows: int, seed: int) -> int:
        """Steps of the first epoch: the others differ by how well they pack."""
        with closing(self._open_stream(window, seed, 1)) as stream:
            return -(-count.rows_of(stream, self.group, self._stopping) // rows)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        folder = checkpoint.newest(self.plan.run_folder(), self.group, self.ledger.say)
        if folder is not None:
            state = checkpoint.load(folder, self.loaded.module, self._optimizer)
            self.steps_done, self.total_steps = state["step"], state["total"]
            self._feed.load_state_dict(state["feed"])
            self.best = weights.Best(**state["best"])
            self.guard.load_state_dict(state["guard"])
            if self.group.data_rank < len(state["random"]):
                restore_random(state["random"][self.group.data_rank])
        self.ledger.cut(self.steps_done)

    def _save_checkpoint(self) -> None:
        state = {
            "step": self.steps_done,
            "total": self.total_steps,
            "feed": self._feed.state_dict(),
            "best": vars(self.best),
            "guard": self.guard.state_dict(),
            "random": self.group.by_batch(random_state()),
        }
        folder = self.plan.run_folder()
        checkpoint.save(folder, self.steps_done, self.loaded.module, self._optimizer, state, self.group)
        weights.forget(folder, self.best, self.group)

    def _passes(self, step: StepRows, rows_at_once: int) -> Iterator[Batch]:
        before, self._again, self._skipped = self.steps_done, self._skipped, False
        self._step_began = time.perf_counter() - self._feed.seconds
        for batch in batches(step, rows_at_once, self.group):
            self._current = batch
            yield batch
        self._current = None
        assert self.steps_done == before + (not self._skipped), "a recipe calls run.step once for every batch"

    def _write_down(self, step: StepRows, loss: float, norm: float, rate: float) -> None:
        if self._record_samples:
            self.ledger.samples(self.steps_done, [row for _, batch in self._losses for row in batch.rows])
        seconds = time.perf_counter() - self._step_began
        self.ledger.metric(
            "train",
            self.steps_done,
            total=self.total_steps,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            **step.facts(),
            **self._meter.measured(step, seconds, self._feed.seconds),
        )
