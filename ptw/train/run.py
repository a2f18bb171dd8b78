"""What is a recipe handed? A run: its model, optimizer and batches, on one worker or on many."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.evals.rows import Forward
from ptw.nn.head import Head
from ptw.ports.scores import Scores
from ptw.train import checkpoint, count, held_out, weights
from ptw.train.chance import random_state, restore_random
from ptw.train.facts import tokenizer_of
from ptw.train.feed import Batch, Feed, StepRows, batches
from ptw.train.group import Group
from ptw.train.guard import Guard
from ptw.train.ledger import Ledger
from ptw.train.meter import Meter
from ptw.train.optimize import Schedule, adamw, clip
from ptw.train.peaks import peak
from ptw.train.plan import Plan
from ptw.train.saving import Saver
from ptw.train.settings import TrainingSettings
from ptw.train.shares import Shares


class Run:
    """State of one training run in one worker. All methods are called by all workers together."""

    def __init__(
        self, plan: Plan, settings: TrainingSettings, group: Group, stopping: Callable[[], bool]
    ) -> None:
        settings.demand_sense()
        self.plan = plan
        self.settings = settings
        self.group = group
        self.ledger = Ledger(plan.run_folder(), group)
        self.guard = Guard(group, self.ledger, settings)
        self.steps_done = 0
        self.total_steps: int | None = None
        self.best = weights.Best()
        self._stopping = stopping
        self._stop_agreed = False
        self._skipped = False  # the step that was computed last
        self._again = False  # steps_done is as it was a step ago
        self._shares = Shares(group)
        self._current: Batch | None = None
        self._step_began = 0.0
        self.tokenizer = tokenizer_of(plan, self.ledger)

    def model(self, scores: Scores | None = None, pooling: str | None = None) -> nn.Module:
        """The plan's model with fp32 master weights, spread over the workers; bf16 computes in bf16.

        With `scores` it gives these of a text in place of words, with `pooling` vectors. With an adapter
        nothing else learns, but new scores: whatever is frozen has `requires_grad` False.
        """
        settings, self._scores, self.pooling = self.settings, scores, pooling
        torch.manual_seed(settings.seed + self.group.data_rank)
        self.loaded, work = weights.open_for_training(self, scores)
        for note in self.loaded.notes:
            self.ledger.say(note)
        self._meter = Meter(work, peak(self.group.device, settings.precision), self.group)
        self.loaded.module.train()
        return self.loaded.module

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW on the model's trained parameters; `step` sets the schedule's rate."""
        settings = self.settings
        self._schedule = Schedule(settings.learning_rate, settings.schedule, settings.warmup)
        self._optimizer = adamw(self.loaded.module, settings.learning_rate, settings.weight_decay)
        return self._optimizer

    def batches(self, then: Callable[[StepRows], StepRows] | None = None) -> Iterator[Batch]:
        """This worker's batches of `steps` steps (None: of `epochs` epochs), from the last checkpoint on.

        A step has `rows` rows of `window` tokens over all workers; each worker computes `rows_at_once` of its
        rows in one pass. Saves a checkpoint every so often, when asked to stop, and at the end. `then` makes
        of the rows that the data has for a step those that are learnt from; all workers make the same.
        """
        settings = self.settings
        weights.demand_window(self.loaded, settings.window)
        stream = self._open_stream(settings.epochs if settings.steps is None else None)
        self._feed = Feed(stream, settings.rows)
        self.total_steps = settings.steps
        keep = checkpoint.Keep(settings.keep_checkpoints, settings.keep_checkpoint_every)
        with closing(stream), Saver(self.plan.run_folder(), self.group, keep) as self._saver:
            self._resume()
            if self.total_steps is None:
                self.total_steps = count.steps_of(self, self._open_stream)
            while settings.steps is None or self.steps_done < settings.steps:
                step = self._feed.next_step()
                if step is None:
                    break
                yield from self._passes(step if then is None else then(step))
                if self._stop_agreed:
                    self._save_checkpoint()
                    self._finish_checkpoint()
                    raise count.Stopped
                if self.steps_done % settings.checkpoint_every == 0 and not self._skipped:
                    self._save_checkpoint()
            if self.steps_done % settings.checkpoint_every:
                self._save_checkpoint()
            self._finish_checkpoint()
            for text, refused in self._feed.remarks():
                self.ledger.say(text, refused=refused)

    def mean_loss(self, model: nn.Module, batch: Batch, **form: Any) -> Tensor:
        """The batch's share of the step's mean loss, by `Head.loss`: those of all workers add up to it."""
        with self.computing():
            hidden_BTD = model(batch.ids_BT, batch.layout)
            head: Head = model.head()  # type: ignore[operator]
            total = head.loss(hidden_BTD, batch.targets_BT, **form)
        return total / max(1, batch.step.learnt)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor, **figures: Tensor) -> None:
        """Backward; after the step's last batch the optimizer moves, by the schedule's rate.

        loss, figures: the batch's shares of the step's, as of `mean_loss`; figures go to metrics.jsonl.
        """
        batch = self._current
        assert batch is not None, "step belongs into the loop over batches"
        # FSDP takes the mean over the workers with a batch of their own, the step's loss is their sum
        (loss * self.group.data_world).backward()
        self._shares.add(batch, {"loss": loss, **figures})
        if not batch.last:
            return
        means, self._stop_agreed = self._shares.means(self._stopping() or self._saver.failed)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip(parameters, self.settings.clip_norm)
        number, losses = self.steps_done + 1, self._shares.losses
        self._skipped = self.guard.refuses(number, means["loss"], norm, batch.step, losses)
        if not self._skipped:
            rate = self._schedule.at(self.steps_done, self.total_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self.steps_done += 1
            self._write_down(batch.step, learning_rate=rate, gradient_norm=norm, **means)
        optimizer.zero_grad()
        self._shares.clear()

    def due(self) -> bool:
        """Whether to measure now: before the first step, then every `eval_every` steps (None: each epoch)."""
        every = self.settings.eval_every
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

    def held_out_losses(self, model: nn.Module) -> dict[str, float]:
        """`held_out_loss`, the mean of a token of `eval_dataset`, and that of each part of a mix."""
        with self.off_the_clock():
            return held_out.losses(self, model)

    def held_out_means(
        self, model: nn.Module, judge: Callable[[Forward], dict[str, Tensor]]
    ) -> dict[str, float]:
        """Means over `eval_dataset` of what `judge` says of the samples of a batch: by name, one for each."""
        with self.off_the_clock():
            means = held_out.means(self, model, judge)
        return {f"held_out_{name}": mean for name, mean in means.items()}

    def held_out_ranking(self, model: nn.Module, most: int | None = None) -> dict[str, float]:
        """Recall and ndcg of the held-out next item of each sequence of events, or of `most` of them."""
        with self.off_the_clock():
            return held_out.ranking(self, model, most)

    def keep_best(self, model: nn.Module, measured: dict[str, float], key: str) -> None:
        """Keep the model's weights if no earlier score was as high; `save` then saves the best."""
        if key not in measured:
            hint = f"dataset {self.plan.dataset} needs leave_out = 2, and events of its own (no mix)"
            raise PtwError(f"settings: keep_best = true needs {key}, which is not measured here: {hint}")
        if measured[key] > self.best.score:
            with self.off_the_clock():
                self.best = weights.keep(self, measured[key])

    def peek(self) -> StepRows | None:
        """The rows of the step after this one; a checkpoint holds them for unread."""
        return self._feed.peek()

    def rows_ahead(self, held_out_too: bool = True) -> Iterator[PackedRow]:
        """All that the steps to come and the held-out measurements will read, before any is trained on.

        Of `steps` steps they are the first epoch's rows of the endless stream that is trained on: near an
        epoch's end it packs otherwise than one that ends there. A step that is left out is made up for.
        """
        steps, rows = self.settings.steps, self.settings.rows
        with closing(self._open_stream(1 if steps is None else None)) as stream:
            first = takewhile(lambda row: row.epoch == 0, stream)
            yield from islice(first, None if steps is None or self.guard.may_skip else steps * rows)
        if held_out_too and self.holds_out:
            with closing(held_out.rows_of(self)) as stream:
                yield from stream

    def is_asked_to_stop(self) -> bool:
        """Whether this worker is: all must agree before any does."""
        return self._stopping()

    def save(self, model: nn.Module) -> None:
        """The trained model, the best where one is kept, with its tokenizer, in HF's format."""
        weights.publish(self)

    def computing(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass; from two workers on FSDP's policy sees to it."""
        if self.settings.precision == "bf16" and self.group.world == 1:
            return torch.autocast(self.group.device.type, torch.bfloat16)
        return nullcontext()

    @contextmanager
    def off_the_clock(self) -> Iterator[None]:
        """What is measured between two steps is no part of the next one's time."""
        began = time.perf_counter()
        yield
        self._step_began += time.perf_counter() - began

    def _open_stream(self, epochs: int | None) -> Stream:
        plan, settings = self.plan, self.settings
        dataset = plan.datasets[plan.dataset]
        stream = partial(Stream, plan.root, dataset, self.tokenizer, renderers=plan.cluster.renderers)
        return stream(window=settings.read_window, seed=settings.seed, epochs=epochs)

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
            "scores": None if self._scores is None else vars(self._scores),
            "pooling": self.pooling,
            "feed": self._feed.state_dict(),
            "best": vars(self.best),
            "guard": self.guard.state_dict(),
            "random": self.group.by_batch(random_state()),
        }
        self._finish_checkpoint()
        self._saver.begin(self.steps_done, self.loaded.module, self._optimizer, state)

    def _finish_checkpoint(self) -> None:
        self._saver.finish()
        weights.forget(self.plan.run_folder(), self.best, self.group)

    def _passes(self, step: StepRows) -> Iterator[Batch]:
        before, self._again, self._skipped = self.steps_done, self._skipped, False
        self._step_began = time.perf_counter() - self._feed.seconds
        for batch in batches(step, self.settings.rows_at_once, self.group):
            self._current = batch
            yield batch
        self._current = None
        assert self.steps_done == before + (not self._skipped), "a recipe calls run.step once for every batch"

    def _write_down(self, step: StepRows, **figures: float) -> None:
        if self.settings.record_samples:
            self.ledger.samples(self.steps_done, self._shares.rows)
        seconds = time.perf_counter() - self._step_began
        self.ledger.metric(
            "train",
            self.steps_done,
            total=self.total_steps,
            **figures,
            **step.facts(),
            **self._meter.measured(step, seconds, self._feed.seconds),
        )
