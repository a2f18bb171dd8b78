"""How do the prompts of a step become answers that are judged, and what is told of each of their tokens?"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ptw.data.pack import IGNORED, PackedRow
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.rows import learnt
from ptw.ports import adapter
from ptw.rl import rewards
from ptw.rl.answers import Answer, Judged, Worth, numbered, packed
from ptw.rl.engines import Engines, engines_of
from ptw.rl.gap import Gap, difference
from ptw.rl.judge import ROLE, Judge, judge_of
from ptw.rl.prompts import Prompts, asked
from ptw.rl.settings import RolloutSettings
from ptw.train import held_out, weights
from ptw.train.feed import Batch, StepRows, batches
from ptw.train.parallel import full_state
from ptw.train.roles import open_beside
from ptw.train.run import Run

CLOCKED = ("sync", "generate", "reward", "score")  # what of a step is no training
FOLDER = "rollout"  # of the run: the weights that answers are drawn with

Appraise = Callable[[list[list[Answer]]], list[list[Worth]]]  # of the answers to each prompt of a step


@dataclass(frozen=True)
class Told:
    """Of the M learnt tokens of a batch, row by row; `shares` are the batch's of what is told of the step."""

    before_M: Tensor  # log-probabilities when the step began, at the temperature
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
def rolling_out(run: Run, model: nn.Module, appraise: Appraise, keeps_reference: bool) -> Iterator[Rollouts]:
    """Engines that draw answers with the model's weights, as long as one is inside."""
    settings = run.settings
    assert isinstance(settings, RolloutSettings), "Settings inherit RolloutSettings"
    reference = None
    if keeps_reference and settings.adapter == "none":
        reference = open_beside(run, run.plan.model, "reference")
    elif keeps_reference:
        reference = model  # beneath its adapter
    engines = None
    if run.group.first:
        engines = engines_of(run.plan, settings, run.tokenizer.stop_ids, run.ledger.say)
    try:
        yield Rollouts(run, settings, model, appraise, reference, engines)
    finally:
        if engines is not None:
            engines.close()
        if run.group.first:
            shutil.rmtree(run.plan.run_folder() / FOLDER, ignore_errors=True)


