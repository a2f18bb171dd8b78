"""Which items may be recommended to somebody, and what keeps each of the others out?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.evals.attributes import Items
from ptw.evals.cases import Catalogue
from ptw.workspace.problem import hint_of

SEEN = "in the history"


@dataclass(frozen=True)
class Filters:
    """An item has to have one of the values of each key of `where`, and none of `without`.

    It stands in each file of `only`, and in none of `never`: rules that somebody else has worked out.
    """

    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    again: bool = False  # whether what is in the history may be recommended
    only: Sequence[Path] = ()  # text files, an item's id on each line
    never: Sequence[Path] = ()


@dataclass(frozen=True)
class Kept:
    """What is kept out, by number, with the reasons."""

    out: Mapping[int, tuple[str, ...]]
    allowed_I: Tensor  # bool, of every item of the catalogue


def listed(file: Path, catalogue: Catalogue) -> frozenset[str]:
    """The items that a text file has, each on a line; PtwError where it can't be read or has none of them."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PtwError(f"{file}: can't be read ({error}); an item's id on each line is wanted") from error
    items = frozenset(line.strip() for line in lines if line.strip())
    if not any(catalogue.get(item) is not None for item in items):
        first = f"{min(items)!r} among them" if items else "it is empty"
        raise PtwError(f"{file}: no line is the id of an item that the model knows ({first})")
    return items


def filtered(catalogue: Catalogue, items: Items | None, filters: Filters, history: Sequence[str]) -> Kept:
    """PtwError for a key or value that no item has, and where nothing is left."""
    out: dict[int, tuple[str, ...]] = {}
    for number, reason in _reasons(catalogue, items, filters, history):
        out[number] = (*out.get(number, ()), reason)
    allowed_I = torch.ones(len(catalogue.names), dtype=torch.bool)
    allowed_I[list(out)] = False
    if not allowed_I.any():
        raise PtwError("no item is left to recommend: the filters exclude each other, or everything")
    return Kept(out, allowed_I)


def _reasons(
    catalogue: Catalogue, items: Items | None, filters: Filters, history: Sequence[str]
) -> Iterator[tuple[int, str]]:
    """Of every filter the items that it keeps out."""
    if not filters.again:
        seen = (catalogue.get(item) for item in dict.fromkeys(history))
        yield from ((number, SEEN) for number in seen if number is not None)
    for key, wanted in filters.where.items():
        for number, own in enumerate(_values(items, key, wanted)):
            if not set(own) & set(wanted):
                yield number, f"{key} = {', '.join(own) or 'nothing'}, not {' or '.join(wanted)}"
    for key, unwanted in filters.without.items():
        for number, own in enumerate(_values(items, key, unwanted)):
            if found := [value for value in own if value in unwanted]:
                yield number, f"{key} = {', '.join(found)}"
    for file in filters.only:
        kept = listed(file, catalogue)
        yield from ((n, f"not in {file.name}") for n, item in enumerate(catalogue.names) if item not in kept)
    for file in filters.never:
        gone = listed(file, catalogue)
        yield from ((n, f"in {file.name}") for n, item in enumerate(catalogue.names) if item in gone)


def _values(items: Items | None, key: str, asked: Sequence[str]) -> Sequence[tuple[str, ...]]:
    """What each item has; PtwError for a value that none has."""
    if items is None:
        raise PtwError(f"{key}: no file of items is known for this model, so nothing has attributes")
    own = items.of(key)
    known = {text for texts in own for text in texts}
    for value in asked:
        if value not in known:
            raise PtwError(f"{key} = {value}: no item has it; {hint_of(value, sorted(known), 'values')}")
    return own
