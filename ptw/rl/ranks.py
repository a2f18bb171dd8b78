"""What are the actions of an answer that is a list, a title a line, and what is each of them worth?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.rl.answers import Answer, Worth
from ptw.rl.caller import Caller, files_of
from ptw.rl.rewards import Row
from ptw.rl.titles import plain
from ptw.tokens.tokenizer import Tokenizer

Relevance = Callable[[str], float]  # of a title


@dataclass(frozen=True)
class Listing:
    """An answer as a list: the titles that count, and (L,) which action each of its tokens is of.

    Actions are these titles in their order, then what follows them, then the end of the answer, as there are.
    """

    titles: list[str]
    action_L: Tensor
    over: int  # titles more than count; less than 0: so many too few

    def worth(self, advantage_K: Tensor, length: float) -> Worth:
        """By what each title is ahead; `length` for an end after the last that counts.

        Its negative for an end before that, and for what follows it.
        """
        values = advantage_K.tolist() or [0.0]
        if self.over > 0:
            values += [-length, 0.0]
        else:
            values += [-length if self.over else length]
        return Worth(torch.tensor(values)[self.action_L], self.action_L)


def listed(answer: Answer, tokenizer: Tokenizer, most: int) -> Listing:
    """So many titles, a line each; the end of a line is of the line that it ends.

    Empty lines are of the title that follows, those after the last one are of that. A line is decoded whole:
    a token alone may lose its blank, or be a part of a letter.
    """
    titles, ranks = list[str](), list[int]()
    held, ended, lines = list[int](), 0, [""]  # since the last end of a line, with the token that has it
    for id_ in answer.drawn.ids[:-1] if answer.ended else answer.drawn.ids:
        ranks.append(len(titles))
        held.append(id_)
        lines = tokenizer.decode(held).split("\n")[ended:]
        if len(lines) > 1:
            titles += filter(None, map(plain, lines[:-1]))
            held, ended = [id_], tokenizer.decode([id_]).count("\n")
    titles += filter(None, [plain(lines[-1])])
    last = min(most, max(len(titles) - 1, 0))
    actions = [min(rank, last) for rank in ranks] + [last + 1] * answer.ended
    return Listing(titles[:most], torch.tensor(actions), len(titles) - most)


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

    But for one: a title that was said before is no hit. (If the last of two counted, each rank alone would
    gain by saying the best title again, and the list would become that.) One that the catalogue lacks is
    worth `outside`.
    """
    gains = []
    for at, title in enumerate(titles):
        if catalogue is not None and title not in catalogue:
            gains.append(outside)
        else:
            gains.append(0.0 if title in titles[:at] else relevance(title) / log2(at + 2))
    return [sum(gains[at:]) for at in range(len(gains))]


def catalogue_of(root: Path, file: str | None) -> set[str] | None:
    """The titles of a file of the workspace, one a line."""
    if file is None:
        return None
    try:
        return {plain(line) for line in (root / file).read_text(encoding="utf-8").split("\n")} - {""}
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PtwError(
            f"settings: catalogue = {file}: it can't be read ({reason}); name a file of titles"
        ) from error
