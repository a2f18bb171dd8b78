"""Which fields does a port follow? What changing one does to its output, and to the reference's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ptw.verify.reports.report import Effect

BASE = "field-base"
LOGITS = "/logits"
STILL = 1e-12  # relative: above rounding in fp64, below any effect
APART = 1e-10
VALUE_LENGTH = 60
Said = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # of the port, of the reference


def effects(
    said: Mapping[str, Said], drawn: Mapping[str, Mapping[str, Any]], refused: frozenset[str]
) -> tuple[Effect, ...]:
    """Of every case of the kind "field" but those that change none; `refused` are rightful refusals."""
    base = next((name for name in said if _is_base(drawn[name])), None)
    found = []
    for name, about in drawn.items():
        if about.get("kind") != "field" or not about.get("changes") or base is None:
            continue
        field, value = _change(about.get("changes") or {})
        if name in refused:
            found.append(Effect(field, value, name, None, None, None, "refused"))
        elif name in said and _logits(said[base][1], said[base]) is not None:  # else nobody asked for any
            found.append(_effect(field, value, name, said[base], said[name]))
    return tuple(found)


def _is_base(about: Mapping[str, Any]) -> bool:
    return str(about.get("name", "")).replace(" ", "-") == BASE


def _effect(field: str, value: str, case: str, base: Said, changed: Said) -> Effect:
    ours_before, theirs_before = (_logits(one, base) for one in base)
    ours, theirs = (_logits(one, base) for one in changed)
    port, reference = _apart(ours, ours_before), _apart(theirs, theirs_before)
    apart = _apart(ours, theirs)
    if apart is not None and apart <= APART:
        return Effect(field, value, case, reference, port, apart, "followed")
    still = port is not None and port <= STILL
    return Effect(field, value, case, reference, port, apart, "ignored" if still else "wrong")


def _logits(said: Mapping[str, Tensor], base: Said) -> Tensor | None:
    """Whichever verifier asked for them on these cases: the same one on both."""
    names = sorted(name for name in base[0] if name.endswith(LOGITS) and name in base[1])
    return said.get(names[0]) if names else None


def _apart(first: Tensor | None, second: Tensor | None) -> float | None:
    if first is None or second is None or first.shape != second.shape:
        return None
    return float((first - second).norm() / second.norm().clamp(min=1e-300))


def _change(changes: Mapping[str, Any]) -> tuple[str, str]:
    """The fields' names and their values, as short as they can be said."""
    values = [json.dumps(value) for value in changes.values()]
    text = ", ".join(values)
    return ", ".join(changes), text if len(text) <= VALUE_LENGTH else f"{text[: VALUE_LENGTH - 3]}..."
