"""How does a model of scores rate the chats of a batch?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ptw.data.pack import lay_out
from ptw.data.sample import Sample
from ptw.evals.rows import empty, forward_of
from ptw.train.labels.rows import Text
from ptw.train.scored import scores

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling


def scores_of(run: Labelling, model: nn.Module) -> Callable[[list[Text]], list[dict[str, Any]]]:
    """Of each text of a batch its `rating`: the score, or of levels the likeliest one.

    `worth` is what answers are ranked by: of levels the one that is expected, which seldom ties.
    """

    def rate(texts: list[Text]) -> list[dict[str, Any]]:
        if not texts and not run.held_between:
            return []
        width = max((len(text.ids) for text in texts), default=1)
        samples = [Sample("", np.array(text.ids, np.int32), np.zeros(len(text.ids), bool)) for text in texts]
        rows = [lay_out([sample], width, run.tokenizer.pad_id or 0) for sample in samples]
        found_NL = scores(run, model, forward_of(rows or [empty(width)], run.group.device))
        levels_L = torch.arange(found_NL.shape[-1], device=found_NL.device, dtype=found_NL.dtype)
        likeliest_N, expected_N = found_NL.argmax(-1).tolist(), (found_NL.softmax(-1) @ levels_L).tolist()
        if len(levels_L) == 1:
            likeliest_N = expected_N = found_NL[:, 0].tolist()
        return [
            {"rating": likeliest, "worth": expected, "input_tokens": len(text.ids)}
            for text, likeliest, expected in zip(texts, likeliest_N, expected_N, strict=True)
        ]

    return rate
