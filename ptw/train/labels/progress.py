"""How far is the labelling, how fast, and what has it cost? As steps of metrics.jsonl, over all workers."""

from __future__ import annotations

import time

from ptw.train.group import Group
from ptw.train.ledger import Ledger


class Progress:
    """A step is a row answered, or an answer scored. usd: what it cost until now; None: nobody counts it."""

    def __init__(self, ledger: Ledger, group: Group, total: int, done: int, usd: float | None) -> None:
        self.total, self.done, self.usd = total, done, usd
        self._ledger, self._group = ledger, group
        self._began = time.perf_counter()

    def add(self, *, done: int, tokens: int, usd: float = 0.0, flags: tuple[bool, ...] = ()) -> list[bool]:
        """This worker's part since the last time, and of each flag whether any worker raises it.

        All workers call it together.
        """
        done, tokens, usd, *raised = self._group.sum(done, tokens, usd, *map(float, flags))  # type: ignore[assignment]
        self.done += int(done)
        self.usd = None if self.usd is None else self.usd + usd
        if done:
            now = time.perf_counter()
            cost = {} if self.usd is None else {"usd": self.usd}
            seconds, self._began = now - self._began, now
            figures = {"labelled": int(done), "tokens": int(tokens), "seconds": seconds, **cost}
            self._ledger.metric("train", self.done, total=self.total, **figures)
        return [flag > 0 for flag in raised]
