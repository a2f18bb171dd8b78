"""Which configurations of a family show its mistakes? A plain one, stressed ones, and one a field.

Nothing is listed by family: fields come from its config class, and whether one matters is found by trying it
on the reference. Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ptw.verify.drawing import rope_keys, ropes
from ptw.verify.drawing.fields import ABSENT, FULL, WINDOWED, Alternatives, apply, family_fields
from ptw.verify.drawing.merged import merged
from ptw.verify.drawing.search import Change, Search
from ptw.verify.drawing.sizes import WINDOW, Sizes, layers_name, native, odd, per_layer, small
from ptw.verify.drawing.trials import TOKENS, Trials, Values

THOROUGH, ORDINARY, FIELD = "thorough", "ordinary", "field"
LAYERS = 7
LONG, POSITIONS = (1100, 2300), 4096  # tokens of a document that no port can have been made for
COMBINATIONS = 6  # of two changes each, at acceptance
Moving = dict[str, list[Change]]  # by field


@dataclass(frozen=True)
class Configuration:
    """`values` make the config; `changes` are what it is there for (empty for the plain one)."""

    name: str
    kind: str
    values: Values
    changes: Values = field(default_factory=dict)
    fields: tuple[str, ...] = ()  # that it moves
    spelling: str = ""  # of RoPE in config.json: today's, or the key by which older ones name the type
    outliers: bool = False  # a few channels far larger than the rest
    length: int = 0  # of one document, where it is longer than all others
    refused: bool = False  # the reference itself can't be run so: a port must not take it
    published: bool = False  # the checkpoint as the Hub has it, where the reference's own names are others


@dataclass
class Found:
    """A family's configurations and how they were found."""

    sizes: Sizes
    search: Search
    configurations: list[Configuration]


def configurations(trials: Trials, draw: random.Random, *, fresh: bool) -> Found:
    """The plain configuration first. `fresh`: sizes and numbers are drawn, else they are always the same."""
    family = trials.family
    sizes = small(trials)
    plain = sizes.plain
    other = odd(trials, sizes, draw, fresh=fresh)
    search = Search(trials, plain, _resolved(family, plain))
    scaled = list(ropes.scalings(trials, other if fresh else plain, sizes, draw, fresh=fresh))
    search.alone(family_fields(family, plain), Alternatives(family, plain, sizes.names, draw, fresh))
    rope_keys.unscaled_keys(search)
    kinds: dict[str, ropes.Scaling] = {}
    for scaling in ropes.scalings(trials, plain, sizes, random.Random(0), fresh=False):
        search.moving.append(scaling.change)
        kinds[scaling.kind] = scaling  # of two of a type the wider
    brief = {scaling.kind: rope_keys.keys(search, scaling) for scaling in kinds.values()}
    ropes.elsewhere(search, sizes)
    search.together()
    found = [Configuration("plain", THOROUGH, plain), *_thorough(search, sizes, other, draw, fresh)]
    base = other if fresh else plain
    found += (
        Configuration(
            f"rope {one.name}",
            ORDINARY,
            base | one.change.all,
            one.change.all,
            ("rope_parameters", *brief.get(one.kind, ())),
            one.spelling,
        )
        for one in scaled
    )
    found += _combined(search, other, draw) if fresh else ()
    found += _by_field(search)
    return Found(sizes, search, found)


def _resolved(family: Any, values: Values) -> Values:
    config = family(**values)
    rope = getattr(config, "rope_parameters", None)
    return {**config.to_dict(), "rope_parameters": rope}


