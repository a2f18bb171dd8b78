"""What is there to label: which rows, in which batches, so that each is computed the same every time?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.data.messages import messages_of, tools_of
from ptw.data.prompt import prompt_of
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.rows import groups
from ptw.tokens.chat import Message
from ptw.train.labels.store import Key
from ptw.workspace.manifest import DatasetEntry

LOOK_AHEAD = 32  # batches whose rows are sorted by length
# keys of a row that its label says in another form, or that an earlier refusal said
OWN = ("prompt", "messages", "message", "refused")


@dataclass(frozen=True)
class Item:
    """A row: what is asked in it, or the chat that is to be scored; `rest` are its other keys."""

    row: int
    place: str
    messages: list[Message]
    tools: list[Any] | None
    rest: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """Ids that a model is given, and the row that they are of."""

    key: Key
    ids: list[int]
    item: Item


def items(root: Path, dataset: DatasetEntry) -> Iterator[Item]:
    """In order. PtwError names a row that is not of the dataset's format."""
    of = prompt_of if dataset.format == "prompt" else _chat_of
    for number, row in enumerate(rows(root, dataset.source)):
        try:
            messages, tools = of(row.value)
        except PtwError as error:
            raise PtwError(f"{row.place}: {error}") from error
        rest = {key: value for key, value in row.value.items() if key not in OWN}
        yield Item(number, row.place, messages, tools, rest)


def batches(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    """Of texts of like length, the longest of those ahead first.

    They depend on the texts alone, not on what is labelled already nor on the number of workers: a text is
    computed beside the same others whenever it is computed again, so that it is to the bit the same.
    """
    for ahead in groups(texts, size * LOOK_AHEAD):
        yield from groups(sorted(ahead, key=lambda text: (-len(text.ids), text.key)), size)


def pending(
    together: Iterable[list[Text]], known: Callable[[Key], bool], rank: int, world: int
) -> Iterator[list[Text]]:
    """This worker's share of the batches that are not all known, as many for each worker; some are empty."""
    open_ones = (batch for batch in together if not all(known(text.key) for text in batch))
    for round_ in groups(open_ones, world):
        yield round_[rank] if rank < len(round_) else []


def _chat_of(values: dict[str, Any]) -> tuple[list[Message], list[Any] | None]:
    return messages_of(values.get("messages")), tools_of(values.get("tools"))
