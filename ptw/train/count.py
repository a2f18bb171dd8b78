"""How many rows has a stream, and steps a run, counted so that a stop is heeded on the way?"""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.train.group import Group
from ptw.train.settings import TrainingSettings

SLICE = 256  # rows between two looks at whether to stop
MANY_STEPS = 100  # of an epoch: then how well the others pack changes their number little


class Stopped(Exception):
    """Nothing went wrong: somebody asked the run to stop; what was trained is in a checkpoint."""


def steps_of(
    open_stream: Callable[[int], Stream],
    settings: TrainingSettings,
    group: Group,
    stopping: Callable[[], bool],
) -> int:
    """Steps of all epochs. Of many the first tells: the others differ by how well they pack."""
    with closing(open_stream(1)) as stream:
        rows = rows_of(stream, group, stopping) * settings.epochs
    if settings.epochs > 1 and rows < MANY_STEPS * settings.rows * settings.epochs:
        with closing(open_stream(settings.epochs)) as stream:
            rows = rows_of(stream, group, stopping)
    return -(-rows // settings.rows)


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
