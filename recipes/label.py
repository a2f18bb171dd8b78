"""A teacher labels a dataset: prompts are answered, chats are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from ptw.train import demand
from ptw.train.labels import compose
from ptw.train.labels.answering import Drawing
from ptw.train.labels.publish import publish
from ptw.train.labels.run import Labelling
from ptw.train.labels.settings import LabelSettings

FORMATS = ("prompt", "chat")
OPTIONAL_ROLES = ("judge",)
SERVED = ("model",)


@dataclass(frozen=True)
class Settings(LabelSettings):
    answers: int = 1  # drawn for each prompt
    keep: Literal["all", "best", "pair"] = "all"  # of the answers; what is best the judge says
    temperature: float = 0.0  # 0 takes the likeliest token
    max_new_tokens: int = 512
    cut_off: Literal["refuse", "keep"] = "refuse"  # an answer that had not ended by then

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.positive(answers=self.answers, max_new_tokens=self.max_new_tokens)
        demand.not_negative(temperature=self.temperature)
        if self.answers > 1 and not self.temperature:
            demand.refuse("temperature", 0.0, f"all {self.answers} answers would be the same; set it above 0")
        if self.keep != "all" and self.answers == 1:
            demand.refuse("answers", 1, f"keep = {self.keep} needs several; set it to 2 or more")


def train(run: Labelling, settings: Settings) -> None:
    if run.dataset.format == "chat":
        scored(run, settings)
    else:
        answered(run, settings)


def scored(run: Labelling, settings: Settings) -> None:
    settings.demand_unset(("answers", "keep", "temperature", "max_new_tokens", "cut_off"), "on chats")
    scores = run.scores(run.plan.model, "model")
    publish(run, "rated", chain.from_iterable(compose.rated(item, scores) for item in run.items()))


def answered(run: Labelling, settings: Settings) -> None:
    judge = run.plan.roles.get("judge")
    if settings.keep != "all" and judge is None:
        demand.refuse("keep", settings.keep, 'the recipe needs roles = { judge = "..." }, a model of scores')
    drawing = Drawing(
        settings.answers, settings.temperature, settings.max_new_tokens, settings.cut_off == "keep"
    )
    answers = run.answers(drawing, judged=judge is not None)
    scores = None if judge is None else run.scores(judge, "judge", answers)
    composed = {"all": compose.every, "best": compose.best, "pair": compose.pair}[settings.keep]

    def lines() -> Iterator[dict[str, Any]]:
        for item in run.items():
            yield from composed(item, compose.answered(item, answers, scores))

    publish(run, "preference" if settings.keep == "pair" else "chat", lines())
