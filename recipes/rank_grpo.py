"""Rank-GRPO: each rank of a list is an action, worth what it and the ranks after it bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ptw.rl.answers import Answer, Worth, per_action
from ptw.rl.ranks import Relevances, catalogue_of, listed, returns
from ptw.rl.reference import divergence
from ptw.rl.rollouts import rolling_out
from ptw.rl.settings import RolloutSettings
from ptw.train import demand
from ptw.train.run import Run

FORMATS = ("prompt",)
REWARDS = {"rewards": ("reward", "relevance")}
FILES = ("catalogue",)


@dataclass(frozen=True)
class Settings(RolloutSettings):
    """Zhu et al., 2025. An answer is a list of titles, each worth what `relevance` of the rewards says."""

    titles: int = 0  # of a list, as the prompts ask for them; those after them count for nothing
    length: float = (
        0.1  # what an end after so many is ahead by; one before, and what follows, is behind by it
    )
    catalogue: str | None = None  # a file with a title a line; what it lacks is no hit, whatever rewards say
    outside: float = 0.0  # what a title is worth that the catalogue lacks
    weigh: Literal["titles", "tokens"] = "titles"  # what counts the same; tokens: no pull to shorter titles
    clip_low: float = 0.2
    clip_high: float = 0.2

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.inside(clip_low=self.clip_low)
        demand.above_zero(clip_high=self.clip_high)
        if self.titles < 1:
            demand.refuse("titles", self.titles, "say how many a list has, as titles = 10")
        demand.not_negative(length=self.length)
        if not self.rewards:
            demand.refuse("rewards", None, 'name a file that has `relevance`: rewards = ["hits"]')
        if self.environment is not None:
            demand.refuse("environment", self.environment, "a list is one answer; leave the line out")


def train(run: Run, settings: Settings) -> None:
    model, optimizer = run.model(), run.optimizer()
    relevances = Relevances(run.plan.root, settings.rewards or [], settings.reward_seconds)
    catalogue = catalogue_of(run.plan.root, settings.catalogue)

    def appraise(answers: list[list[Answer]]) -> list[list[Worth]]:
        found = []
        for group in answers:
            lists = [listed(one, run.tokenizer, settings.titles) for one in group]
            worth = [
                returns(one.titles, relevances.of(answer.row, answer.place), catalogue, settings.outside)
                for answer, one in zip(group, lists, strict=True)
            ]
            ahead = advantages(worth, settings.titles)
            found.append([one.worth(a_K, settings.length) for a_K, one in zip(ahead, lists, strict=True)])
        return found

    with relevances, rolling_out(run, model, optimizer, appraise) as rollouts:
        for batch in run.batches(rollouts.of_step):
            if run.due():
                rollouts.measure()
            told = rollouts.told(batch)
            now_M = rollouts.log_probs(batch)
            change_A = per_action(now_M - told.before_M, told.action_M)
            advantage_A = per_action(told.advantage_M, told.action_M)
            loss_A = surrogate(change_A, advantage_A, settings) * per_action(told.correction_M, told.action_M)
            weight_A = weights(told.action_M, told.actions, told.tokens, settings)
            shares = dict(told.shares)
            if settings.kl:
                kl_A = per_action(divergence(now_M, told.reference_M), told.action_M)
                loss_A = loss_A + settings.kl * kl_A
                shares["kl"] = (weight_A * kl_A).sum()
            run.step(optimizer, (weight_A * loss_A).sum(), **shares)
        rollouts.measure()
    run.save(model)


def advantages(returns_of: Sequence[Sequence[float]], titles: int) -> list[Tensor]:
    """Of each list (K,): each rank beside that of the other lists to the prompt, 0 where one has none."""
    table_NR = torch.zeros(len(returns_of), titles, dtype=torch.float64)
    for row_R, values in zip(table_NR, returns_of, strict=True):
        row_R[: len(values)] = torch.tensor(values, dtype=torch.float64)
    ahead_NR = (table_NR - table_NR.mean(0)) / (table_NR.std(0) + 1e-6)
    return [row_R[: len(values)] for row_R, values in zip(ahead_NR, returns_of, strict=True)]


def weights(action_M: Tensor, actions: int, tokens: int, settings: Settings) -> Tensor:
    """(A,) of each action of the batch, in a step of so many actions and tokens."""
    lengths_A = torch.bincount(action_M)
    if settings.weigh == "tokens":
        return lengths_A / tokens
    return torch.ones_like(lengths_A) / actions


def surrogate(change_A: Tensor, advantage_A: Tensor, settings: Settings) -> Tensor:
    """(A,) of the mean change of an item's log-probabilities: a ratio that knows no length of titles."""
    ratio_A = change_A.exp()
    clipped_A = ratio_A.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    return -torch.minimum(ratio_A * advantage_A, clipped_A * advantage_A)
