"""What is an answer that was drawn, and how do answers become rows to learn from?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ptw.data.pack import Key, PackedRow, Pool, lay_out
from ptw.data.sample import Sample
from ptw.nn.nucleus import Drawable
from ptw.rl.engine import Drawn


@dataclass(frozen=True)
class Answer:
    """What was drawn, and what rewards said of it: one answer, or those of a conversation."""

    sample: Sample
    place: str  # of the row that asked
    row: Mapping[str, Any]  # as the file has it
    text: str  # of the last one
    drawn: Drawn  # what is learnt, and nothing else
    rewards: dict[str, float]
    ended: bool  # by a stop token, and not because it was as long as may be
    messages: tuple[Mapping[str, Any], ...] = ()  # with those of the prompt
    turns: int = 1  # answers
    no_room: bool = False  # another one had no room in the window

    @property
    def reward(self) -> float:
        return sum(self.rewards.values())


@dataclass(frozen=True)
class Worth:
    """What the tokens of an answer (L,) are worth, and which action each belongs to, counted from 0.

    An action is what is chosen as one: the whole answer, or an item of a list.
    """

    advantage_L: Tensor
    action_L: Tensor

    @classmethod
    def of_whole(cls, answer: Answer, advantage: float) -> Worth:
        count = len(answer.drawn.ids)
        return cls(torch.full((count,), advantage), torch.zeros(count, dtype=torch.int64))

    @property
    def actions(self) -> int:
        return int(self.action_L.max()) + 1


@dataclass
class Judged:
    """An answer, what it is worth, and of each of its tokens log-probabilities (L,).

    All are at the temperature, among what the token could be drawn from (`among`; None: all tokens). engine:
    as it drew. before: of the same weights, in the trainer. reference: of the model that training began with;
    where it is not asked for, the same.
    """

    answer: Answer
    worth: Worth
    before: Tensor
    reference: Tensor
    among: Drawable | None = None

    @classmethod
    def of(cls, answer: Answer, worth: Worth) -> Judged:
        """Until the trainer has looked, as the engine has it."""
        engine = torch.tensor(answer.drawn.log_probs)
        return cls(answer, worth, engine, engine)

    @property
    def engine(self) -> Tensor:
        return torch.tensor(self.answer.drawn.log_probs)


def packed(samples: Sequence[Sample], window: int, epoch: int) -> Iterator[PackedRow]:
    """Rows of these samples, by training's own packing."""
    pool = Pool()
    for at, sample in enumerate(samples):
        pool.add(Key(0, at), 0, sample)
    while len(pool):
        yield lay_out([sample for _, sample in pool.take(window)], window, 0, epoch)


def rewards_of(answers: Sequence[Sequence[Answer]]) -> Tensor:
    """(P, N) of N answers to each of P prompts, in fp64."""
    return torch.tensor([[one.reward for one in group] for group in answers], dtype=torch.float64)


def wholes(answers: Sequence[Sequence[Answer]], advantages_PN: Tensor) -> list[list[Worth]]:
    """Each answer as one action."""
    return [
        [Worth.of_whole(one, advantage) for one, advantage in zip(group, advantage_N, strict=True)]
        for group, advantage_N in zip(answers, advantages_PN.tolist(), strict=True)
    ]


def per_action(values_M: Tensor, action_M: Tensor) -> Tensor:
    """(A,) means over the tokens of each action, which are counted from 0; 0 of one without any."""
    count = int(action_M.max()) + 1 if len(action_M) else 0
    sums_A = values_M.new_zeros(count).index_add(0, action_M, values_M)
    tokens_A = values_M.new_zeros(count).index_add(0, action_M, torch.ones_like(values_M))
    return sums_A / tokens_A.clamp(min=1)


def numbered(worths: Sequence[Worth]) -> Tensor:
    """(M,) which action of the batch each token is of."""
    begins = accumulate((worth.actions for worth in worths), initial=0)
    parts = [worth.action_L + begin for worth, begin in zip(worths, begins, strict=False)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *parts])
