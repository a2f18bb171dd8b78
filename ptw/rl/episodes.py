"""How do prompts become answers that are judged? By turns: what is drawn, and what is said to that."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptw.data.pack import PackedRow
from ptw.data.prompt import prompt_of
from ptw.data.sample import Sample
from ptw.rl.answers import Answer
from ptw.rl.caller import Caller
from ptw.rl.engine import Asked, Drawn
from ptw.rl.engines import Engines
from ptw.rl.environment import Environment
from ptw.rl.prompts import Prompts, ids_of
from ptw.rl.rewards import Rewards, Row
from ptw.rl.settings import RolloutSettings
from ptw.tokens.chat import Message
from ptw.train.run import Run

Seconds = dict[str, float]  # what took how long


@dataclass
class Episode:
    """A conversation as it grows. `learn`: of each id, whether it was drawn."""

    place: str
    row: Row
    messages: list[Message]
    ids: list[int]
    learn: list[bool]
    drawn: list[Drawn] = field(default_factory=list)
    ended: bool = False  # its last answer, by a stop token
    no_room: bool = False  # it would have gone on

    @property
    def text(self) -> str:
        return str(self.messages[-1]["content"])

    def say(self, drawn: Drawn, text: str, ended: bool) -> None:
        self.drawn.append(drawn)
        self._add(drawn.ids, learn=True)
        self.messages.append({"role": "assistant", "content": text})
        self.ended = ended

    def hear(self, message: Message, ids: Sequence[int]) -> None:
        self.messages.append(message)
        self._add(ids, learn=False)

    def _add(self, ids: Sequence[int], learn: bool) -> None:
        self.ids += ids
        self.learn += [learn] * len(ids)


class Drawer:
    """Of the first worker: asks engines, environment and rewards.

    What it gives is a function of the engines' weights, the prompts, the step and the run's seed, and of
    nothing else: so a thread may ask while the run trains, and one that goes on gets the same again.
    """

    def __init__(self, run: Run, settings: RolloutSettings, engines: Engines) -> None:
        self._settings, self._engines, self._tokenizer = settings, engines, run.tokenizer
        self.prompts = Prompts(run.plan)
        self._caller = Caller(settings.reward_seconds)
        root = run.plan.root
        self._rewards = Rewards(root, settings.rewards or [], self._caller)
        self._environment: Environment | None = None
        if settings.environment is not None:
            self._environment = Environment(root, settings.environment, run.tokenizer, self._caller)

    def answers(self, rows: Sequence[PackedRow], each: int, step: int) -> tuple[list[list[Answer]], Seconds]:
        """To each prompt, which is a row, so many answers of step `step`; what drawing and judging took."""
        seconds: Seconds = dict.fromkeys(("generate", "reward"), 0.0)
        episodes = [self._begun(row) for row in rows for _ in range(each)]
        going = list(enumerate(episodes))
        for turn in range(self._settings.max_turns if self._environment else 1):
            with clocked(seconds, "generate"):
                self._draw(going, step, turn)
            with clocked(seconds, "reward"):
                going = [(at, one) for at, one in going if self._goes_on(one, turn)]
            if not going:
                break
        with clocked(seconds, "reward"):
            answers = [self._judged(at, one) for at, one in enumerate(episodes)]
        return [answers[begin : begin + each] for begin in range(0, len(answers), each)], seconds

    def close(self) -> None:
        self._caller.close()

    def _begun(self, row: PackedRow) -> Episode:
        place, ids = row.samples[0], ids_of(row)
        asked = self.prompts[place]
        return Episode(place, asked, list(prompt_of(dict(asked))[0]), ids, [False] * len(ids))

    def _draw(self, going: Sequence[tuple[int, Episode]], step: int, turn: int) -> None:
        wanted = [Asked(tuple(one.ids), self._seed(step, one.place, at, turn)) for at, one in going]
        stops = self._tokenizer.stop_ids
        for (_, one), drawn in zip(going, self._engines.generate(wanted), strict=True):
            ended = drawn.ids[-1] in stops
            one.say(drawn, self._tokenizer.decode(drawn.ids[:-1] if ended else drawn.ids), ended)

    def _goes_on(self, one: Episode, turn: int) -> bool:
        """Whether another answer is wanted; then it has heard what it answers to."""
        if self._environment is None or turn + 1 == self._settings.max_turns:
            return False
        if one.drawn[-1].ids[-1] != self._environment.end:
            return False  # it was cut off, or ended the text as a whole
        told = self._environment.turn(one.messages, one.row, one.place)
        if told is None:
            return False
        message, ids = told
        one.no_room = len(one.ids) + len(ids) + self._settings.max_new_tokens > self._settings.window
        if not one.no_room:
            one.hear(message, ids)
        return not one.no_room

    def _judged(self, at: int, one: Episode) -> Answer:
        ids, learn = np.array(one.ids, np.int32), np.array(one.learn)
        return Answer(
            sample=Sample(f"{one.place}#{at}", ids, learn),
            place=one.place,
            row=one.row,
            text=one.text,
            drawn=Drawn.joined(one.drawn),
            rewards=self._rewards(one.text, one.row, one.messages, one.place, ended=one.ended),
            ended=one.ended,
            messages=tuple(one.messages),
            turns=len(one.drawn),
            no_room=one.no_room,
        )

    def _seed(self, step: int, place: str, number: int, turn: int) -> int:
        """Of one answer: of the step, of its prompt, of its number among the step's answers, of its turn."""
        parts: list[Any] = [self._settings.seed, step, place, number, *([turn] if turn else [])]
        return random.Random(" ".join(map(str, parts))).getrandbits(62)


@contextmanager
def clocked(seconds: Seconds, what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what] += time.perf_counter() - began
