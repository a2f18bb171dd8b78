"""Direct preference optimisation: of two answers the preferred one becomes the likelier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from ptw.train import demand, pairs
from ptw.train.judged import Rows, learn
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings

FORMATS = ("preference",)


@dataclass(frozen=True)
class Settings(TrainingSettings):
    learning_rate: float = 1e-6
    loss: Literal["dpo", "ipo", "kto", "simpo"] = "dpo"
    beta: float = (
        0.1  # how dear it is to leave the reference; of ipo its tau; of simpo a scale (2 to 2.5 in its paper)
    )
    margin: float = 0.5  # of simpo: by how much the preferred answer's reward should be ahead
    label_smoothing: float = 0.0  # of dpo: which part of the preferences is the wrong way round

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.above_zero(beta=self.beta)
        demand.not_negative(margin=self.margin)
        demand.part(label_smoothing=self.label_smoothing)
        demand.only_with("loss", "dpo", self.loss, label_smoothing=self.label_smoothing)


def train(run: Run, settings: Settings) -> None:
    model = run.model()
    reference = None if settings.loss == "simpo" else pairs.reference(run, model)

    def judged(batch: Rows) -> dict[str, Tensor]:
        ratios_N2 = pairs.log_probs(run, model, batch)
        if reference is not None:
            ratios_N2 = ratios_N2 - reference(batch)
        if settings.loss in ("ipo", "simpo"):  # a long answer weighs no more than a short one
            ratios_N2 = ratios_N2 / pairs.lengths(batch)
        margin_N = settings.beta * (ratios_N2[:, 0] - ratios_N2[:, 1])
        accuracy_N = (margin_N > 0).to(margin_N.dtype)
        return {"loss": loss(ratios_N2, settings), "accuracy": accuracy_N, "margin": margin_N.detach()}

    learn(run, model, judged)


def loss(ratios_N2: Tensor, settings: Settings) -> Tensor:
    """(N,) losses. ratios_N2: log-probabilities of the chosen and the rejected answer over the reference's.

    dpo: Rafailov et al., 2023, its label smoothing: Mitchell, 2023. ipo: Azar et al., 2023, of a token's mean
    ratio. kto: Ethayarajh et al., 2024, with its reference point at 0, as APO-zero (D'Oosterlinck et al.,
    2024). simpo: Meng et al., 2024, of a token's mean log-probability, without a reference.
    """
    beta, smoothing = settings.beta, settings.label_smoothing
    chosen_N, rejected_N = ratios_N2.unbind(-1)
    ahead_N = chosen_N - rejected_N
    if settings.loss == "ipo":
        return (ahead_N - 1 / (2 * beta)).square()
    if settings.loss == "kto":
        return 1 - (beta * chosen_N).sigmoid() + (beta * rejected_N).sigmoid()
    if settings.loss == "simpo":
        return -logsigmoid(beta * ahead_N - settings.margin)
    return -(1 - smoothing) * logsigmoid(beta * ahead_N) - smoothing * logsigmoid(-beta * ahead_N)
