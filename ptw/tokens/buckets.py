"""Which label does a value of a field get: one of its values, an interval of numbers, a part of a time?

A reader raises ValueError, which says what would do, for what is no value of its field.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.entries import written
from ptw.workspace.manifest import FieldEntry

OTHER = "other"
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
LATEST = 253_402_300_800  # seconds: the year 10000
DAY, HOUR, FIRST_DAY = 86_400, 3_600, 3  # 1 January 1970 was a Thursday
SHOWN = 8  # values in a message

Reader = Callable[[Any], str]


def intervals(bounds: Sequence[float]) -> tuple[str, ...]:
    """..60, 60..600, 600..: the lower bound of each is in it."""
    texts = ["", *(str(bound) for bound in bounds), ""]
    return tuple(f"{low}..{high}" for low, high in pairwise(texts))


def labels_of(field: FieldEntry) -> tuple[str, ...]:
    """All that a field tells apart, in the order of their tokens."""
    if field.part == "hour":
        return tuple(f"{hour:02d}" for hour in range(24))
    return WEEKDAYS if field.part == "weekday" else field.values or intervals(field.bounds)


def reader_of(field: FieldEntry) -> Reader:
    """Of a value that is not null; of the part gap, of its seconds."""
    if field.values:
        return _of_values(field)
    if field.part == "hour":
        return lambda value: f"{_clock(value)[0]:02d}"
    if field.part == "weekday":
        return lambda value: WEEKDAYS[_clock(value)[1]]
    return _of_bounds(field.bounds)


def gaps(key: str, values: Sequence[Any]) -> list[float | None]:
    """The seconds since the event before; None where one of the two times is not known.

    PtwError: events that do not stand in the order of their times.
    """
    found: list[float | None] = []
    before: float | None = None
    for at, value in enumerate(values):
        try:
            now = None if value is None else seconds(value)
        except ValueError as error:
            raise PtwError(f"`{key}` of event {at + 1} is {value!r}: {error}") from error
        found.append(None if now is None or before is None else now - before)
        if (found[-1] or 0) < 0:
            raise PtwError(
                f"`{key}` of event {at + 1} is {value!r}, earlier than that of event {at}: events stand "
                "in the order of their times"
            )
        before = now
    return found


def seconds(value: Any) -> float:
    """Unix seconds of a time: a number of them, ISO 8601, or what parquet has for it."""
    if _is_number(value):
        if not -LATEST < value < LATEST:
            raise ValueError(
                "it lies beyond the year 9999; a time is in seconds, so divide milliseconds by 1000"
            )
        return value
    found = _moment(value)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _clock(value: Any) -> tuple[int, int]:
    """Hour and weekday where the time was written; of Unix seconds in UTC."""
    if _is_number(value):
        second = math.floor(seconds(value))
        return second % DAY // HOUR, (second // DAY + FIRST_DAY) % 7
    found = _moment(value)
    return found.hour, found.weekday()


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError(
            "it must be a time, Unix seconds or ISO 8601 as 2026-11-22T20:15:00+01:00, or null"
        ) from None


def _of_bounds(bounds: Sequence[float]) -> Reader:
    labels = intervals(bounds)

    def read(value: Any) -> str:
        if not _is_number(value):
            raise ValueError("it must be a number, or null")
        return labels[bisect_right(bounds, value)]

    return read


def _of_values(field: FieldEntry) -> Reader:
    known = frozenset(field.values)

    def read(value: Any) -> str:
        if isinstance(value, float) and value.is_integer():  # a column with nulls, as pandas has it
            value = int(value)
        text = written(value) if isinstance(value, str | int) else None
        if text in known:
            return str(text)
        if OTHER in known:
            return OTHER
        listed = ", ".join(field.values[:SHOWN]) + (", ..." if len(field.values) > SHOWN else "")
        raise ValueError(
            f"none of the values of field {field.name} ({listed}); add it to them, or add "
            f'"{OTHER}", which stands for all that are not listed'
        )

    return read


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
