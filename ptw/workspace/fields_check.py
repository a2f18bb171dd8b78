"""Can events have the fields that a tokenizer declares, and their tokens the merges?"""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from ptw.workspace.document import Document
from ptw.workspace.entries import Entry, formats_of, tables, text_of, unknown, written
from ptw.workspace.problem import Problem

ITEMS = ("items", "semantic_ids")
OWN_KEYS = ("id", "items")  # of an event row
Path = tuple[str | int, ...]


def event_problems(document: Document, name: str, entry: Entry) -> Iterator[Problem]:
    """Of a tokenizer's fields and merges; what is of another type the schema has told of."""
    path, fields = ("tokenizers", name), declared(entry)
    if "fields" in entry and not any(key in entry for key in ITEMS):
        hint = "add items or semantic_ids, or remove the fields"
        yield document.problem(
            (*path, "fields"), None, "only events have fields, and items no token here", hint
        )
    for one, field in fields.items():
        yield from field_problems(document, (*path, "fields", one), one, field)
    yield from key_problems(document, path, fields)
    yield from merge_problems(document, name, entry, fields)


def declared(entry: Entry) -> dict[str, Entry]:
    fields = entry.get("fields")
    found = fields.items() if isinstance(fields, dict) else ()
    return {name: field for name, field in found if isinstance(field, dict)}


def field_problems(document: Document, path: Path, name: str, field: Entry) -> Iterator[Problem]:
    part = field.get("part")
    given = [key for key in ("values", "bounds", "part") if key in field]
    if not given:
        hint = "add values, bounds, or part: hour or weekday of a time, or gap"
        yield document.problem(path, None, "nothing says which values are told apart", hint)
    if len(given) > 1 and not (part == "gap" and given == ["bounds", "part"]):
        hint = 'remove one; only part = "gap" has bounds'
        yield document.problem((*path, given[1]), field[given[1]], f"stands beside {given[0]}", hint)
    if part == "gap" and "bounds" not in field:
        hint = "add bounds, in seconds: [3600, 86400]"
        yield document.problem((*path, "part"), part, "a gap is told apart by intervals", hint)
    if part == "gap" and field.get("known") == "after":
        hint = 'set known = "before"'
        message = "the time since the event before is known before, and the next event would tell of this one"
        yield document.problem((*path, "known"), "after", message, hint)
    if key_of(name, field) in OWN_KEYS:
        hint = 'name another key of the row: key = "..."'
        where = (*path, "key") if "key" in field else path
        yield document.problem(where, field.get("key"), "a row of events has it for something else", hint)
    yield from value_problems(document, (*path, "values"), field.get("values"))
    yield from bound_problems(document, (*path, "bounds"), field.get("bounds"))


def value_problems(document: Document, path: Path, values: Any) -> Iterator[Problem]:
    known = values if isinstance(values, list) else []
    texts = [written(one) for one in known]
    counts = Counter(texts)
    for number, (value, text) in enumerate(zip(known, texts, strict=True)):
        if not isinstance(value, str | int):
            continue
        if "|" in text or not text.isprintable():
            hint = 'name it otherwise in the data, or let "other" stand for it'
            yield document.problem((*path, number), value, "it has a | or what can't be printed", hint)
        if counts[text] > 1 and texts.index(text) != number:
            yield document.problem((*path, number), value, "a value twice", "remove one")


def bound_problems(document: Document, path: Path, bounds: Any) -> Iterator[Problem]:
    numbers = [one for one in bounds if type(one) in (int, float)] if isinstance(bounds, list) else []
    for number, (low, high) in enumerate(pairwise(numbers), start=1):
        if not low < high:
            message, hint = f"not more than the one before it, {low}", "put them in rising order, each once"
            yield document.problem((*path, number), high, message, hint)


def key_problems(document: Document, path: Path, fields: dict[str, Entry]) -> Iterator[Problem]:
    """A list of a row is known before an event, or after it."""
    first: dict[str, str] = {}
    for name, field in fields.items():
        key = key_of(name, field)
        other = first.setdefault(key, name)
        known = [field.get("known"), fields[other].get("known")]
        if told(field) and told(fields[other]) and known[0] != known[1]:
            message = f"field {other} reads the same key, {key}, and is known {known[1]}"
            hint = "what one of them is made of is known, or it is not: give both the same"
            yield document.problem((*path, "fields", name, "known"), known[0], message, hint)


def merge_problems(
    document: Document, name: str, entry: Entry, fields: dict[str, Entry]
) -> Iterator[Problem]:
    path, source = ("tokenizers", name), text_of(entry, "merges_from")
    if source is not None and source not in tables(document, "datasets"):
        yield unknown(document, (*path, "merges_from"), source, "datasets")
    elif source is not None and set(formats_of(document, source).values()) != {"event"}:
        yield document.problem(
            (*path, "merges_from"), source, "not of events alone", "name a dataset of events"
        )
    alike = Counter((field.get("known"), learnt(field)) for field in fields.values() if told(field))
    if "merges" in entry and fields and max(alike.values(), default=0) < 2:
        hint = "remove the line, or declare a further field"
        message = "nothing to merge: no two fields are known before an item, or after it, and learnt alike"
        yield document.problem((*path, "merges"), entry["merges"], message, hint)


def told(field: Entry) -> bool:
    return field.get("known") in ("before", "after")


def learnt(field: Entry) -> bool:
    learn = field.get("learn")
    return learn if isinstance(learn, bool) else field.get("known") == "after"


def key_of(name: str, field: Entry) -> str:
    return text_of(field, "key") or name