def _thorough(
    search: Search, sizes: Sizes, other: Values, draw: random.Random, fresh: bool
) -> Iterator[Configuration]:
    trials, plain = search.trials, search.base
    tied = _tie(trials, other)
    # moves no output, but which embedding learns nothing
    padded = native(trials.family, {"pad_token_id": draw.randrange(1, TOKENS)})
    if not trials.runs(other | tied | padded):  # another table of tokens is smaller
        padded = {}
    yield Configuration(
        "odd sizes", THOROUGH, other | tied | padded, tied or _differing(plain, other), tuple(tied)
    )
    by_field: Moving = {}
    moving = [change for change in search.moving if _is_declared(change, search)]
    for change in moving:
        for name in change.fields:
            by_field.setdefault(name, []).append(change)
    switches = [change for change in moving if _is_switch(change)]
    yield from _merged("switches", search, other, _window_for(switches, search), fresh)
    numbers = [
        change
        for change in _firsts(by_field)
        if _is_number(change) and not change.gate and "." not in change.fields[0]
    ]
    numbers += [change for change in search.moving if change.fields == ("rope_parameters.rope_theta",)]
    yield from _merged("numbers", search, plain, [one for one in numbers if not one.gate], fresh)
    windows = _windows(trials, other, draw)
    if windows:
        yield Configuration("windows", THOROUGH, other | windows, windows, tuple(windows))
    every = [draw.choice(changes) if fresh else changes[0] for changes in by_field.values()]
    every = [
        change for change in every if not _is_size(change, sizes) and "rope_parameters" not in change.all
    ]
    if fresh:
        draw.shuffle(every)
    # one RoPE first: of the keys only its own are left
    scaled = [change for change in search.moving if change.fields == ("rope_parameters",)]
    keys = [change for change in search.moving if "rope_parameters" in change.gate]
    if scaled:
        one = draw.choice(scaled) if fresh else max(scaled, key=lambda scaling: _keys_of(scaling, keys))
        every = [one, *keys, *every]
    yield from _merged("everything", search, other | tied, every, fresh)
    if fresh:
        yield Configuration("outliers", ORDINARY, plain, {}, outliers=True)
        length = draw.randrange(*LONG)
        far = plain | native(trials.family, {"max_position_embeddings": POSITIONS})
        # beyond the positions that it says it has, where the reference goes on
        yield Configuration("long", FIELD, plain if trials.reaches(plain, length) else far, length=length)


def _keys_of(scaling: Change, keys: list[Change]) -> int:
    return sum(change.gate == scaling.all for change in keys)


def _merged(
    name: str, search: Search, base: Values, changes: Iterable[Change], fresh: bool
) -> Iterator[Configuration]:
    values, added, fields = merged(search, base, list(changes))
    if fields:
        yield Configuration(name, THOROUGH, values, added, fields)


def _tie(trials: Trials, base: Values) -> Values:
    default = bool(getattr(trials.family(**base), "tie_word_embeddings", False))
    flipped = native(trials.family, {"tie_word_embeddings": not default})
    return flipped if flipped and trials.moves(base, base | flipped) else {}


def _windows(trials: Trials, base: Values, draw: random.Random) -> Values:
    """Windows far below the prompt, in some layers only, in an order that no rule would give."""
    family = trials.family
    window = native(family, {"sliding_window": draw.randrange(5, 40)})
    layers = base.get(layers_name(family), 0)
    kinds = native(family, {"layer_types": [WINDOWED, FULL, WINDOWED, WINDOWED, FULL][:layers]})
    switch = native(family, {"use_sliding_window": True})
    for changes in (window | switch | kinds, window | switch, window, kinds):
        if changes and trials.moves(base, base | changes):
            return changes
    return {}


def _window_for(switches: list[Change], search: Search) -> list[Change]:
    """A window that a switch brings is short enough to show."""
    return [
        Change(change.fields, {"sliding_window": WINDOW} | change.values, change.gate)
        if "sliding_window" in search.base and any("window" in name for name in change.fields)
        else change
        for change in switches
    ]


