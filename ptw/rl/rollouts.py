"""How do the prompts of a step become answers that are judged, and what is told of each of their tokens?"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.evals.rows import groups as in_parts
from ptw.evals.rows import learnt
from ptw.rl import ahead
from ptw.rl.answers import Answer, Judged, Worth, numbered, packed
from ptw.rl.background import Background
from ptw.rl.episodes import clocked
from ptw.rl.gap import difference
from ptw.rl.judge import ROLE, judge_of
from ptw.rl.look import log_probs, look_back
from ptw.rl.reference import reference_of
from ptw.rl.settings import RolloutSettings
from ptw.train import held_out
from ptw.train.feed import Batch, StepRows
from ptw.train.parallel import full_state
from ptw.train.run import Run

CLOCKED = ("sync", "generate", "reward", "score")  # what of a step is no training

T = TypeVar("T")
Appraise = Callable[[list[list[Answer]]], list[list[Worth]]]  # of the answers to each prompt of a step


@dataclass(frozen=True)
class Told:
    """Of the M learnt tokens of a batch, row by row; `shares` are the batch's of what is told of the step.

    Log-probabilities are at the temperature, among the tokens that top-k and top-p left where one was drawn.
    """

    before_M: Tensor  # of the weights that drew
    reference_M: Tensor  # of the model that training began with; where it is not asked for, the same
    correction_M: Tensor
    advantage_M: Tensor
    lengths_M: Tensor  # of the answer that a token is of
    action_M: Tensor  # which of the batch's actions it is of, counted from 0
    answers: int  # of the whole step
    actions: int
    tokens: int
    shares: dict[str, Tensor]


@contextmanager
def rolling_out(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, appraise: Appraise
) -> Iterator[Rollouts]:
    """Engines that draw answers with the model's weights, as long as one is inside."""
    settings = run.settings
    assert isinstance(settings, RolloutSettings), "Settings inherit RolloutSettings"
    reference = reference_of(run, model, settings)
    background = Background(run, settings) if run.group.first else None
    rollouts = Rollouts(run, settings, model, appraise, reference, background)
    # torch's own place for what must see the weights before they move
    before_moving = optimizer.register_step_pre_hook(lambda *_: rollouts.finish_next())
    try:
        yield rollouts
        if run.group.first:
            shutil.rmtree(run.plan.run_folder() / ahead.FOLDER, ignore_errors=True)
    finally:
        before_moving.remove()
        if background is not None:
            background.close()


