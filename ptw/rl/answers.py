"""What is an answer that was drawn, and how do answers become rows to learn from?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ptw.data.pack import Key, PackedRow, Pool, lay_out
from ptw.data.sample import Sample
from ptw.rl.engine import Drawn


@dataclass(frozen=True)
class Answer:
    """What was drawn, and what rewards said of it."""

    sample: Sample
    place: str  # of the row that asked
    text: str
    drawn: Drawn
    rewards: dict[str, float]
    ended: bool  # by a stop token, and not because it was as long as may be

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())


class Judged:
    """An answer, its advantage, and of each of its tokens log-probabilities (L,).

    engine: vLLM's. before: the model's when the step began. heated: the same at the temperature that was
    drawn at; reference: so too, of the model that training began with.
    """

    def __init__(self, answer: Answer, advantage: float) -> None:
        self.answer, self.advantage = answer, advantage
        self.engine = torch.tensor(answer.drawn.log_probs)
        self.before = self.heated = self.reference = self.engine


def packed(samples: Sequence[Sample], window: int, epoch: int) -> Iterator[PackedRow]:
    """Rows of these samples, by training's own packing."""
    pool = Pool()
    for at, sample in enumerate(samples):
        pool.add(Key(0, at), 0, sample)
    while len(pool):
        yield lay_out([sample for _, sample in pool.take(window)], window, 0, epoch)
