"""How far is the labelling, how fast, and what has it cost? As steps of metrics.jsonl, over all workers."""

from __future__ import annotations

import time

from ptw.train.group import Group
from ptw.train.ledger import Ledger


class Progress:
    """A step is a row answered or refused, or an answer scored.

    refused: how many until now. usd: what it cost until now; None: nobody counts it.
    """

    def __init__(
        self, ledger: Ledger, group: Group, total: int, done: int, refused: int, usd: float | None
    ) -> None:
        self.total, self.done, self.refused, self.usd = total, done, refused, usd
        self._ledger, self._group = ledger, group
        self._began = time.perf_counter()

    def add(
        self, *, done: int, refused: int, tokens: int, usd: float = 0.0, flags: tuple[bool, ...] = ()
    ) -> list[bool]:
        """This worker's part since the last time, and of each flag whether any worker raises it.

        All workers call it together.
        """
        summed = self._group.sum(done, refused, tokens, usd, *map(float, flags))
        done, refused, tokens = map(int, summed[:3])
        usd, *raised = summed[3:]
        self.done += done
        self.refused += refused
        self.usd = None if self.usd is None else self.usd + usd
        if done:
            now = time.perf_counter()
            cost = {} if self.usd is None else {"usd": self.usd}
            seconds, self._began = now - self._began, now
            figures = {
                "labelled": done,
                "refused": self.refused,
                "tokens": tokens,
                "seconds": seconds,
                **cost,
            }
            self._ledger.metric("train", self.done, total=self.total, **figures)
        return [flag > 0 for flag in raised]
