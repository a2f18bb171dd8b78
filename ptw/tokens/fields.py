"""Which fields do events have beside their item, and which tokens stand for their values?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.tokens.buckets import gaps, labels_of, reader_of
from ptw.tokens.merges import Pair, Side, joined, merged
from ptw.workspace.manifest import FieldEntry, field_entry

FILE = "event_fields.json"  # beside a tokenizer; transformers and vLLM take no notice of it
BEFORE, AFTER = "before", "after"
KEPT = 2**16  # sides whose merges are remembered


class Fields:
    """The declared fields in their order, and the pairs of their tokens that are merged, in theirs.

    A label is what is told apart of a field's values, None what is not known; each has a token.
    """

    def __init__(self, declared: Iterable[FieldEntry] = (), merges: Iterable[Pair] = ()) -> None:
        self.declared = tuple(declared)
        self.merges = tuple(merges)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._merged: dict[Side, Side] = {}
        self._readers = {field.name: reader_of(field) for field in self.declared}
        self._tokens = {
            field.name: {label: token(field.name, label) for label in (None, *labels_of(field))}
            for field in self.declared
        }

    def __bool__(self) -> bool:
        return bool(self.declared)

    @cached_property
    def said(self) -> dict[str, dict[str, str | None]]:
        """Of each token, in the order of their ids, the labels that it stands for, by field."""
        found: dict[str, dict[str, str | None]] = {
            own: {name: label} for name, tokens in self._tokens.items() for label, own in tokens.items()
        }
        for left, right in self.merges:
            found[joined(left, right)] = {**found[left], **found[right]}
        return found

    @cached_property
    def side_of(self) -> dict[str, str]:
        """Of each token whether it stands before or after the item."""
        known = {field.name: field.known for field in self.declared}
        return {own: known[next(iter(labels))] for own, labels in self.said.items()}

    @cached_property
    def unlearnt(self) -> list[str]:
        """The tokens that no model learns to say. Only fields that are alike in this are merged."""
        learnt = {field.name for field in self.declared if field.learn}
        return [own for own, labels in self.said.items() if not labels.keys() & learnt]

    def may_join(self, left: str, right: str) -> bool:
        """Whether a model learns to say both, or neither."""
        learnt = {field.name: field.learn for field in self.declared}
        return learnt[_first_field(left)] == learnt[_first_field(right)]

    def keys(self, *known: str) -> list[str]:
        """Of a row: those that the fields are read from which are known then."""
        return list(dict.fromkeys(one.key for one in self.declared if one.known in known))

    def parsed(self, key: str, text: str) -> str | float:
        """A value of the key that somebody typed: a number where a field of it reads numbers, or may."""
        if all(field.values for field in self.declared if field.key == key):
            return text
        try:
            return float(text)
        except ValueError:
            return text

    def labels(self, values: Mapping[str, Any], events: int, first: int) -> dict[str, list[str | None]]:
        """Of each field the labels of the first so many events of a row that has so many of them.

        PtwError without the row's place: a list that is not there or of another length, or a value that the
        field does not have.
        """
        lists = {key: _listed(values, key, events)[:first] for key in self.keys(BEFORE, AFTER)}
        return {field.name: self._labels(field, lists[field.key]) for field in self.declared}

    def sides(self, values: Mapping[str, Any], events: int, first: int) -> list[tuple[Side, Side]]:
        """The tokens before and after the item of each of the first events; PtwError as of `labels`."""
        labels = self.labels(values, events, first)
        both = []
        for known in (BEFORE, AFTER):
            own = [one.name for one in self.declared if one.known == known]
            columns = [[self._tokens[name][label] for label in labels[name]] for name in own]
            side = list(zip(*columns, strict=True)) if columns else [()] * first
            both.append([self._merge(one) for one in side] if self.merges else side)
        return list(zip(*both, strict=True))

    def _labels(self, field: FieldEntry, values: Sequence[Any]) -> list[str | None]:
        read = self._readers[field.name]
        given = gaps(field.key, values) if field.part == "gap" else values
        return [None if value is None else _told(field, at, value, read) for at, value in enumerate(given)]

    def _merge(self, side: Side) -> Side:
        if side not in self._merged:
            if len(self._merged) >= KEPT:
                self._merged.clear()
            self._merged[side] = merged(side, self._ranks)
        return self._merged[side]

    def as_json(self) -> dict[str, Any]:
        declared = {field.name: dataclasses.asdict(field) for field in self.declared}
        # a list, for the order is that of the tokens
        return {"fields": list(declared.values()), "merges": [list(pair) for pair in self.merges]}

    def save(self, folder: Path) -> None:
        """Beside the tokenizer, where there are any; OSError where they can't be written."""
        if self:
            (folder / FILE).write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def token(name: str, label: str | None) -> str:
    """No label is empty, so that <|device=|> is free for what is not known."""
    return f"<|{name}={label or ''}|>"


def _first_field(token: str) -> str:
    return token.removeprefix("<|").partition("=")[0]


def read(folder: Path) -> Fields:
    """Those that were saved beside a tokenizer; PtwError where they can't be read."""
    file = folder / FILE
    if not file.is_file():
        return Fields()
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        declared = [field_entry(**one) for one in values["fields"]]
        found = Fields(declared, [(left, right) for left, right in values["merges"]])
        _ = found.said  # a merge of tokens that there are not
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PtwError(f"{file}: no fields of events ({error!r}); restore it, or export again") from error


def _listed(values: Mapping[str, Any], key: str, events: int) -> list[Any]:
    found = values.get(key)
    if not isinstance(found, list):
        raise PtwError(
            f"an event row needs `{key}`, a list with a value for each of its {events} items; this row has "
            f"{_short(found)}; null stands for what is not known"
        )
    if len(found) != events:
        raise PtwError(
            f"`{key}` has {len(found)} values for {events} items; give one for each, and null for what is "
            "not known"
        )
    return found


def _told(field: FieldEntry, at: int, value: Any, read: Callable[[Any], str]) -> str:
    try:
        return read(value)
    except ValueError as error:
        raise PtwError(f"`{field.key}` of event {at + 1} is {_short(value)}: {error}") from error


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