def _combined(search: Search, base: Values, draw: random.Random) -> Iterator[Configuration]:
    """Two changes at a time that both move the output, whichever comes first."""
    trials, moving = search.trials, [one for one in search.moving if _is_declared(one, search)]
    found = 0
    for _ in range(8 * COMBINATIONS):
        if found == COMBINATIONS or len(moving) < 2:
            return
        first, second = draw.sample(moving, 2)
        if set(first.all) & set(second.all) or not trials.causal(search.with_all([first, second])):
            continue
        alone = [apply(base, one.all, search.defaults) for one in (first, second)]
        both = apply(alone[0], second.all, search.defaults)
        if all(trials.moves(one, both) for one in alone) and trials.decodes(both):
            found += 1
            changes = first.all | second.all
            fields = (*first.fields, *second.fields)
            yield Configuration(f"combination {found}", ORDINARY, both, changes, fields)


def _by_field(search: Search) -> Iterator[Configuration]:
    """The unchanged one first, then each change that moves the output."""
    yield Configuration("field-base", FIELD, search.base)
    if search.trials.published(search.base):
        yield Configuration("as published", FIELD, search.base, published=True)
    yield from _left_out(search)
    found: dict[str, Configuration] = {}
    for change in search.moving:
        values = search.with_all([change])
        if change.fields == ("rope_parameters",):
            continue
        same = found.get(str(values))  # two fields may come to one configuration, which is there for both
        fields = (*(same.fields if same else ()), *change.fields)
        name = same.name if same else f"field {change.name}"
        found[str(values)] = Configuration(name, FIELD, values, change.all, fields)
    yield from found.values()
    yield from _unverifiable(search)


def _unverifiable(search: Search) -> Iterator[Configuration]:
    """A value that the config class takes and that the reference can't be run with in exact arithmetic.

    Of fields that nothing else is known of: nobody can say whether a port follows it.
    """
    family = search.trials.family
    own = {field.name for field in family_fields(family, search.base) if field.own and field.declared}
    for name, changes in search.failing.items():
        change = changes[0]
        if name in search.moved() or name in search.still or name not in own:
            continue
        values = search.with_all([change])
        if search.trials.takes(values) and change.values.get(name) not in (None, ABSENT):
            said = f"field {change.name} refused"
            yield Configuration(said, FIELD, values, change.all, change.fields, refused=True)


def _left_out(search: Search) -> Iterator[Configuration]:
    """As little as a config.json may say: without all that changes nothing, the rest by its other names.

    With more layers than the periods of common patterns, which then come from the family alone.
    """
    trials, values = search.trials, search.base
    family = trials.family
    changes: Values = {}
    patterns = per_layer(family, values)
    for name in search.base:
        without = apply(values, {name: ABSENT}, search.defaults)
        if trials.is_heavy(without):  # a default of a real model's size
            continue
        if trials.runs(without) and (name in patterns or not trials.moves(values, without)):
            values, changes = without, changes | {name: ABSENT}
    for alias, name in getattr(family, "attribute_map", {}).items():
        renamed = {alias if held == name else held: value for held, value in values.items()}
        if name in values and trials.runs(renamed) and not trials.moves(values, renamed):
            values, changes = renamed, changes | {alias: values[name], name: ABSENT}
    deeper = values | {layers_name(family): LAYERS}
    deeper |= {name: kinds for name, kinds in per_layer(family, deeper).items() if name in values}
    if trials.runs(deeper):
        values, changes = deeper, changes | _differing(values, deeper)
    if changes:
        yield Configuration("field left out", FIELD, values, changes)


def _is_declared(change: Change, search: Search) -> bool:
    """What the code only happens to read has a case of its own, where refusing it costs no other field."""
    return all(name.partition(".")[0] in search.defaults for name in change.all)


def _firsts(by_field: Moving) -> list[Change]:
    return [changes[0] for changes in by_field.values()]


def _is_switch(change: Change) -> bool:
    known = any("rope_" in name or name == "tie_word_embeddings" for name in change.all)
    return not known and any(isinstance(value, bool) for value in change.values.values())


def _is_number(change: Change) -> bool:
    return all(isinstance(value, float) for value in change.values.values())


def _is_size(change: Change, sizes: Sizes) -> bool:
    return any(name in sizes.names and name != "sliding_window" for name in change.values)


def _differing(before: Values, after: Values) -> Values:
    return {name: value for name, value in after.items() if before.get(name) != value}
