"""What does a model that gives scores say of each text, and how was the text rated?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.evals.rows import last
from ptw.train.judged import Rows

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling
    from ptw.train.run import Run


def scores(run: Run | Labelling, model: nn.Module, batch: Rows) -> Tensor:
    """(N, L) scores of each document of the batch's samples, in fp32 at least: of its last token."""
    with run.computing():
        hidden_BTD = model(batch.ids_BT, batch.layout)
        found_NL = model.head().logits(last(hidden_BTD, batch))  # type: ignore[operator]
    return found_NL.to(torch.promote_types(found_NL.dtype, torch.float32))


def levels_of(batch: Rows, levels: int) -> Tensor:
    """(N,) ratings of the batch's samples; PtwError names one that is no level from 0 on."""
    rated = [
        (sample, rating)
        for row in batch.rows
        for sample, rating in zip(row.samples, row.ratings, strict=True)
    ]
    for sample, rating in rated:
        if rating not in range(levels):
            raise PtwError(
                f"{sample}: rating {rating:g}: with levels = {levels} it must be a whole number from 0 to "
                f"{levels - 1}; rate it anew, or set levels"
            )
    return torch.tensor([int(rating) for _, rating in rated], device=batch.ids_BT.device)
