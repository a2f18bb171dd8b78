"""What do the tables of a workspace.toml hold, also where it is not checked yet?"""

from collections.abc import Mapping
from typing import Any

from ptw.workspace.document import Document
from ptw.workspace.problem import Problem, hint_of

Entry = dict[str, Any]


def tables(document: Document, section: str) -> dict[str, Entry]:
    """The entries of a section that are tables at all; the schema has told of the others."""
    entries = document.values.get(section)
    if not isinstance(entries, dict):
        return {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, dict)}


def text_of(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) and value else None


def parts_of(entry: Entry) -> Entry:
    """The parts of a mix with their weights; none where it is no mix."""
    mix = entry.get("mix")
    return mix if isinstance(mix, dict) else {}


def formats_of(document: Document, name: str) -> dict[str, object]:
    """The format of a dataset, or of each part of a mix, by name."""
    datasets = tables(document, "datasets")
    entry = datasets.get(name, {})
    names = list(parts_of(entry)) if "mix" in entry else [name]
    return {part: datasets[part].get("format") for part in names if part in datasets}


def unknown(document: Document, path: tuple[str, ...], name: str, section: str) -> Problem:
    known = list(tables(document, section))
    return document.problem(path, name, f"there is no [{section}.{name}]", hint_of(name, known, section))


def written(value: object) -> str:
    """A value of a field of events as text, however it stands in TOML or JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
