"""What is an answer worth to a model of scores, which the recipe `reward` made?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ptw.data.messages import tools_of
from ptw.rl.answers import Answer
from ptw.train.roles import open_beside
from ptw.train.run import Run
from ptw.train.scored import rated

ROLE = "judge"
AT_ONCE = 32  # chats

Judge = Callable[[Sequence[Answer]], list[float]]


def judge_of(run: Run) -> Judge | None:
    """Of answers what each is worth, with all before it; None where the recipe has no judge.

    All workers call it together.
    """
    entry = run.plan.roles.get(ROLE)
    if entry is None:
        return None
    model, group = open_beside(run, entry, ROLE, gives_scores=True), run.group

    @torch.no_grad()
    def worth(chats: Sequence[Answer]) -> list[float]:
        own = [_ids(run, chat) for chat in chats[group.data_rank :: group.data_world]]
        passes = -(-len(chats) // (AT_ONCE * group.data_world))
        parts = [own[at * AT_ONCE : (at + 1) * AT_ONCE] for at in range(passes)]
        mine = [worth for part in parts for _, worth in rated(run, model, part)]
        found = [0.0] * len(chats)
        for rank, values in enumerate(group.by_batch(mine)):
            found[rank :: group.data_world] = values
        return found

    return worth


def _ids(run: Run, answer: Answer) -> list[int]:
    """As the judge learnt chats: written by the template, whole."""
    return run.tokenizer.chat([dict(one) for one in answer.messages], tools_of(answer.row.get("tools")))
