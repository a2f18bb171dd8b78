"""Which keys of a RoPE move a family's output? Each that its type reads, alone and beside another.

Imports transformers: runs in the case maker's process only.
"""

from __future__ import annotations

from typing import Any

from ptw.verify.drawing.fields import apply
from ptw.verify.drawing.ropes import Scaling, kinds_of, read
from ptw.verify.drawing.search import Change, Search
from ptw.verify.drawing.trials import Values


def keys(search: Search, scaling: Scaling) -> tuple[str, ...]:
    """Every key that this type reads, moved away from what the scaling has; those that need one another.

    Gives those that show on short documents only, where the scaling's own case has some.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

    gate, path = scaling.change.all, scaling.paths[0]
    base = apply(search.base, gate, search.defaults)
    rope = base
    for name in path.split("."):
        rope = rope[name]
    known = read(ROPE_INIT_FUNCTIONS[rope["rope_type"]])
    kinds = RopeParameters.__annotations__
    still: Values = {}
    moved: Values = {}
    brief = []
    for key in dict.fromkeys(["partial_rotary_factor", *known]):
        if key not in kinds or key in ("rope_type", "rope_theta"):
            continue
        values = _values(key, rope.get(key), str(kinds[key]))
        search.note(f"rope_parameters.{key}", values)
        found = next((value for value in values if _moves(search, base, {f"{path}.{key}": value})), None)
        if found is not None:
            moved[f"{path}.{key}"] = found
            search.moving.append(Change((f"rope_parameters.{key}",), {f"{path}.{key}": found}, gate))
        elif any(_moves_briefly(search, base, {f"{path}.{key}": value}) for value in values):
            brief.append(f"rope_parameters.{key}")
        else:
            runs = (value for value in values if _runs(search, base, {f"{path}.{key}": value}))
            still |= {f"{path}.{key}": value for value in [next(runs, None)] if value is not None}
    _together(search, gate, moved, still)
    return tuple(brief)


def _together(search: Search, gate: Values, moved: Values, still: Values) -> None:
    """Keys that move nothing alone: all of them at once, or each beside one that does move something."""
    base = apply(search.base, gate, search.defaults)
    if len(still) > 1 and _moves(search, base, still):
        names = tuple(f"rope_parameters.{path.rpartition('.')[2]}" for path in still)
        search.moving.append(Change(names, still, gate))
        return
    for path, value in still.items():
        for other, held in moved.items():
            if _moves(search, apply(base, {other: held}, search.defaults), {path: value}):
                name = f"rope_parameters.{path.rpartition('.')[2]}"
                search.moving.append(Change((name,), {path: value}, gate | {other: held}))
                break


def unscaled_keys(search: Search) -> None:
    """The base angle and the turned part, for every kind of layer that has its own."""
    default = search.defaults.get("rope_parameters") or {}
    for place in kinds_of(default) or [""]:
        path = f"rope_parameters.{place}" if place else "rope_parameters"
        for key, values in {"rope_theta": (700.0,), "partial_rotary_factor": (0.5, 0.25)}.items():
            search.note(f"rope_parameters.{key}", values)
            for value in values:
                if _moves(search, search.base, {f"{path}.{key}": value}):
                    search.moving.append(Change((f"rope_parameters.{key}",), {f"{path}.{key}": value}))
                    break


def _values(key: str, value: Any, kind: str) -> list[Any]:
    if isinstance(value, bool) or "bool" in kind:
        return [not value] if isinstance(value, bool) else [False, True]
    if isinstance(value, list):
        return [[entry * 1.5 for entry in value]]
    if "list" in kind:
        return []
    if isinstance(value, int):
        return [value - 8, value * 2]
    if isinstance(value, float):
        return [value * 1.7, value * 0.6]
    return [0.5] if key.startswith("partial") else [40] if "int" in kind else [1.3, 12.0, 0.5]


def _moves(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.moves(base, apply(base, changes, search.defaults))


def _moves_briefly(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.moves_briefly(base, apply(base, changes, search.defaults))


def _runs(search: Search, base: Values, changes: Values) -> bool:
    return search.trials.runs(apply(base, changes, search.defaults))
