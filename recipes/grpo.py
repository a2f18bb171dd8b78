"""GRPO: answers drawn to one prompt are compared with each other, and the better ones become likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ptw.rl.answers import Answer, Worth, rewards_of, wholes
from ptw.rl.reference import divergence
from ptw.rl.rollouts import rolling_out
from ptw.rl.settings import RolloutSettings
from ptw.train import demand
from ptw.train.run import Run

FORMATS = ("prompt",)
OPTIONAL_ROLES = ("judge",)
REWARDS = {"rewards": ("reward",), "environment": ("turn",)}


@dataclass(frozen=True)
class Settings(RolloutSettings):
    """grpo: Shao et al., 2024. dr: Liu et al., 2025 (Dr. GRPO). rloo: Ahmadian et al., 2024. dapo: Yu et al.,
    2025, is clip_high = 0.28 with weigh = "tokens".
    """

    advantage: Literal["grpo", "dr", "rloo"] = "grpo"
    weigh: Literal["answers", "tokens", "constant"] = "tokens"  # what counts the same; constant: of Dr. GRPO
    clip_low: float = 0.2  # how far a token's probability may fall in a step, as a part of what it was
    clip_high: float = 0.2  # how far it may rise
    learn_cut_off: bool = (
        True  # from answers that max_new_tokens cut off too; false: DAPO's overlong filtering
    )

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.inside(clip_low=self.clip_low)
        demand.above_zero(clip_high=self.clip_high)


def train(run: Run, settings: Settings) -> None:
    model, optimizer = run.model(), run.optimizer()

    def appraise(answers: list[list[Answer]]) -> list[list[Worth]]:
        ahead_PN = advantages(rewards_of(answers), settings)
        return wholes(answers, ahead_PN * learnt(answers, settings))

    with rolling_out(run, model, optimizer, appraise) as rollouts:
        for batch in run.batches(rollouts.of_step):
            if run.due():
                rollouts.measure()
            told = rollouts.told(batch)
            now_M = rollouts.log_probs(batch)
            loss_M, clipped_M = surrogate(now_M, told.before_M, told.advantage_M, settings)
            loss_M = loss_M * told.correction_M
            figures = {"clipped": clipped_M}
            if settings.kl:
                figures["kl"] = divergence(now_M, told.reference_M)
                loss_M = loss_M + settings.kl * figures["kl"]
            weight_M = weights(told.lengths_M, told.answers, told.tokens, settings)
            shares = {name: (weight_M * value_M).sum() for name, value_M in figures.items()}
            run.step(optimizer, (weight_M * loss_M).sum(), **shares, **told.shares)
        rollouts.measure()
    run.save(model)


def advantages(rewards_PN: Tensor, settings: Settings) -> Tensor:
    """(P, N) of N answers to each of P prompts: what each is worth beside the others to the same prompt."""
    ahead_PN = rewards_PN - rewards_PN.mean(-1, keepdim=True)
    answers = rewards_PN.shape[-1]
    if settings.advantage == "rloo":  # the mean of the others is the baseline
        return ahead_PN * (answers / (answers - 1))
    if settings.advantage == "dr":
        return ahead_PN
    return ahead_PN / (rewards_PN.std(-1, keepdim=True) + 1e-6)


def learnt(answers: Sequence[Sequence[Answer]], settings: Settings) -> Tensor:
    """(P, N) of answers that are learnt from; those that were cut off are beside them in any case."""
    return torch.tensor([[settings.learn_cut_off or one.ended for one in group] for group in answers])


def surrogate(
    now_M: Tensor, before_M: Tensor, advantage_M: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """(M,) losses of tokens (PPO, Schulman et al., 2017), and whether the clip took their gradient."""
    ratio_M = (now_M - before_M).exp()
    plain_M = ratio_M * advantage_M
    clipped_M = ratio_M.clamp(1 - settings.clip_low, 1 + settings.clip_high) * advantage_M
    return -torch.minimum(plain_M, clipped_M), (clipped_M < plain_M).to(now_M.dtype)


def weights(lengths_M: Tensor, answers: int, tokens: int, settings: Settings) -> Tensor:
    """(M,) of tokens of answers of these lengths: over all `tokens` of all `answers` they make a mean."""
    if settings.weigh == "tokens":
        return torch.full_like(lengths_M, 1 / tokens)
    if settings.weigh == "constant":
        return torch.full_like(lengths_M, 1 / (answers * settings.max_new_tokens))
    return 1 / (answers * lengths_M)
