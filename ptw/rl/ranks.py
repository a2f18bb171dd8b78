"""What are the ranks of an answer that is a list, a title a line, and what is each of them worth?"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from math import log2
from pathlib import Path

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.rl.answers import Answer
from ptw.rl.rewards import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace import rooms

NUMBERING = re.compile(r"^\s*(?:\d+\s*[.):]|[-*•])\s*")

Relevance = Callable[[str, Row], float]


def plain(title: str) -> str:
    """Without its numbering, in small letters: how titles are compared."""
    return " ".join(NUMBERING.sub("", title).casefold().split())


def ranked(answer: Answer, tokenizer: Tokenizer) -> tuple[list[str], Tensor]:
    """The titles, and (L,) which of them each token is of; the end of a line is of the line it ends.

    Empty lines are of the title that follows, what follows the last one is of that.
    """
    titles, ranks, line = list[str](), list[int](), ""
    ids = answer.drawn.ids[:-1] if answer.ended else answer.drawn.ids
    for id_ in ids:
        ranks.append(len(titles))
        *ended, line = (line + tokenizer.decode([id_])).split("\n")
        titles += [plain(one) for one in ended if plain(one)]
    titles += [plain(line)] if plain(line) else []
    ranks += [len(titles)] * answer.ended
    return titles, torch.tensor(ranks).clamp(max=max(len(titles) - 1, 0))


def relevance_of(root: Path, names: Sequence[str]) -> Relevance:
    """The sum of `relevance(title, row)` of these files of rewards/; PtwError for one that has none."""
    there, found = rooms.files(root, "rewards"), list[Relevance]()
    for name in names:
        function = getattr(rooms.load(there[name]), "relevance", None)
        if not callable(function):
            raise PtwError(
                f"{there[name]}: has no `def relevance(title: str, row: dict) -> float`: an item needs one"
            )
        found.append(function)
    return lambda title, row: sum(float(function(title, row)) for function in found)


def returns(
    titles: Sequence[str], row: Row, relevance: Relevance, catalogue: Collection[str] | None, outside: float
) -> list[float]:
    """Of each rank the discounted gain of its item and those after it: no earlier one changes it.

    Of a title that stands twice the last one counts. One that the catalogue lacks is worth `outside`.
    """
    gains = []
    for at, title in enumerate(titles):
        if catalogue is not None and title not in catalogue:
            gains.append(outside)
        else:
            gains.append(0.0 if title in titles[at + 1 :] else relevance(title, row) / log2(at + 2))
    return [sum(gains[at:]) for at in range(len(gains))]


def catalogue_of(root: Path, file: str | None) -> set[str] | None:
    """The titles of a file of the workspace, one a line."""
    if file is None:
        return None
    try:
        return {plain(line) for line in (root / file).read_text(encoding="utf-8").splitlines()} - {""}
    except OSError as error:
        raise PtwError(
            f"settings: catalogue = {file}: it can't be read ({error.strerror}); name a file of titles"
        ) from error
