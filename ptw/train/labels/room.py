"""Can a teacher that is here be given every row? Looked at before any of them is paid for with its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ptw.errors import PtwError
from ptw.evals.rows import groups
from ptw.train.count import SLICE, Stopped
from ptw.train.labels.rows import Item
from ptw.train.labels.store import Stage

if TYPE_CHECKING:
    from ptw.train.labels.run import Labelling

IdsOf = Callable[[Item], list[int]]


def too_long(ids: Sequence[int], room: int) -> str:
    return f"{len(ids)} ids, and there is room for {room}"


def demand_room(run: Labelling, stage: Stage, ids_of: IdsOf, room: int) -> None:
    """PtwError names the first row that has no ids, or too many where too_long is "error".

    Each worker looks at its share of the rows; Stopped: the run was asked to. What of the stage was written
    by an earlier life was written after that one had looked.
    """
    if len(stage):
        return
    for some in groups(run.items(), SLICE):
        share = some[run.group.rank :: run.group.world]
        fault = next((found for item in share if (found := _fault(run, item, ids_of, room))), None)
        told = run.group.gathered((fault, run.is_asked_to_stop()))
        faults = [fault for fault, _ in told if fault is not None]
        if faults:
            raise PtwError(min(faults)[1])
        if any(stop for _, stop in told):
            raise Stopped


def _fault(run: Labelling, item: Item, ids_of: IdsOf, room: int) -> tuple[int, str] | None:
    """The row's number, and what is wrong with it."""
    try:
        ids = ids_of(item)
    except PtwError as error:
        return item.row, str(error)
    if len(ids) <= room or run.dataset.too_long != "error":
        return None
    hint = f'widen the window, or set in [datasets.{run.dataset.name}] too_long = "drop"'
    return item.row, f"{item.place}: {too_long(ids, room)}; {hint}"
