"""How does a new model come into workspace.toml? As a table of its own; every other line stays as it is."""

import json
import re
from collections.abc import Mapping
from typing import Any

from ptw.errors import PtwError
from ptw.workspace.document import FILE
from ptw.workspace.schema import NAME_RULE, is_name

MODELS = re.compile(r"^\[models\.", re.MULTILINE)
HEADER = re.compile(r"^\[", re.MULTILINE)
BARE = re.compile(r"[A-Za-z0-9_-]+")


def with_model(text: str, name: str, values: Mapping[str, Any]) -> str:
    """workspace.toml's text with [models.NAME] after the last model; all else is kept."""
    if not is_name(name):
        raise PtwError(f"{name!r} is no name for a model: {NAME_RULE}")
    newline = "\r\n" if "\r\n" in text else "\n"
    table = newline.join(_table(("models", name), values)) + newline
    place = _after_models(text)
    before, after = text[:place], text[place:]
    if before and not before.endswith("\n"):
        before += newline
    above = before.rstrip("\r\n") + 2 * newline if before.strip() else ""
    below = newline + after.lstrip("\r\n") if after.strip() else ""
    return above + table + below


def refuse_known(values: Mapping[str, Any], name: str) -> None:
    """PtwError where the workspace has a model of this name."""
    if name in values.get("models", {}):
        raise PtwError(f"{FILE}: there is a [models.{name}] already; choose another name")


def _after_models(text: str) -> int:
    """Where the last table of a model ends, with the comments that stand above the next table left to it."""
    found = [match.start() for match in MODELS.finditer(text)]
    if not found:
        return len(text)
    following = HEADER.search(text, found[-1] + 1)
    if following is None:
        return len(text)
    place = following.start()
    lines = text[:place].splitlines(keepends=True)
    while lines and (lines[-1].lstrip().startswith("#") or not lines[-1].strip()):
        place -= len(lines.pop())
    return place


def _table(path: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
    """The lines of a table, then those of the tables in it."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"[{'.'.join(map(_key, path))}]"] if plain or not inner else []
    lines += [f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for key, value in inner.items():
        lines += ([""] if lines else []) + _table((*path, key), value)
    return lines


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
