"""Which items has a catalogue, and what is known of each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.evals.attributes import is_shared, values_in
from ptw.files.find import find
from ptw.files.read import read
from ptw.tokens.items import item_id


@dataclass(frozen=True)
class Catalogue:
    """Items in the order of their file, and the row of each."""

    file: str
    ids: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def texts(self, key: str) -> list[str]:
        """Empty where an item has none; PtwError where no item has."""
        texts = [row.get(key) for row in self.rows]
        if not any(isinstance(text, str) and text.strip() for text in texts):
            raise PtwError(
                f"{self.file}: no item has `{key}`, a string that says what it is; name another key with "
                '`text`, or set encoder = "none"'
            )
        return [text if isinstance(text, str) else "" for text in texts]

    def attributes(self) -> dict[str, list[tuple[str, ...]]]:
        """Of each key that most items have and share values of: the values of each item."""
        keys = dict.fromkeys(key for row in self.rows for key in row if key != "id")
        values = {key: values_in(self.rows, key) for key in keys}
        return {key: found for key, found in values.items() if is_shared(found)}


def read_catalogue(root: Path, file: str) -> Catalogue:
    """PtwError for an item without an id, or that is there twice."""
    ids: dict[str, None] = {}
    rows: list[Mapping[str, Any]] = []
    for found in find(root, (file,)):
        for row in read(found):
            name = item_id(row)
            if name in ids:
                raise PtwError(f"{row.place}: id {name!r} is there twice; give every item an id of its own")
            ids[name] = None
            rows.append(row.value)
    if not rows:
        raise PtwError(f"{file}: no items to make semantic IDs of")
    return Catalogue(file, tuple(ids), tuple(rows))
