"""What does the training part say of the items: how often each stands in it, and beside which others?"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from ptw.data.sources import rows
from ptw.evals.cases import Case, Catalogue
from ptw.evals.neighbours import nearest
from ptw.workspace.manifest import DatasetEntry


@dataclass(frozen=True)
class Known:
    """The training part of a dataset: what `leave_out` leaves of each row."""

    counts_I: np.ndarray  # events
    rows_RI: Any  # a sparse array: 1 where a row has an item
    users: tuple[str | None, ...]  # the rows' `id`

    @classmethod
    def read(cls, root: Path, dataset: DatasetEntry, catalogue: Catalogue) -> "Known":
        counts_I = np.zeros(len(catalogue.names), np.int64)
        indices: list[np.ndarray] = []
        users: list[str | None] = []
        for row in rows(root, dataset.source):
            numbers = catalogue.numbers(row)
            learnt = np.array(numbers[: max(len(numbers) - dataset.leave_out, 0)], np.int64)
            np.add.at(counts_I, learnt, 1)
            indices.append(np.unique(learnt))
            users.append(None if (user := row.value.get("id")) is None else str(user))
        return cls(counts_I, incidence(indices, len(catalogue.names)), tuple(users))

    @cached_property
    def popular_first(self) -> np.ndarray:
        """The items' numbers, the most popular first; equally popular ones in the catalogue's order."""
        return np.argsort(-self.counts_I, kind="stable")

    @cached_property
    def places(self) -> np.ndarray:
        """Of each item its place in that order, from 0."""
        place_I = np.empty_like(self.popular_first)
        place_I[self.popular_first] = np.arange(len(place_I))
        return place_I

    @cached_property
    def neighbours(self) -> Any:
        """(I, I) a sparse array: of each item the nearest others, and how near they are."""
        return nearest(self.rows_RI, self.places)

    @cached_property
    def information(self) -> np.ndarray:
        """-log2 of each item's share of the events, in bits; one event more an item, lest any be infinite."""
        return -np.log2((self.counts_I + 1) / (self.counts_I.sum() + len(self.counts_I)))

    def leaked(self, sequences: Sequence[Case]) -> int:
        """Cases whose target another row of the same `id` has in its training part."""
        found: dict[str, list[int]] = defaultdict(list)
        for number, user in enumerate(self.users):
            if user is not None:
                found[user].append(number)
        several = {user: numbers for user, numbers in found.items() if len(numbers) > 1}
        return sum(
            case.target not in case.seen and self.rows_RI[several[case.user]][:, [case.target]].sum() > 0
            for case in sequences
            if case.user in several
        )


def incidence(indices: Sequence[np.ndarray], width: int) -> Any:
    """A sparse array with a row of ones at each of these indices, which are different ones."""
    ends = np.cumsum([0, *(len(one) for one in indices)])
    places = np.concatenate([np.empty(0, np.int64), *indices])
    return sparse.csr_array((np.ones(len(places)), places, ends), shape=(len(indices), width))
