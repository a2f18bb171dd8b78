"""Which attributes do the items of a catalogue have?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.cases import Catalogue
from ptw.evals.known import incidence
from ptw.tokens.items import item_id
from ptw.workspace.problem import hint_of

LONGEST = 100  # characters of a value; what is longer is a text
NONE = "none"


@dataclass(frozen=True)
class Items:
    """The rows of the items' file: of each key the values of every item."""

    file: str
    values: Mapping[str, Sequence[tuple[str, ...]]]

    def of(self, key: str) -> Sequence[tuple[str, ...]]:
        if key not in self.values:
            raise PtwError(f"{self.file}: no item has {key!r}; {hint_of(key, list(self.values), 'keys')}")
        return self.values[key]


@dataclass(frozen=True)
class Attribute:
    """A key of the items as a sparse array: 1 where an item has a value."""

    name: str
    values: tuple[str, ...]
    sets_IA: Any


def read_items(root: Path, files: Sequence[str], catalogue: Catalogue) -> Items:
    """Keys with strings, whole numbers, or lists of them; an item without one has no values."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for row in rows(root, tuple(files)):
        number = catalogue.get(item_id(row))
        if number is None:
            continue
        for key, value in row.value.items():
            if key != "id" and (values := texts_of(value)):
                found.setdefault(key, [()] * len(catalogue.names))[number] = values
    return Items(", ".join(files), found)


def texts_of(value: Any) -> tuple[str, ...]:
    """The different values of a key, as texts; none of what is no string, number, truth or list of them."""
    listed = value if isinstance(value, list) else [value]
    plain = [one for one in listed if isinstance(one, str | int | float) and len(str(one)) <= LONGEST]
    return tuple(dict.fromkeys(str(one) for one in plain))


def attribute_of(items: Items | None, wanted: str | None) -> Attribute | None:
    """The one that is wanted; else the first whose values most items share. None where there is none."""
    if wanted == NONE:
        return None
    if items is None:
        if wanted is not None:
            raise PtwError(
                f"attribute {wanted}: no file of items is known; evaluate a run whose tokenizer has `items`"
            )
        return None
    if wanted is not None:
        return _attribute(wanted, items.of(wanted))
    shared = (key for key, values in items.values.items() if is_shared(values))
    return next((_attribute(key, items.values[key]) for key in shared), None)


def is_shared(values: Sequence[tuple[str, ...]]) -> bool:
    """Whether most items have it, and few values tell many items apart."""
    having = [one for one in values if one]
    different = len({text for one in having for text in one})
    return 2 * len(having) > len(values) and 1 < different <= len(having) / 2


def _attribute(name: str, values: Sequence[tuple[str, ...]]) -> Attribute:
    different = sorted({text for one in values for text in one})
    number = {text: at for at, text in enumerate(different)}
    sets_IA = incidence(
        [np.array([number[text] for text in one], np.int64) for one in values], len(different)
    )
    return Attribute(name, tuple(different), sets_IA)


def shares(sets: Any) -> Any:
    """Each row's values share its weight of 1; a row without any stays empty."""
    sums = np.asarray(sets.sum(axis=-1)).reshape(*sets.shape[:-1], 1)
    return sets * (1 / np.maximum(sums, 1))


def values_in(rows_of_keys: Iterable[Mapping[str, Any]], key: str) -> list[tuple[str, ...]]:
    """Of rows the values of a key, as those of items."""
    return [texts_of(row.get(key)) for row in rows_of_keys]
