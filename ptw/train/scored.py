"""What does a model that gives scores say of each text, and how was the text rated?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ptw.data.pack import lay_out
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.rows import empty, forward_of, last
from ptw.ports.scores import Scores
from ptw.train.judged import Rows

__all__ = ["Scores", "labels_of", "levels_of", "pooled", "rated", "scores"]

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling
    from ptw.train.run import Run


def pooled(run: Run | Labelling, model: nn.Module, batch: Rows) -> Tensor:
    """(N, D) hidden states of the last token of each document of the batch's samples: scores are of these."""
    with run.computing():
        return last(model(batch.ids_BT, batch.layout), batch, run.tokenizer.pad_id)


def scores(run: Run | Labelling, model: nn.Module, batch: Rows) -> Tensor:
    """(N, L) scores of each document of the batch's samples, in fp32 at least."""
    hidden_ND = pooled(run, model, batch)
    with run.computing():
        found_NL = model.head().logits(hidden_ND)  # type: ignore[operator]
    return found_NL.to(torch.promote_types(found_NL.dtype, torch.float32))


def rated(
    run: Run | Labelling, model: nn.Module, chats: Sequence[Sequence[int]]
) -> list[tuple[float, float]]:
    """Of each chat's ids the rating (the score, or of levels the likeliest one), and what it is worth.

    That is the score, or of levels the expected one, which seldom ties. Without a chat the model is computed
    along, for workers that hold it between them.
    """
    width = max((len(ids) for ids in chats), default=1)
    samples = [Sample("", np.array(ids, np.int32), np.zeros(len(ids), bool)) for ids in chats]
    rows = [lay_out([sample], width, run.tokenizer.pad_id or 0) for sample in samples]
    found_NL = scores(run, model, forward_of(rows or [empty(width)], run.group.device))
    levels_L = torch.arange(found_NL.shape[-1], device=found_NL.device, dtype=found_NL.dtype)
    ratings, worths = found_NL.argmax(-1).tolist(), (found_NL.softmax(-1) @ levels_L).tolist()
    if len(levels_L) == 1:
        ratings = worths = found_NL[:, 0].tolist()
    return list(zip(ratings, worths, strict=True))


def levels_of(batch: Rows, levels: int) -> Tensor:
    """(N,) ratings of the batch's samples; PtwError names one that is no level from 0 on."""
    found = []
    for sample, rating in labels_of(batch):
        if rating not in range(levels):
            raise PtwError(
                f"{sample}: rating {rating:g}: with levels = {levels} it must be a whole number from 0 to "
                f"{levels - 1}; rate it anew, or set levels"
            )
        found.append(int(rating))
    return torch.tensor(found, dtype=torch.int64, device=batch.ids_BT.device)


def labels_of(batch: Rows) -> Iterator[tuple[str, Any]]:
    """The batch's samples, each with its label."""
    for row in batch.rows:
        yield from zip(row.samples, row.labels, strict=True)
