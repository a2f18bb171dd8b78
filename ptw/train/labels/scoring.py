"""How does a model of scores rate the chats of a batch?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from ptw.train.labels.rows import Text
from ptw.train.scored import rated

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling


def scores_of(run: Labelling, model: nn.Module) -> Callable[[list[Text]], list[dict[str, Any]]]:
    """Of each text of a batch its `rating`, and its `worth`, which answers are ranked by."""

    def rate(texts: list[Text]) -> list[dict[str, Any]]:
        if not texts and not run.held_between:
            return []
        return [
            {"rating": rating, "worth": worth, "input_tokens": len(text.ids)}
            for text, (rating, worth) in zip(
                texts, rated(run, model, [text.ids for text in texts]), strict=True
            )
        ]

    return rate
