"""Which cases belong together, so that a mean hides none of them?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ptw.errors import PtwError
from ptw.evals.attributes import Items, values_in
from ptw.evals.cases import Case
from ptw.evals.known import Known

ITEM = "item:"
MOST = 50  # values of a key
QUARTERS = 4
THIRDS = ("head", "middle", "tail")
WITHOUT = "(none)"


@dataclass(frozen=True)
class Slice:
    """The places of some cases. A case with several values of a key is in several slices of it."""

    key: str
    value: str
    places: np.ndarray


def keys_of(wanted: Sequence[str]) -> list[str]:
    """Those that are of the sequences' rows."""
    return [key for key in wanted if not key.startswith(ITEM)]


def sliced(
    sequences: Sequence[Case], known: Known, items: Items | None, wanted: Sequence[str] = ()
) -> list[Slice]:
    """By the target's popularity and the input's length, then by each key that is wanted.

    Popularity: the most popular items that share a third of the training part's events are the head,
    those of the next third the middle, the rest the tail. Of lengths each
    slice is twice as wide as the one before.
    """
    tiers = _tiers(known)
    found = _slices("popularity", [(tiers[case.target],) for case in sequences], THIRDS)
    powers = [len(case.seen).bit_length() - 1 for case in sequences]
    lengths = [_doubling(power) for power in range(max(powers, default=0) + 1)]
    found += _slices("history", [(lengths[power],) for power in powers], lengths)
    for key in wanted:
        values = _values(sequences, items, key)
        order = sorted({text for texts in values for text in texts}, key=_natural)
        if len(order) > MOST:
            values, order = _quarters(key, values, order)
        found += _slices(key, [texts or (WITHOUT,) for texts in values], [*order, WITHOUT])
    return found


def _tiers(known: Known) -> list[str]:
    """Of each item its third, by the events of items that are strictly more popular."""
    counts_I = known.counts_I
    different, inverse, times = np.unique(-counts_I, return_inverse=True, return_counts=True)
    events = -different * times
    before = np.concatenate([[0], np.cumsum(events)[:-1]]) / max(1, counts_I.sum())
    thirds = np.minimum((before * len(THIRDS)).astype(int), len(THIRDS) - 1)
    thirds[different == 0] = len(THIRDS) - 1  # what was never seen
    return [THIRDS[third] for third in thirds[inverse]]


def _doubling(power: int) -> str:
    low, high = 2**power, 2 ** (power + 1) - 1
    return str(low) if low == high else f"{low}-{high}"


def _values(sequences: Sequence[Case], items: Items | None, key: str) -> list[tuple[str, ...]]:
    if key.startswith(ITEM):
        if items is None:
            raise PtwError(
                f"slice {key}: no file of items is known; evaluate a run whose tokenizer has `items`"
            )
        of_items = items.of(key.removeprefix(ITEM))
        return [of_items[case.target] for case in sequences]
    values = values_in((case.about for case in sequences), key)
    if not any(values):
        raise PtwError(
            f"slice {key}: no row of the dataset has such a key with strings or numbers; "
            f"name one that the rows have, or {ITEM}KEY for one of the items"
        )
    return values


def _quarters(
    key: str, values: Sequence[tuple[str, ...]], order: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Of numbers the quarters of the cases, for too many different values to look at."""
    try:
        numbers = [tuple(float(text) for text in texts) for texts in values]
    except ValueError:
        raise PtwError(
            f"slice {key}: {len(order)} different values, the first {order[0]!r}; "
            f"a slice is by a key of at most {MOST} values, or of numbers"
        ) from None
    every = np.array([number for one in numbers for number in one])
    edges = np.unique(np.quantile(every, np.arange(QUARTERS + 1) / QUARTERS))
    names = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    inner = edges[1:-1]  # a quarter holds its upper edge
    found = [tuple(dict.fromkeys(names[int(np.searchsorted(inner, n))] for n in one)) for one in numbers]
    return found, names


def _slices(key: str, values: Sequence[tuple[str, ...]], order: Sequence[str]) -> list[Slice]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, texts in enumerate(values):
        for text in texts:
            places[text].append(place)
    return [Slice(key, value, np.array(places[value])) for value in order if value in places]


def _natural(text: str) -> tuple[bool, float, str]:
    """Numbers by their size, then texts."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
