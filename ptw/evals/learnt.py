"""How many sequences of a test did somebody learn to their last items, from other files than the test's?"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from ptw.data.sources import rows
from ptw.errors import PtwError
from ptw.evals.cases import BACK
from ptw.files.find import File
from ptw.files.read import Row, read
from ptw.tokens.events import items_of

MOST = 1_000_000  # rows that are read of each side: of 20 events, a quarter of a minute


@dataclass(frozen=True)
class Repeated:
    """How many sequences of the test stand in so many rows of what was learnt; whether all were read."""

    found: int
    sequences: int
    rows: int
    all_read: bool


def repeated(
    root: Path, test: tuple[str, ...], learnt: Sequence[File], leave_out: int, most: int = MOST
) -> Repeated:
    """Rows are compared as they are read, so that it is the same how they are written, packed or mixed.

    A sequence was learnt where a row of the same `id` begins with it, but for its last `leave_out` items; or,
    where one of the two rows has no `id`, is equal to it. Rows without items teach nothing.
    """
    tested, taught = rows(root, test), chain.from_iterable(map(read, learnt))
    keys, lengths = list[tuple[bytes, bytes]](), defaultdict[str | None, set[int]](set)
    for user, items in map(_known, islice(tested, most)):
        if len(items) > BACK["test"]:
            keys.append(_keys(user, items))
            lengths[user].add(len(items))
    wanted, told, count = set(chain.from_iterable(keys)), set[bytes](), 0
    for user, items in map(_known, islice(taught, most)):
        told |= wanted.intersection(_told(user, items[: max(0, len(items) - leave_out)], lengths))
        count += 1
    all_read = next(tested, None) is None and next(taught, None) is None
    return Repeated(sum(not told.isdisjoint(both) for both in keys), len(keys), count, all_read)


def _known(row: Row) -> tuple[str | None, list[str]]:
    user = row.value.get("id")
    try:
        return None if user is None else str(user), items_of(row.value)
    except PtwError:
        return None, []


def _keys(user: str | None, items: Sequence[str]) -> tuple[bytes, bytes]:
    """What tells a tested sequence: a row of its `id` (any, where it has none), or one without."""
    return _whole("any" if user is None else "own", user, items), _whole("none", None, items)


def _told(user: str | None, items: Sequence[str], lengths: dict[str | None, set[int]]) -> Iterator[bytes]:
    if user is None:
        yield _whole("none", None, items)
        return
    if len(items) in lengths.get(None, ()):
        yield _whole("any", None, items)
    if user in lengths:
        yield from _prefixes("own", user, items, lengths[user])


def _whole(kind: str, user: str | None, items: Sequence[str]) -> bytes:
    return next(_prefixes(kind, user, items, (len(items),)), b"")


def _prefixes(kind: str, user: str | None, items: Sequence[str], ends: Container[int]) -> Iterator[bytes]:
    """A digest of the first items, for each of these ends."""
    total = hashlib.blake2b(json.dumps([kind, user]).encode(), digest_size=16)
    for end, item in enumerate(items, 1):
        total.update(json.dumps(item).encode())
        if end in ends:
            yield total.copy().digest()
