"""Which item comes next in each sequence, and what is known before it?

Protocol: the test is a sequence's last item, its input all before it; the validation is the last but one.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptw.data.fit import newest
from ptw.data.render import sequence
from ptw.data.sample import Sample
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.events import Event, items_of
from ptw.tokens.fields import AFTER, BEFORE
from ptw.tokens.tokenizer import Tokenizer, vocabulary_of
from ptw.workspace.manifest import DatasetEntry

Split = Literal["validation", "test"]
BACK: dict[Split, int] = {"test": 1, "validation": 2}  # the how manieth last item is the target


@dataclass(frozen=True)
class Catalogue:
    """The items that are ranked, by name; an item's number is its place among them."""

    names: tuple[str, ...]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def get(self, name: str) -> int | None:
        """The item's number; None for what is not in the catalogue."""
        return self._numbers.get(name)

    def numbers(self, row: Row) -> list[int]:
        """The items of an event row; PtwError with the row's place."""
        try:
            return [self._numbers[item] for item in items_of(row.value)]
        except PtwError as error:
            raise PtwError(f"{row.place}: {error}") from error
        except KeyError as error:
            raise PtwError(
                f"{row.place}: item {error} is not in the catalogue; add it to the items, or drop the event"
            ) from error


@dataclass(frozen=True)
class Case:
    """One sequence: what is known of it, and which item comes next. Items are numbers of the catalogue."""

    input: Sample  # the ids that a model reads, the newest events that fit its window
    seen: tuple[int, ...]  # the whole input's items, also those that the window cuts off
    target: int
    user: str | None = None  # the row's `id`
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # other keys of the row, as asked for


def split_of(dataset: DatasetEntry) -> Split:
    """What may be measured while training: the last but one where it is held out, else the last."""
    if dataset.format != "event" or dataset.leave_out < 1:
        raise PtwError(
            f"dataset {dataset.name}: ranking needs events that were held out; "
            'give it format = "event" and leave_out = 2'
        )
    return "validation" if dataset.leave_out >= BACK["validation"] else "test"


def catalogue_of(tokenizer: Tokenizer) -> Catalogue:
    """Every item of its semantic IDs; else every token that is no special one, in the order of the ids."""
    items = vocabulary_of(tokenizer).items if tokenizer.vocabularies else tokenizer.item_names
    return Catalogue(items)


def cases(
    root: Path,
    dataset: DatasetEntry,
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    split: Split,
    window: int,
    about: Sequence[str] = (),
    chosen: Container[int] | None = None,
) -> Iterator[Case]:
    """Sequences with at least one item before the target; of an input the newest events fit the window.

    Of the target the input has what is known before it, and never what is known after. `about`: keys of the
    row; of one that fields are read from, the target's. `chosen`: the numbers of those that are wanted, of as
    many as `count` says; the others are not made.
    """
    for number, (row, items) in enumerate(_with_input(root, dataset, split)):
        if chosen is not None and number not in chosen:
            continue
        at = len(items) - BACK[split]  # the target's place
        try:
            *before, asked = tokenizer.events(items, row.value, at + 1)
            input_ = input_of(row.place, tokenizer, before, asked, window)
        except PtwError as error:
            raise PtwError(f"{row.place}: {error}") from error
        numbers, own = catalogue.numbers(row), tokenizer.fields.keys(BEFORE, AFTER)
        yield Case(
            input_,
            tuple(numbers[:at]),
            numbers[at],
            None if (user := row.value.get("id")) is None else str(user),
            {key: row.value[key][at] if key in own else row.value.get(key) for key in about},
        )


def count(root: Path, dataset: DatasetEntry, split: Split) -> int:
    """How many sequences `cases` gives."""
    return sum(1 for _ in _with_input(root, dataset, split))


def drawn(of: int, most: int, seed: int) -> frozenset[int]:
    """So many of the numbers below `of`, at random; all where there are no more."""
    numbers = np.random.default_rng(seed).choice(of, size=min(of, most), replace=False)
    return frozenset(numbers.tolist())


def evenly(of: int, most: int) -> range:
    """At most so many of the numbers below `of`, each as far from the next."""
    return range(0, of, max(1, -(-of // most)))


def _with_input(root: Path, dataset: DatasetEntry, split: Split) -> Iterator[tuple[Row, list[str]]]:
    for row in rows(root, dataset.source):
        try:
            items = items_of(row.value)
        except PtwError as error:
            raise PtwError(f"{row.place}: {error}") from error
        if len(items) > BACK[split]:
            yield row, items


def input_of(place: str, tokenizer: Tokenizer, before: Sequence[Event], asked: Event, window: int) -> Sample:
    """What a model reads to say the item of `asked`: the newest events, and what is known before the item.

    The item's codes fit the window, too, but for the last one, which no model reads. PtwError: no room.
    """
    begun = 0 if tokenizer.bos_id is None else 1
    room = window - begun - len(asked.before) - tokenizer.item_length + 1
    if room < 0:
        raise PtwError(f"a window of {window} has no room for an item and its fields; widen it")
    kept = before[len(before) - newest([len(event.ids) for event in before], room) :]
    return sequence(place, tokenizer, [*kept, Event(asked.before, (), ())])
