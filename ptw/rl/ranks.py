"""What are the ranks of an answer that is a list, a title a line, and what is each of them worth?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import log2
from pathlib import Path

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.rl.answers import Answer
from ptw.rl.caller import Caller, files_of
from ptw.rl.rewards import Row
from ptw.rl.titles import plain
from ptw.tokens.tokenizer import Tokenizer

Relevance = Callable[[str], float]  # of a title


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


class Relevances:
    """The sum of `relevance(title, row)` of these files of rewards/; PtwError for one that has none."""

    def __init__(self, root: Path, names: Sequence[str], seconds: float) -> None:
        self._files = files_of(root, "rewards", names, "relevance", "title: str, row: dict")
        self._caller = Caller(seconds)

    def __enter__(self) -> Relevances:
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.close()

    def of(self, row: Row, place: str) -> Relevance:
        """Of a title beside this row; PtwError names file and row."""

        def relevance(title: str) -> float:
            asked = (place, title, dict(row))
            return sum(self._caller.number(file, "relevance", *asked) for file in self._files.values())

        return relevance


def returns(
    titles: Sequence[str], relevance: Relevance, catalogue: Collection[str] | None, outside: float
) -> list[float]:
    """Of each rank the discounted gain of its item and those after it: no earlier one changes it.

    Of a title that stands twice the last one counts. One that the catalogue lacks is worth `outside`.
    """
    gains = []
    for at, title in enumerate(titles):
        if catalogue is not None and title not in catalogue:
            gains.append(outside)
        else:
            gains.append(0.0 if title in titles[at + 1 :] else relevance(title) / log2(at + 2))
    return [sum(gains[at:]) for at in range(len(gains))]


def catalogue_of(root: Path, file: str | None) -> set[str] | None:
    """The titles of a file of the workspace, one a line."""
    if file is None:
        return None
    try:
        return {plain(line) for line in (root / file).read_text(encoding="utf-8").splitlines()} - {""}
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PtwError(
            f"settings: catalogue = {file}: it can't be read ({reason}); name a file of titles"
        ) from error
