"""A reward model: a score that is higher for the preferred answer, or a level for every rated one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from ptw.train import demand, scored
from ptw.train.judged import Rows, learn
from ptw.train.pairs import SIDES
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings

FORMATS = ("preference", "rated")


@dataclass(frozen=True)
class Settings(TrainingSettings):
    levels: int | None = None  # of rated chats: their ratings are 0 to levels - 1; of preferences: none
    center: float = 0.0  # of preferences: how strongly the mean of both scores is drawn to 0; 0.01 is usual

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.positive(levels=1 if self.levels is None else self.levels)
        demand.not_negative(center=self.center)
        demand.only_with("levels", None, self.levels, center=self.center)


def train(run: Run, settings: Settings) -> None:
    format = "preference" if settings.levels is None else "rated"
    demand.format_of_data(run.plan, format, f"levels = {settings.levels}")
    model = run.model(scores=scored.Scores(settings.levels or 1))

    def judged(batch: Rows) -> dict[str, Tensor]:
        scores_NL = scored.scores(run, model, batch)
        if settings.levels is None:
            return preferred(scores_NL.view(-1, SIDES), settings.center)
        return rated(scores_NL, scored.levels_of(batch, settings.levels))

    learn(run, model, judged)


def preferred(scores_N2: Tensor, center: float) -> dict[str, Tensor]:
    """Bradley and Terry, 1952, as of Ouyang et al., 2022; centred as of Eisenstein et al., 2023."""
    chosen_N, rejected_N = scores_N2.unbind(-1)
    ahead_N = chosen_N - rejected_N
    loss_N = -logsigmoid(ahead_N) + center * (chosen_N + rejected_N).square()
    return {"loss": loss_N, "accuracy": (ahead_N > 0).to(ahead_N.dtype), "margin": ahead_N.detach()}


def rated(scores_NL: Tensor, levels_N: Tensor) -> dict[str, Tensor]:
    """Cross entropy of the level; the level that is expected is how far off, on average."""
    levels_L = torch.arange(scores_NL.shape[-1], device=scores_NL.device, dtype=scores_NL.dtype)
    expected_N = scores_NL.detach().softmax(-1) @ levels_L
    exact_N = (scores_NL.argmax(-1) == levels_N).to(scores_NL.dtype)
    loss_N = cross_entropy(scores_NL, levels_N, reduction="none")
    return {"loss": loss_N, "accuracy": exact_N, "level_error": (expected_N - levels_N).abs()}
