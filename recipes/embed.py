"""Embeddings: a query's vector comes near to its document's, and far from all other documents of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ptw.train import demand, retrieval, vectors
from ptw.train.contrast import Compared, told_apart
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings
from ptw.train.vectors import Judge

FORMATS = ("pair",)


@dataclass(frozen=True)
class Settings(TrainingSettings):
    pooling: Literal["mean", "last"] = "mean"  # of a text's tokens: the mean of all, or the last one
    temperature: float = 0.05
    symmetric: bool = False  # a document is to find its query as well
    widths: list[int] | None = None  # shorter vectors, cut from the full one, that are to do as well

    def demand_sense(self) -> None:
        super().demand_sense()
        demand.above_zero(temperature=self.temperature)
        vectors.demand_same_dropout(self)


def train(run: Run, settings: Settings) -> None:
    model = run.model(pooling=settings.pooling)
    embed = vectors.embedder(run, model, settings.pooling)
    widths = vectors.widths_of(model, settings.widths)
    whole = vectors.Whole(run, embed, judge(settings, widths))
    optimizer = run.optimizer()
    for batch in run.batches():
        if run.due():
            retrieval.measure(run, model, embed, widths)
        shares = whole.shares(batch)
        run.step(optimizer, shares.pop("loss"), **shares)
    retrieval.measure(run, model, embed, widths)
    run.save(model)


def judge(settings: Settings, widths: list[int]) -> Judge:
    """The mean over vectors cut to each width (Kusupati et al., 2022); accuracy is of the full one."""

    def judged(vectors_KD: Tensor, compared: Compared) -> dict[str, Tensor]:
        found = [info_nce(vectors_KD[:, :width], compared, settings) for width in widths]
        return {"loss": torch.stack([loss for loss, _ in found]).mean(), "accuracy": found[0][1]}

    return judged


def info_nce(vectors_KD: Tensor, compared: Compared, settings: Settings) -> tuple[Tensor, Tensor]:
    """The loss of van den Oord et al., 2018, and for which part of the queries their document is the nearest.

    Negatives are all other documents of the step, hard ones of every query among them (Karpukhin et al.,
    2020), but for those that are right as well.
    """
    unit_KD = normalize(vectors_KD, dim=-1)
    queries_ND, documents_MD = unit_KD[compared.queries_N], unit_KD[compared.candidates_M]
    targets_N, temperature = compared.targets_N, settings.temperature
    loss_N, nearest_N = told_apart(queries_ND, documents_MD, targets_N, compared.excused, temperature)
    if settings.symmetric:
        own_N = torch.arange(len(targets_N), device=targets_N.device)
        back = told_apart(documents_MD[targets_N], queries_ND, own_N, compared.excused_back, temperature)
        loss_N = (loss_N + back[0]) / 2
    return loss_N.mean(), nearest_N.mean()
