"""Which items may be recommended to somebody, and what keeps each of the others out?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptw.errors import PtwError
from ptw.evals.attributes import Items
from ptw.evals.cases import Catalogue
from ptw.workspace.problem import hint_of

SEEN = "in the history"


@dataclass(frozen=True)
class Filters:
    """An item has to have one of the values of each key of `where`, and none of `without`."""

    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    again: bool = False  # whether what is in the history may be recommended


@dataclass(frozen=True)
class Kept:
    """What is kept out, by number, with the reasons."""

    out: Mapping[int, tuple[str, ...]]
    allowed_I: Tensor  # bool, of every item of the catalogue


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
