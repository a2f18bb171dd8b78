"""Which sequences of events show a field where it must not be? Some at random, with all changes of it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ptw.errors import PtwError
from ptw.tokens.fields import AFTER, BEFORE, Fields
from ptw.tokens.tokenizer import Tokenizer

LONGEST = 6  # events
FIRST_SECOND = 1_700_000_000
UNKNOWN = 0.15  # of the values


@dataclass(frozen=True)
class AwkwardEvents:
    """A row of events, and what its ids must tell.

    `labels`: of each event, by field. `changed`: the row with another value, by what was changed of it: the
    event's number, from 0, and a key that is known only after the event. `known`: of each field when it is.
    """

    row: Mapping[str, Any]
    labels: tuple[Mapping[str, str | None], ...]
    changed: Mapping[tuple[int, str], Mapping[str, Any]]
    known: Mapping[str, str]


def at_random(tokenizer: Tokenizer, seed: int, count: int) -> Iterator[tuple[str, AwkwardEvents]]:
    """So many of them, by name; none of a tokenizer without fields."""
    draw, names = random.Random(seed), _names(tokenizer)
    pools = {key: _pool(tokenizer.fields, key) for key in tokenizer.fields.keys(BEFORE, AFTER)}
    for number in range(count if pools and names else 0):
        length = draw.randint(1, LONGEST)
        row: dict[str, Any] = {"items": [draw.choice(names) for _ in range(length)]}
        for key, pool in pools.items():
            drawn: list[Any] = draw.choices(pool, k=length) if pool else [None] * length
            rising = sorted(drawn) if _is_time(tokenizer.fields, key) else drawn
            row[key] = [None if draw.random() < UNKNOWN else value for value in rising]
        yield f"at random {number}", of_row(tokenizer, row)


def of_row(tokenizer: Tokenizer, row: Mapping[str, Any], first: int | None = None) -> AwkwardEvents:
    """Of a row, or its first so many events; PtwError where the tokenizer takes no such row."""
    keys = ["items", *tokenizer.fields.keys(BEFORE, AFTER)]
    events = len(row["items"])
    tokenizer.fields.labels(row, events, events)
    own = {key: list(row[key])[:first] for key in keys}
    events = len(own["items"])
    tokenizer.item_ids([str(item) for item in own["items"]])
    columns = tokenizer.fields.labels(own, events, events)
    labels = tuple({name: column[at] for name, column in columns.items()} for at in range(events))
    known = {field.name: field.known for field in tokenizer.fields.declared}
    return AwkwardEvents(own, labels, dict(_changes(tokenizer.fields, own)), known)


def _changes(fields: Fields, row: Mapping[str, Any]) -> Iterator[tuple[tuple[int, str], Mapping[str, Any]]]:
    for key in fields.keys(AFTER):
        pool = [None, *_pool(fields, key)]
        for at, value in enumerate(row[key]):
            told = _told(fields, key, value)
            other = next((one for one in pool if _told(fields, key, one) != told), value)
            yield (at, key), {**row, key: [*row[key][:at], other, *row[key][at + 1 :]]}


def _told(fields: Fields, key: str, value: Any) -> list[str | None]:
    """The labels of the fields that read this key."""
    alone = Fields(field for field in fields.declared if field.key == key)
    return [column[0] for column in alone.labels({key: [value]}, 1, 1).values()]


def _pool(fields: Fields, key: str) -> list[Any]:
    """Values of a key that all of its fields take: those listed, those at bounds and beside them, times."""
    own = [field for field in fields.declared if field.key == key]
    tried: list[Any] = [value for field in own for value in field.values]
    tried += [int(value) for value in tried if value.isdecimal()]
    for bound in (bound for field in own for bound in field.bounds):
        tried += [bound, math.nextafter(bound, -math.inf), math.nextafter(bound, math.inf)]
    if _is_time(fields, key):
        tried = [FIRST_SECOND + hour * 3600 for hour in range(0, 200, 7)]
    return [value for value in tried if _takes(fields, key, value)]


def _is_time(fields: Fields, key: str) -> bool:
    return any(field.part for field in fields.declared if field.key == key)


def _takes(fields: Fields, key: str, value: Any) -> bool:
    try:
        _told(fields, key, value)
    except PtwError:
        return False
    return True


def _names(tokenizer: Tokenizer) -> list[str]:
    """Of items, as events name them."""
    if not tokenizer.vocabularies:
        return list(tokenizer.item_names)
    name, ids = next(iter(tokenizer.vocabularies.items()))
    return list(ids.items) if len(tokenizer.vocabularies) == 1 else [f"{name}:{item}" for item in ids.items]
