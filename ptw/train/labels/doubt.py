"""Whose fault is it that a request failed: its row's, or the endpoint's? What others are answered says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ptw.train.labels.question import Question

MOST_REQUESTS = 20  # that fail one after the other before it is looked whether the endpoint answers at all


@dataclass(frozen=True)
class Failure:
    """rejected: the endpoint said so of this very request. at: when, by `time.monotonic`."""

    question: Question
    reason: str
    requests: int
    rejected: bool
    at: float

    @property
    def is_final(self) -> bool:
        """Whether the row is refused if the endpoint was there: what may pass is asked a second time."""
        return self.rejected or self.question.again


class Doubts:
    """The failures since the last answer. They are kept in mind only: a kill forgets them, undecided."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def __len__(self) -> int:
        return len(self._failures)

    @property
    def first(self) -> Failure:
        return self._failures[0]

    @property
    def many(self) -> bool:
        return sum(failure.requests for failure in self._failures) >= MOST_REQUESTS

    def add(self, failure: Failure) -> None:
        self._failures.append(failure)

    def decided(self, asked: float) -> list[Failure]:
        """Those that failed before this time, at which a request was sent that is answered."""
        found = [failure for failure in self._failures if failure.at <= asked]
        self._failures = [failure for failure in self._failures if failure.at > asked]
        return found
