"""What is known only after an event stands after its item, and in no other event; every field comes back."""

from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import Any

SUBJECT = "tokenizer"
LIMITS = {
    "ids": 0,  # sequences with other ids
    "fields": 0,  # sequences whose fields do not come back from their ids
    "leaks": 0,  # changes of what is known after an event that show before its item ends, or in other events
}


def applies(metric: str, ours: dict[str, Any]) -> bool:
    """Whether the tokenizer's events have fields, of which one is known after."""
    return any(key.startswith(f"{metric}/") for key in ours)


def probe(side: Any, inputs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """ids/ROW -> ids; fields/ROW and leaks/ROW, CHANGE -> what is wrong, in words, or nothing."""
    found: dict[str, Any] = {}
    for name, events in inputs["events"].items() if side.has_events else ():
        ids = side.sequence(events.row)
        found[f"ids/{name}"] = ids
        found[f"fields/{name}"] = _lost(events.labels, side.told(ids))
        for (at, key), row in events.changed.items():
            of = f"leaks/{name}, {key} of event {at + 1}"
            found[of] = _leak(ids, side.sequence(row), len(events.labels), at, _kinds(side, events.known))
    return found


def measure(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Nothing of a side that knows no events. A leak of the trainer is one of every side."""
    if not theirs:
        return {}
    wrong = [key.partition("/")[0] for key, said in theirs.items() if isinstance(said, str) and said]
    wrong += ["ids" for key in ours if key.startswith("ids/") and theirs[key] != ours[key]]
    return {metric: float(wrong.count(metric)) for metric in LIMITS if applies(metric, ours)}


def _kinds(side: Any, known: dict[str, str]) -> Callable[[int], set[str]]:
    """Of an id whether it tells of fields that are known before, or after, or of none: of an item."""
    return lambda id_: {known[name] for name in side.fields_of(id_)}


def _lost(wanted: Sequence[dict[str, Any]], told: Sequence[dict[str, Any]]) -> str:
    for at, (one, other) in enumerate(zip(wanted, told, strict=False)):
        if one != other:
            return f"of event {at + 1} {other} comes back, in place of {one}"
    return "" if len(wanted) == len(told) else f"{len(told)} events come back of {len(wanted)}"


def _leak(
    ids: Sequence[int], changed: Sequence[int], events: int, at: int, kinds: Callable[[int], set[str]]
) -> str:
    """Where a change of what is known after event `at` shows, though it must not."""
    ends = [_end_of_item(one, events, at, kinds) for one in (ids, changed)]
    if list(ids[: ends[0]]) != list(changed[: ends[1]]):
        place = _first_difference(ids, changed)
        return f"it changes id {place + 1} of the sequence, which stands before the end of that event's item"
    rest = [
        list(dropwhile(lambda id_: kinds(id_) == {"after"}, one[end:]))
        for one, end in zip((ids, changed), ends, strict=True)
    ]
    if rest[0] != rest[1]:
        return (
            f"it changes what stands in the events after it, from their id {_first_difference(*rest) + 1} on"
        )
    return ""


def _end_of_item(ids: Sequence[int], events: int, at: int, kinds: Callable[[int], set[str]]) -> int:
    """The ids that tell of no field are those of items, of which all have equally many."""
    items = [place for place, id_ in enumerate(ids) if not kinds(id_)]
    return items[(at + 1) * (len(items) // events) - 1] + 1


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