class Rollouts:
    """All methods are called by all workers together; the first one asks the engines and the rewards.

    With `ahead` = 1 the answers of a step are drawn while the step before it learns, by the weights that this
    one began with. Before the optimizer moves them, they are done, and looked at: so the gap compares the
    engine with the weights that it had, `before_M` is the policy that drew, as PPO has it, and what a
    checkpoint needs to go on with the same steps is on the disk before it (`ptw.rl.ahead`).
    """

    def __init__(
        self,
        run: Run,
        settings: RolloutSettings,
        model: nn.Module,
        appraise: Appraise,
        reference: nn.Module | None,
        background: Background | None,
    ) -> None:
        self._run, self._settings, self._model = run, settings, model
        self._appraise, self._reference, self._background = appraise, reference, background
        self._judge = judge_of(run)
        self._rewards = [*(settings.rewards or []), *([] if self._judge is None else [ROLE])]
        if not self._rewards:
            raise PtwError(
                "settings: rewards is not set, and there is no judge: nothing says what an answer is worth; "
                'set rewards = ["number"], or roles = { judge = "..." }, a model that `reward` made'
            )
        self._loaded: int | None = None  # the step whose weights the engines have
        self._begun: StepRows | None = None  # for which answers are being drawn
        self._coming: ahead.Groups | None = None  # the answers of the step that comes
        self._may_go_on = settings.ahead > 0  # from what is on the disk
        self._told: dict[str, Judged] = {}
        self._seconds = self._spent = dict.fromkeys(CLOCKED, 0.0)  # for the step that comes; for this one
        self._overlapped = 0.0  # of drawing, while the step before learnt

    def of_step(self, step: StepRows) -> StepRows:
        """The step's prompts, answered: rows of answers, packed as they fit."""
        self.finish_next()
        groups, self._coming = self._coming or self._kept(step), None
        if groups is None:
            self._sync()
            done = self._run.steps_done
            answers, seconds = self._of_first(lambda b: b.now(step.rows, self._settings.answers, done))
            self._add(seconds)
            groups = self._prepared(step, answers)
        self._begin_next()
        self._told = {one.answer.sample.id: one for group in groups for one in group}
        self._spent, self._seconds = self._seconds, dict.fromkeys(CLOCKED, 0.0)
        return self._rows(step, groups)

    def finish_next(self) -> None:
        """What was begun ahead, if anything, is ended, and looked at by the weights that drew it."""
        if self._begun is None:
            return
        step, self._begun = self._begun, None
        with self._run.off_the_clock():
            began = time.perf_counter()
            answers, seconds = self._of_first(lambda b: b.end())
            waited = time.perf_counter() - began
            self._add({"generate": waited})
            self._overlapped = max(0.0, sum(seconds.values()) - waited)
            self._coming = self._prepared(step, answers)
            if self._run.group.first:
                folder, done = self._run.plan.run_folder(), self._run.steps_done
                ahead.write(folder, done + 1, step, self._coming, self._settings.checkpoint_every)

    def told(self, batch: Batch) -> Told:
        kept = self._of_batch(batch)
        device, count, tokens = self._run.group.device, len(self._told), batch.step.learnt
        lengths = torch.tensor([len(one.answer.drawn.ids) for one in kept], dtype=torch.int64, device=device)

        def joined_of(part: Callable[[Judged], Tensor]) -> Tensor:
            return torch.cat([torch.empty(0), *(part(one) for one in kept)]).to(device)

        before_M, engine_M = joined_of(lambda one: one.before), joined_of(lambda one: one.engine)
        return Told(
            before_M,
            joined_of(lambda one: one.reference),
            difference(before_M, engine_M, self._settings.most_correction),
            joined_of(lambda one: one.worth.advantage_L),
            lengths.float().repeat_interleave(lengths),
            numbered([one.worth for one in kept]).to(device),
            count,
            sum(one.worth.actions for one in self._told.values()),
            tokens,
            self._shares(batch, kept, (before_M - engine_M).double().abs().exp().sum() / tokens),
        )

    def log_probs(self, batch: Batch) -> Tensor:
        """(M,) of the batch's learnt tokens, of what they were drawn from, by the weights as they are."""
        return log_probs(self._run, self._model, batch, self._of_batch(batch), self._settings.temperature)

    def measure(self) -> None:
        """The mean reward of one answer to each prompt of the eval_dataset."""
        run, seconds = self._run, dict(self._seconds)
        if not run.holds_out:
            return
        with run.off_the_clock():
            rows, done = list(held_out.rows_of(run)), run.steps_done
            self._sync()
            parts = in_parts(rows, self._settings.rows * self._settings.answers)  # as large as a step's
            flat = [one for part in parts for one in self._one_to_each(part, done)]
            self._seconds = seconds  # of the step
            run.log(
                held_out_reward=float(np.mean([one.reward for one in flat])),
                held_out_length=float(np.mean([len(one.drawn.ids) for one in flat])),
            )

    def _one_to_each(self, rows: Sequence[PackedRow], step: int) -> list[Answer]:
        answers, _ = self._of_first(lambda b: b.now(rows, 1, step))
        return [one for group in self._judged(answers) for one in group]

    def _begin_next(self) -> None:
        run, settings = self._run, self._settings
        if not settings.ahead or run.steps_done + 1 == settings.steps:
            return
        step = run.peek()
        if step is not None:
            self._sync()
            self._begun = step
            if self._background is not None:
                self._background.begin(step.rows, settings.answers, run.steps_done + 1)

    def _kept(self, step: StepRows) -> ahead.Groups | None:
        """Of the step that a run goes on with."""
        may, self._may_go_on = self._may_go_on, False
        folder, done = self._run.plan.run_folder(), self._run.steps_done
        if not may:
            return None
        return self._of_first(lambda b: ahead.read(folder, done, step, b.drawer.prompts))

    def _prepared(self, step: StepRows, answers: list[list[Answer]]) -> ahead.Groups:
        """With what they are worth, and what the trainer holds of them."""
        judged = self._judged(answers)
        groups = [
            [Judged.of(one, worth) for one, worth in zip(group, worths, strict=True)]
            for group, worths in zip(judged, self._appraise(judged), strict=True)
        ]
        told = {one.answer.sample.id: one for group in groups for one in group}
        with clocked(self._seconds, "score"):
            made = self._rows(step, groups)
            look_back(self._run, self._settings, self._model, self._reference, made, told)
        return groups

    def _rows(self, step: StepRows, groups: ahead.Groups) -> StepRows:
        samples = [one.answer.sample for group in groups for one in group]
        rows = tuple(packed(samples, self._settings.window, step.rows[0].epoch))
        return StepRows(rows, learnt(rows))

    def _judged(self, answers: list[list[Answer]]) -> list[list[Answer]]:
        if self._judge is None:
            return answers
        with clocked(self._seconds, "reward"):
            worth = iter(self._judge([one for group in answers for one in group]))
        return [
            [replace(one, rewards={**one.rewards, ROLE: next(worth)}) for one in group] for group in answers
        ]

    def _of_first(self, call: Callable[[Background], T]) -> T:
        """What the first worker gets of it, or the PtwError, in all of them."""
        found, fault = None, None
        if self._background is not None:
            try:
                found = call(self._background)
            except PtwError as error:
                fault = str(error)
        found, fault = self._run.group.shared((found, fault))
        if fault is not None:
            raise PtwError(fault)
        return found

    def _sync(self) -> None:
        """The engines get the weights as they are now."""
        run = self._run
        if self._loaded == run.steps_done:
            return
        with clocked(self._seconds, "sync"):
            state = full_state(run.loaded.module, run.group.first)
            if self._background is not None:
                self._background.load(state)
        self._loaded = run.steps_done

    def _of_batch(self, batch: Batch) -> list[Judged]:
        return [self._told[sample] for row in batch.rows for sample in row.samples]

    def _add(self, seconds: dict[str, float]) -> None:
        for what, some in seconds.items():
            self._seconds[what] += some

    def _shares(self, batch: Batch, kept: Sequence[Judged], gap: Tensor) -> dict[str, Tensor]:
        """Of what is told of the whole step: means over its answers, seconds of the first worker.

        drawn_per_second: tokens, while the engines drew.
        """
        count = len(self._told)

        def mean(of: Callable[[Answer], float]) -> float:
            return sum(of(one.answer) for one in kept) / count

        def rewarded(name: str) -> Callable[[Answer], float]:
            return lambda one: one.rewards[name]

        told = {"reward": mean(lambda one: one.reward)}
        told |= {"length": mean(lambda one: len(one.drawn.ids)), "ended": mean(lambda one: one.ended)}
        if self._settings.environment is not None:
            told |= {"turns": mean(lambda one: one.turns), "no_room": mean(lambda one: one.no_room)}
        if len(self._rewards) > 1:
            told |= {f"reward_{name}": mean(rewarded(name)) for name in self._rewards}
        if drawing := self._spent["generate"] + self._overlapped:  # of all workers' answers together
            told["drawn_per_second"] = sum(len(one.answer.drawn.ids) for one in kept) / drawing
        speaks = batch.first and self._run.group.first
        told |= {f"{what}_seconds": seconds * speaks for what, seconds in self._spent.items()}
        if self._settings.ahead:
            told["overlapped"] = self._overlapped * speaks
        return {name: torch.tensor(value) for name, value in told.items()} | {"gap": gap}
