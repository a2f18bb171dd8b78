"""How much of what moves a family can stand in one configuration? As much as runs and still shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ptw.verify.drawing import ropes
from ptw.verify.drawing.fields import apply
from ptw.verify.drawing.search import Change, Search
from ptw.verify.drawing.trials import Values

Merged = tuple[Values, Values, tuple[str, ...]]  # the values, what was changed in them, its fields


def merged(search: Search, base: Values, changes: Sequence[Change]) -> Merged:
    """Each change that runs and moves the output beside those before it, in their order."""
    found = _added(search, base, changes, search.trials.causal)
    if not found[2] or search.trials.decodes(found[0]):
        return found

    def sound(after: Values) -> bool:  # one of them is at fault, which is seldom
        return search.trials.causal(after) and search.trials.decodes(after)

    return _added(search, base, changes, sound)


def _added(
    search: Search, base: Values, changes: Sequence[Change], sound: Callable[[Values], bool]
) -> Merged:
    values, added = base, dict[str, object]()
    fields: list[str] = []
    for change in changes:
        beside = _beside(change, values)
        if beside is None or set(change.fields) <= set(fields):
            continue
        after = apply(values, beside, search.defaults)
        if search.trials.moves(values, after) and sound(after):
            values, added = after, added | beside
            fields += change.fields
    return values, added, tuple(dict.fromkeys(fields))


def _beside(change: Change, values: Values) -> Values | None:
    """What it changes in these values; None for a key of a RoPE that isn't theirs."""
    needed = change.gate.get("rope_parameters")
    if needed is None:
        return change.all
    if ropes.types(needed) != ropes.types(values.get("rope_parameters") or {}):
        return None
    return change.values
