"""What is asked in a run, and what do rewards see of it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ptw.data.pack import PackedRow
from ptw.files.find import find
from ptw.files.read import read
from ptw.train.plan import Plan
from ptw.workspace.manifest import DatasetEntry


class Prompts:
    """All rows of the run's datasets of prompts, in memory, by their place."""

    def __init__(self, plan: Plan) -> None:
        names = [name for name in (plan.dataset, plan.eval_dataset) if name is not None]
        self._rows = {place: row for name in names for place, row in _rows(plan, plan.datasets[name])}

    def __getitem__(self, place: str) -> Mapping[str, Any]:
        """As the file has it, with all of its keys."""
        return self._rows[place]


def ids_of(row: PackedRow) -> list[int]:
    """The prompt of a row that holds one."""
    (length,) = row.lengths
    ids: list[int] = row.ids[:length].tolist()
    return ids


def _rows(plan: Plan, dataset: DatasetEntry) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for share in dataset.parts:
        for file in find(plan.root, share.dataset.source):
            yield from ((row.place, row.value) for row in read(file))
