"""How many rows has a stream, counted so that a stop is heeded on the way?"""

from collections.abc import Callable, Iterator
from itertools import islice

from ptw.data.pack import PackedRow
from ptw.train.group import Group

SLICE = 256  # rows between two looks at whether to stop


class Stopped(Exception):
    """Nothing went wrong: somebody asked the run to stop; what was trained is in a checkpoint."""


def rows_of(rows: Iterator[PackedRow], group: Group, stopping: Callable[[], bool]) -> int:
    """The first worker counts, the others wait no longer than a slice takes. Stopped: it was asked to."""
    count = 0
    while True:
        found = sum(1 for _ in islice(rows, SLICE)) if group.first else 0
        found_by_first, stop = group.sum(float(found), float(stopping()))
        count += int(found_by_first)
        if stop:
            raise Stopped
        if found_by_first < SLICE:
            return count
