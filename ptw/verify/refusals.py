"""What may a port refuse, and what must it? By name what it lacks; never the family's plain form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ptw.errors import PtwError

if TYPE_CHECKING:
    from ptw.verify.judge import CaseFiles


def rightful(case: CaseFiles, message: str) -> str:
    """The message, if it names a field that the case changed; else refusing is failing."""
    if not case.drawn.exists():
        raise PtwError(f"it refused a model that it is to be held to: {message}")
    drawn = json.loads(case.drawn.read_text())
    changes = drawn["changes"]
    if drawn.get("required"):
        raise PtwError(f"it refused the family's {drawn['name']} configuration, as no port may: {message}")
    if not any(re.search(rf"\b{re.escape(name)}\b", message) for name in _names(changes)):
        said = f"it refused a configuration for something that is none of its changes: {message}"
        raise PtwError(said if changes else f"it refused the family's plain configuration: {message}")
    return message


def evasions(messages: Mapping[str, tuple[CaseFiles, str]]) -> list[str]:
    """Of a case of many fields that was refused: none of those named is refused where it alone is changed."""
    alone: set[str] = set()
    together: dict[str, set[str]] = {}
    for name, (case, message) in messages.items():
        drawn = json.loads(case.drawn.read_text())
        named = {
            field for field in _names(drawn["changes"]) if re.search(rf"\b{re.escape(field)}\b", message)
        }
        if drawn["kind"] == "thorough":
            together[name] = named
        else:
            alone |= named
    return [
        f"{name}: it refused {', '.join(sorted(named))}, which it takes where nothing else is changed"
        for name, named in together.items()
        if not named & alone
    ]


def is_wanted(case: CaseFiles) -> bool:
    """Whether a port must refuse it: the reference can't be asked about it in exact arithmetic."""
    return case.drawn.exists() and bool(json.loads(case.drawn.read_text()).get("unverifiable"))


def is_turned_down(case: CaseFiles, error: str) -> bool:
    """Whether a port that must refuse it failed in ptw's words, as where the weights do not fit."""
    return is_wanted(case) and f"{PtwError.__module__}.{PtwError.__qualname__}: " in error


def demand(case: CaseFiles) -> None:
    """PtwError where a port took what it must refuse."""
    if is_wanted(case):
        changes = json.loads(case.drawn.read_text())["changes"]
        values = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
        raise PtwError(
            f"it takes {values}, with which the reference can't be run in exact arithmetic: nobody can say "
            "whether the port is right, and it must refuse that by name"
        )


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield str(key)
            yield from _names(entry)
