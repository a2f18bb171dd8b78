"""Which item comes next in each sequence, and what is known before it?

Protocol: the test is a sequence's last item, its input all before it; the validation is the last but one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptw.data.render import events_of, render
from ptw.data.sample import Sample
from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.files.read import Row
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
            return [self._numbers[item] for item in events_of(row)]
        except PtwError as error:
            raise PtwError(f"{row.place}: {error}") from error
        except KeyError as error:
            raise PtwError(
                f"{row.place}: item {error} is not in the catalogue; add it to the items, or drop the event"
            ) from error


@dataclass(frozen=True)
class Case:
    """One sequence: what is known of it, and which item comes next. Items are numbers of the catalogue."""

    input: Sample  # the ids that a model reads, the newest that fit its window
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
    if tokenizer.vocabularies:
        return Catalogue(vocabulary_of(tokenizer).items)
    vocabulary = sorted((id_, token) for token, id_ in tokenizer.hf.get_vocab().items())
    return Catalogue(tuple(token for id_, token in vocabulary if id_ not in tokenizer.special_ids))


def cases(
    root: Path,
    dataset: DatasetEntry,
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    split: Split,
    window: int,
    about: Sequence[str] = (),
) -> Iterator[Case]:
    """Sequences with at least one item before the target; of an input the newest items fit the window.

    So do the codes of the item that comes next, but for its last one, which no model reads.
    """
    before = dataclasses.replace(dataset, leave_out=BACK[split])
    first = 0 if tokenizer.bos_id is None else 1
    for row in rows(root, dataset.source):
        ids = render(row, before, tokenizer).ids
        if len(ids) <= first:
            continue
        *seen, target = (numbers := catalogue.numbers(row))[: len(numbers) - BACK[split] + 1]
        newest = (window - first - tokenizer.item_length + 1) // tokenizer.item_length * tokenizer.item_length
        kept = np.concatenate([ids[:first], ids[first:][-newest:]]).astype(np.int32)
        yield Case(
            Sample(row.place, kept, np.zeros(len(kept), bool)),
            tuple(seen),
            target,
            None if (user := row.value.get("id")) is None else str(user),
            {key: row.value.get(key) for key in about},
        )
