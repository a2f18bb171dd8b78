"""What is an answer worth to a model of scores, which the recipe `reward` made?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ptw.data.prompt import prompt_of
from ptw.train.roles import open_beside
from ptw.train.run import Run
from ptw.train.scored import rated

ROLE = "judge"
AT_ONCE = 32  # chats

Chat = tuple[Mapping[str, Any], str]  # the row that asked, and an answer
Judge = Callable[[Sequence[Chat]], list[float]]


def judge_of(run: Run) -> Judge | None:
    """Of chats what each is worth; None where the recipe has no judge. All workers call it together."""
    entry = run.plan.roles.get(ROLE)
    if entry is None:
        return None
    model, group = open_beside(run, entry, ROLE, gives_scores=True), run.group

    @torch.no_grad()
    def worth(chats: Sequence[Chat]) -> list[float]:
        own = [_ids(run, *chat) for chat in chats[group.data_rank :: group.data_world]]
        passes = -(-len(chats) // (AT_ONCE * group.data_world))
        parts = [own[at * AT_ONCE : (at + 1) * AT_ONCE] for at in range(passes)]
        mine = [worth for part in parts for _, worth in rated(run, model, part)]
        found = [0.0] * len(chats)
        for rank, values in enumerate(group.by_batch(mine)):
            found[rank :: group.data_world] = values
        return found

    return worth


def _ids(run: Run, row: Mapping[str, Any], answer: str) -> list[int]:
    """As the judge learnt chats: written by the template, whole."""
    messages, tools = prompt_of(dict(row))
    return run.tokenizer.chat([*messages, {"role": "assistant", "content": answer}], tools)
