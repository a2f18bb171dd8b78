"""Which changes of a configuration move the reference's output, alone or where another lets them?

Many at once are tried first: what moves nothing together moves nothing alone. Where they do move something,
halves are tried, down to the change that did it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptw.errors import PtwError
from ptw.verify.drawing.fields import ABSENT, Alternatives, Field, apply
from ptw.verify.drawing.sizes import per_layer, repaired
from ptw.verify.drawing.trials import Trials, Values

ROUNDS = 4  # alternatives of every unmoved field that are tried under what may gate it
PATIENCE = 2  # gates beside which a value may fail before it is left
MOST = {bool: 1, int: 2, float: 2, list: 3}  # values of a field that become cases


@dataclass(frozen=True)
class Change:
    """`values` by dotted name; of those, `gate` is what has to be there for the rest to move anything."""

    fields: tuple[str, ...]
    values: Values
    gate: Values = field(default_factory=dict)

    @property
    def all(self) -> Values:
        return self.gate | self.values

    @property
    def name(self) -> str:
        return " ".join(f"{name}={short(value)}" for name, value in self.values.items())


@dataclass
class Search:
    """What was found from `base` on. `defaults` is what the reference resolves the base to."""

    trials: Trials
    base: Values
    defaults: Values
    moving: list[Change] = field(default_factory=list)
    still: dict[str, list[Change]] = field(default_factory=dict)  # by field: what runs and moves nothing
    failing: dict[str, list[Change]] = field(default_factory=dict)
    tried: dict[str, list[str]] = field(default_factory=dict)  # by field: values, in words

    failed: dict[str, int] = field(default_factory=dict)  # by field: beside how many gates

    def note(self, name: str, values: Iterable[Any]) -> None:
        known = self.tried.setdefault(name, [])
        known += [text for text in map(short, values) if text not in known]

    def with_all(self, changes: Iterable[Change], gate: Values | None = None) -> Values:
        values = apply(self.base, gate or {}, self.defaults)
        for change in changes:
            values = apply(values, change.all, self.defaults)
        return values

    def alone(self, fields: Sequence[Field], alternatives: Alternatives) -> None:
        """Every value of every field by itself; of what seldom matters, all fields at once."""
        meant = [one for one in fields if one.declared or one.name in self.base]
        likely = [one for one in meant if one.own and not one.name.endswith("_id")]
        for one in likely:
            self._values(one, alternatives.of(one))
        unlikely = [one for one in fields if one not in likely]
        values = {one.name: alternatives.of(one) for one in unlikely}
        for at in range(max(map(len, values.values()), default=0)):
            known = self.moved()
            names = [name for name, found in values.items() if at < len(found) and name not in known]
            self._sort([Change((name,), {name: values[name][at]}) for name in names])

    def _values(self, one: Field, values: Sequence[Any]) -> None:
        counts = dict.fromkeys(("value", "left out"), 0)
        words = isinstance(one.default, str)
        for value in values:
            kind = "left out" if value in (None, ABSENT) else "value"
            if counts[kind] < (len(values) if words else MOST.get(type(one.default), 2)):
                lists = per_layer(self.trials.family, self.base | {one.name: value}) if _whole(value) else {}
                lists = {name: entries for name, entries in lists.items() if self.base.get(name) != entries}
                moved = self._sort([Change((one.name,), {one.name: value} | lists)], words)
                counts[kind] += len(moved)
        if one.name not in self.moved() and one.name not in self.still:
            self._beside_another(one, [value for value in values if value not in (None, ABSENT)])

    def _beside_another(self, one: Field, values: Sequence[Any]) -> None:
        """A value that the reference takes only where another field changes too.

        All are tried: whether one of the first few fits would be a matter of the draw.
        """
        for value in values:
            wanted = self.base | {one.name: value}
            with contextlib.suppress(PtwError):
                both = repaired(self.trials, wanted, kept=[one.name], most=1)
                gate = {
                    name: both.get(name, ABSENT)
                    for name in {*both, *wanted}
                    if both.get(name) != wanted.get(name)
                }
                before = self.base | gate
                if not self.trials.runs(before) or self.trials.moves(before, both):
                    self.moving.append(Change((one.name,), {one.name: value}, gate))
                    return

    def _sort(self, changes: list[Change], words: bool = False) -> list[Change]:
        """Into what moves, what doesn't, what doesn't run; gives back those that move."""
        for change in changes:
            self.note(change.fields[0], change.values.values())
        moved = []
        for change, outcome in self._told_apart(changes, self.base):
            if words and outcome == "moves" and self._adds_weights(change):
                outcome = "fails"
            kept = {"moves": None, "still": self.still, "fails": self.failing}[outcome]
            if kept is None:
                moved.append(change)
            else:
                kept.setdefault(change.fields[0], []).append(change)
        self.moving += moved
        return moved

    def _telling(self, change: Change, base: Values) -> Change:
        """A value of the same field that does not undo what its gate does."""
        for one in [change, *self.still[change.fields[0]]]:
            after = apply(base, one.values, self.defaults)
            if self.trials.moves(base, after) and self.trials.moves(self.base, after):
                return one
        return change

    def _adds_weights(self, change: Change) -> bool:
        """An activation with weights of its own is another checkpoint's, not another value of this field."""
        before, after = (self.trials.outcome(one).saved for one in (self.base, self.with_all([change])))
        return set(before) < set(after)

    def _told_apart(self, changes: list[Change], base: Values) -> list[tuple[Change, str]]:
        if not changes:
            return []
        after = base
        for change in changes:
            after = apply(after, change.values, self.defaults)
        runs = self.trials.runs(after)
        if runs and not self.trials.moves(base, after):
            return [(change, "still") for change in changes]
        if len(changes) == 1:
            return [(changes[0], "moves" if runs else "fails")]
        half = len(changes) // 2
        return self._told_apart(changes[:half], base) + self._told_apart(changes[half:], base)

    def moved(self) -> set[str]:
        return {name for change in self.moving for name in change.fields}

    def together(self) -> None:
        """What moves nothing alone: all of it at once, then beside each change that does move something."""
        for at in range(ROUNDS):
            self._among_the_still(at)
        for gate in self._gates():
            self._behind(gate)

    def _gates(self) -> list[Change]:
        """One value of each field, and every RoPE."""
        found: dict[str, Change] = {}
        for change in self.moving:
            name = change.name if change.fields == ("rope_parameters",) else " ".join(change.fields)
            name += " left out" if _left_out(change) else ""
            if not _is_size(change) and not change.gate:
                found.setdefault(name, change)
        return list(found.values())

    def _among_the_still(self, at: int) -> None:
        """Fields that gate one another, as a window and the switch that it needs."""
        changes = [found[at % len(found)] for name, found in self.still.items() if name not in self.moved()]
        while changes and self.trials.moves(self.base, self.with_all(changes)):
            needed = self._needed(changes)
            values = {name: value for change in needed for name, value in change.values.items()}
            names = tuple(name for change in needed for name in change.fields)
            self.moving.append(Change(names, values))
            self._others_behind(names, values)
            changes = [change for change in changes if change not in needed]

    def _needed(self, changes: list[Change]) -> list[Change]:
        """As few of these as still move something."""
        for change in list(changes):
            fewer = [one for one in changes if one is not change]
            if fewer and self.trials.moves(self.base, self.with_all(fewer)):
                changes = fewer
        return changes

    def _others_behind(self, names: tuple[str, ...], values: Values) -> None:
        """Other values of fields that move something only together, one after the other."""
        for name in names:
            gate = {key: value for key, value in values.items() if key != name}
            for change in self.still.get(name, []):
                before, after = self.with_all([], values), self.with_all([change], gate)
                if change.values[name] != values[name] and self.trials.moves(before, after):
                    self.moving.append(Change((name,), change.values, gate))
                    break

    def _behind(self, gate: Change) -> None:
        """What moves nothing alone and something beside this."""
        given, unmoved = gate.all, []
        for name, found in self.still.items():
            others = [one for one in found if given.get(name) != one.values.get(name)]
            if others and name not in self.moved() and self.failed.get(name, 0) < PATIENCE:
                unmoved.append(others[0])
        base = self.with_all([gate])
        for change, outcome in self._told_apart(unmoved, base):
            if outcome == "moves":
                change = self._telling(change, base)
                rest = {name: value for name, value in given.items() if name not in change.values}
                self.moving.append(Change(change.fields, change.values, rest))
            elif outcome == "fails":
                name = change.fields[0]
                self.failed[name] = self.failed.get(name, 0) + 1


def _left_out(change: Change) -> bool:
    return any(value in (None, ABSENT) for value in change.values.values())


def _is_size(change: Change) -> bool:
    """Plain whole numbers let little through that others don't."""
    return all(isinstance(value, int) and not isinstance(value, bool) for value in change.values.values())


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    text = str(value) if not isinstance(value, float) else f"{value:.4g}"
    return text if len(text) <= 40 else f"{text[:37]}..."
