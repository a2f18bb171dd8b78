"""Which settings has every recipe that learns from its own answers?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ptw.train import demand
from ptw.train.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(TrainingSettings):
    """How answers are drawn and judged. A step takes `rows` prompts; its answers are packed as they fit."""

    needs_ray = True  # engines are actors; not annotated: no setting

    learning_rate: float = 1e-6
    rewards: list[str] | None = None  # of rewards/: an answer is worth the sum of what they and a judge say
    reward_seconds: float = 60.0  # a function of rewards/ that takes longer ends the run, and is named
    environment: str | None = None  # of rewards/: its `turn` says what the model is told after an answer
    max_turns: int = 4  # answers of a conversation with an environment
    rows: int = 8  # prompts of a step, over all workers
    answers: int = 8  # to each prompt
    engine: Literal["vllm", "ptw"] = "vllm"  # ptw: drawn by the port itself, slowly, where there is no vLLM
    ahead: Literal[0, 1] = 0  # 1: while a step learns, the answers of the next one are drawn
    max_new_tokens: int = 256  # of one answer
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    most_gap: float = (
        1.05  # mean exp|difference| of the log-probabilities of trainer and vLLM; beyond it stops
    )
    kl: float = 0.0  # how dear it is to leave the model that training began with
    most_correction: float = 2.0  # how much more a token may weigh for being rarer in vLLM than here
    rollout_memory: float = 0.3  # which part of a device's memory vLLM takes
    rollout_seconds: float = 600.0  # an engine that takes longer is lost, and replaced

    @property
    def read_window(self) -> int:
        """A prompt leaves room for an answer."""
        return self.window - self.max_new_tokens

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.positive(max_new_tokens=self.max_new_tokens, max_turns=self.max_turns)
        if self.lora_dropout:
            hint = "answers are drawn, compared and learnt without dropout; leave it at 0"
            demand.refuse("lora_dropout", self.lora_dropout, hint)
        if self.read_window < 1:
            hint = f"window = {self.window} has no room for a prompt beside it; lower it, or widen the window"
            demand.refuse("max_new_tokens", self.max_new_tokens, hint)
        demand.at_least(2, answers=self.answers)
        demand.above_zero(
            temperature=self.temperature,
            top_p=self.top_p,
            rollout_seconds=self.rollout_seconds,
            reward_seconds=self.reward_seconds,
        )
        demand.share(top_p=self.top_p, rollout_memory=self.rollout_memory)
        demand.not_negative(top_k=self.top_k, kl=self.kl)
        demand.at_least(1, most_gap=self.most_gap, most_correction=self.most_correction)