class Rollouts:
    """All methods are called by all workers together; the first one asks the engines and the rewards."""

    def __init__(
        self,
        run: Run,
        settings: RolloutSettings,
        model: nn.Module,
        appraise: Appraise,
        reference: nn.Module | None,
        engines: Engines | None,
    ) -> None:
        self._run, self._settings, self._model = run, settings, model
        self._appraise, self._reference, self._engines = appraise, reference, engines
        self._prompts = Prompts(run.plan)
        self._rewards = rewards.open_rewards(run.plan.root, settings.rewards or [])
        self._judge = judge_of(run)
        if not self._rewards and self._judge is None:
            raise PtwError(
                "settings: rewards is not set, and there is no judge: nothing says what an answer is worth; "
                'set rewards = ["number"], or roles = { judge = "..." }, a model that `reward` made'
            )
        self._loaded: int | None = None  # the step whose weights the engines have
        self._told: dict[str, Judged] = {}
        self._actions = 0  # of the whole step
        self._seconds = dict.fromkeys(CLOCKED, 0.0)

    def of_step(self, step: StepRows) -> StepRows:
        """The step's prompts, answered: rows of answers, packed as they fit."""
        self._seconds = dict.fromkeys(CLOCKED, 0.0)
        answers = self._answered(step.rows, self._settings.answers)
        flat = [one for group in answers for one in group]
        worths = [worth for group in self._appraise(answers) for worth in group]
        rows = tuple(packed([one.sample for one in flat], self._settings.window, step.rows[0].epoch))
        made = StepRows(rows, learnt(rows))
        judged = (Judged(one, worth) for one, worth in zip(flat, worths, strict=True))
        self._told = {one.answer.sample.id: one for one in judged}
        self._actions = sum(worth.actions for worth in worths)
        with self._clock("score"):
            self._look_back(made)
        return made

    def told(self, batch: Batch) -> Told:
        kept = [self._told[sample] for row in batch.rows for sample in row.samples]
        device, count, tokens = self._run.group.device, len(self._told), batch.step.learnt
        lengths = torch.tensor([len(one.answer.drawn.ids) for one in kept], device=device)

        def joined_of(part: Callable[[Judged], Tensor]) -> Tensor:
            return torch.cat([torch.empty(0), *(part(one) for one in kept)]).to(device)

        before_M, engine_M = joined_of(lambda one: one.before), joined_of(lambda one: one.engine)
        return Told(
            joined_of(lambda one: one.heated),
            joined_of(lambda one: one.reference),
            difference(before_M, engine_M, self._settings.most_correction),
            joined_of(lambda one: one.worth.advantage_L),
            lengths.float().repeat_interleave(lengths),
            numbered([one.worth for one in kept]).to(device),
            count,
            self._actions,
            tokens,
            self._shares(batch, kept, (before_M - engine_M).double().abs().exp().sum() / tokens),
        )

    def log_probs(self, batch: Batch) -> Tensor:
        """(M,) of the batch's learnt tokens, at the temperature that they were drawn at."""
        return self._log_probs(self._model, batch, self._settings.temperature)

    def measure(self) -> None:
        """The mean reward of one answer to each prompt of the eval_dataset."""
        run, clocked = self._run, dict(self._seconds)
        if not run.holds_out:
            return
        with run.off_the_clock():
            rows = list(held_out.rows_of(run))
            flat = [one for group in self._answered(rows, 1) for one in group]
            self._seconds = clocked  # of the step
            run.log(
                held_out_reward=float(np.mean([one.reward for one in flat])),
                held_out_length=float(np.mean([len(one.drawn.ids) for one in flat])),
            )

    def _answered(self, rows: Sequence[PackedRow], each: int) -> list[list[Answer]]:
        """To each prompt, which is a row, so many answers."""
        self._sync()
        found, fault = None, None
        if self._run.group.first:
            try:
                found = self._drawn(rows, each)
            except PtwError as error:
                fault = str(error)
        found, fault = self._run.group.shared((found, fault))
        if fault is not None:
            raise PtwError(fault)
        assert found is not None
        return found if self._judge is None else self._judged(found, self._judge)

    def _judged(self, found: list[list[Answer]], judge: Judge) -> list[list[Answer]]:
        with self._clock("reward"):
            flat = [one for group in found for one in group]
            worth = iter(judge([(one.row, one.text) for one in flat]))
        return [
            [replace(one, rewards={**one.rewards, ROLE: next(worth)}) for one in group] for group in found
        ]

    def _drawn(self, rows: Sequence[PackedRow], each: int) -> list[list[Answer]]:
        run, tokenizer = self._run, self._run.tokenizer
        assert self._engines is not None
        prompts = [row for row in rows for _ in range(each)]
        wanted = [asked(prompt, _seed(run, prompt, number)) for number, prompt in enumerate(prompts)]
        for prompt, want in zip(prompts, wanted, strict=True):
            self._demand_room(prompt.samples[0], len(want.ids))
        with self._clock("generate"):
            drawn = self._engines.generate(wanted)
        answers = []
        with self._clock("reward"):
            for at, (one, want) in enumerate(zip(drawn, wanted, strict=True)):
                place = prompts[at].samples[0]
                ended = one.ids[-1] in tokenizer.stop_ids
                text = tokenizer.decode(one.ids[:-1] if ended else one.ids)
                row = self._prompts[place]
                worth = rewards.worth(self._rewards, text, row, place)
                ids = np.array([*want.ids, *one.ids], np.int32)
                sample = Sample(f"{place}#{at}", ids, np.arange(len(ids)) >= len(want.ids))
                answers.append(Answer(sample, place, row, text, one, worth, ended))
        return [answers[begin : begin + each] for begin in range(0, len(answers), each)]

    def _demand_room(self, place: str, prompt: int) -> None:
        settings = self._settings
        if prompt + settings.max_new_tokens > settings.window:
            raise PtwError(
                f"{place}: a prompt of {prompt} ids and an answer of max_new_tokens = "
                f"{settings.max_new_tokens} are more than window = {settings.window}; widen the window, or "
                "lower max_new_tokens"
            )

    def _sync(self) -> None:
        """The engines get the weights as they are now."""
        run = self._run
        if self._loaded == run.steps_done:
            return
        with self._clock("sync"):
            state = full_state(run.loaded.module, run.group.first)
            if run.group.first:
                assert self._engines is not None
                folder = run.plan.run_folder() / FOLDER / f"step-{run.steps_done:08d}"
                folder.parent.mkdir(exist_ok=True)
                with weights.made(folder) as aside:
                    weights.write_model(run, aside, state)
                self._engines.load(folder)
                _forget_all_but(folder)
        self._loaded = run.steps_done

    @torch.no_grad()
    def _look_back(self, step: StepRows) -> None:
        """What the model and its reference hold of each token before the step; PtwError beyond the gap."""
        run, settings = self._run, self._settings
        gap = Gap(settings.most_gap)
        for batch in batches(step, settings.rows_at_once, run.group):
            samples = [sample for row in batch.rows for sample in row.samples]
            counts = [len(self._told[sample].answer.drawn.ids) for sample in samples]

            def parts(values_M: Tensor, counts: list[int] = counts) -> Sequence[Tensor]:
                return values_M.float().cpu().split(counts)

            before = parts(self._log_probs(self._model, batch, 1.0))
            heated = before
            if settings.temperature != 1:
                heated = parts(self._log_probs(self._model, batch, settings.temperature))
            reference = heated
            if self._reference is not None:
                with adapter.without(self._reference):
                    reference = parts(self._log_probs(self._reference, batch, settings.temperature))
            for at, sample in enumerate(samples):
                told = self._told[sample]
                told.before, told.heated, told.reference = before[at], heated[at], reference[at]
            gap.add(samples, before, [self._told[sample].engine for sample in samples])
        gap.demand_small(run.group)

    def _log_probs(self, model: nn.Module, batch: Batch, temperature: float) -> Tensor:
        with self._run.computing():
            hidden_BTD = model(batch.ids_BT, batch.layout)
            found_BT = model.head().log_probs(hidden_BTD, batch.targets_BT, temperature)  # type: ignore[operator]
        found_M: Tensor = found_BT[batch.targets_BT != IGNORED]
        return found_M

    def _shares(self, batch: Batch, kept: Sequence[Judged], gap: Tensor) -> dict[str, Tensor]:
        """Of what is told of the whole step: means over its answers, seconds of the first worker."""
        count = len(self._told)
        told: dict[str, float] = {
            "reward": sum(one.answer.reward for one in kept) / count,
            "length": sum(len(one.answer.drawn.ids) for one in kept) / count,
            "ended": sum(one.answer.ended for one in kept) / count,
        }
        names = [*self._rewards, *([] if self._judge is None else [ROLE])]
        if len(names) > 1:
            told |= {
                f"reward_{name}": sum(one.answer.rewards[name] for one in kept) / count for name in names
            }
        speaks = batch.first and self._run.group.first
        told |= {f"{what}_seconds": seconds * speaks for what, seconds in self._seconds.items()}
        return {name: torch.tensor(value) for name, value in told.items()} | {"gap": gap}

    @contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[what] += time.perf_counter() - began


def _seed(run: Run, row: PackedRow, number: int) -> int:
    """Of one answer: of the step, of its prompt, and of its number among the step's answers."""
    return random.Random(f"{run.settings.seed} {run.steps_done} {row.samples[0]} {number}").getrandbits(62)


def _forget_all_but(folder: Path) -> None:
    for old in folder.parent.iterdir():
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
