"""Which ids are an event: what is known before its item, the item, and what is known after it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ptw.errors import PtwError


class Event(NamedTuple):
    """A model that is asked for the item has read `before`, and never `after`."""

    before: tuple[int, ...]
    item: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.before, *self.item, *self.after)


def events_in(ids: Iterable[int], side_of: Mapping[int, str], item_length: int) -> list[Event]:
    """The events whose ids these are, without what begins a sequence; `side_of` the ids of fields.

    The last one may lack its item: it is asked for.
    """
    found: list[tuple[list[int], ...]] = []
    for id_ in ids:
        side = side_of.get(id_, "item")
        begins = not found or (side != "after" and len(found[-1][1]) == item_length)
        if begins:
            found.append(([], [], []))
        found[-1][("before", "item", "after").index(side)].append(id_)
    return [Event(*(tuple(part) for part in event)) for event in found]


def items_of(values: Mapping[str, Any]) -> list[str]:
    """The items of an event row, the oldest first; PtwError without its place."""
    items = values.get("items")
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        shown = repr(items)
        raise PtwError(
            "an event row needs `items`, a list of item ids; this row has "
            f"{shown if len(shown) <= 80 else shown[:77] + '...'}"
        )
    return [str(item) for item in items]
