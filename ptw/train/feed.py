"""What does each worker compute in a step, so that a step is the same with any number of workers?"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.evals.rows import dealt, forward_of, groups, learnt
from ptw.nn.layout import Layout
from ptw.train.group import Group

UNSAID = "the chat template never writes it; name one that does, or leave the key out of the rows"
RESHAPED = "the chat template reshapes them once others follow; a row that ends with one teaches it"


@dataclass(frozen=True)
class StepRows:
    """The rows of one step, of all workers: every worker reads the same stream."""

    rows: tuple[PackedRow, ...]
    learnt: int  # tokens with a loss

    @property
    def samples(self) -> list[str]:
        return [sample for row in self.rows for sample in row.samples]

    @property
    def tokens(self) -> int:
        """Real ones: padding is none."""
        return sum(sum(row.lengths) for row in self.rows)

    @property
    def packing(self) -> float:
        """Which part of what is computed is no padding."""
        return self.tokens / sum(len(row.ids) for row in self.rows)

    @property
    def digest(self) -> str:
        """Equal when the same samples lie in the same places."""
        text = "\n".join("\t".join(row.samples) for row in self.rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def facts(self) -> dict[str, Any]:
        """As metrics.jsonl has them."""
        return {
            "epoch": self.rows[0].epoch,
            "tokens": self.tokens,
            "learnt": self.learnt,
            "packing": self.packing,
            "digest": self.digest,
        }


@dataclass(frozen=True, eq=False)
class Batch:
    """One forward pass of this worker."""

    ids_BT: Tensor
    targets_BT: Tensor
    layout: Layout
    step: StepRows
    rows: tuple[PackedRow, ...]  # this worker's, of this pass
    first: bool  # of its step
    last: bool  # the optimizer moves after it


class Feed:
    """The steps of a stream, `rows` rows each; the last one may find fewer."""

    def __init__(self, stream: Stream, rows: int) -> None:
        self.stream = stream
        self.rows = rows
        self.seconds = 0.0  # that the last step was waited for
        self.epoch: int | None = None
        self.epoch_ended = True  # with the last step a new epoch began
        self._peeked: tuple[tuple[PackedRow, ...], float, dict[str, Any]] | None = None

    def next_step(self) -> StepRows | None:
        rows, self.seconds = self._peeked[:2] if self._peeked is not None else self._read()
        self._peeked = None
        if not rows:
            return None
        self.epoch_ended = rows[0].epoch != self.epoch
        self.epoch = rows[0].epoch
        return StepRows(rows, learnt(rows))

    def peek(self) -> StepRows | None:
        """The step after this one; until it is taken, the state is that of before it was read."""
        if self._peeked is None:
            before = self.stream.state_dict()
            self._peeked = (*self._read(), before)
        rows, *_ = self._peeked
        return StepRows(rows, learnt(rows)) if rows else None

    def _read(self) -> tuple[tuple[PackedRow, ...], float]:
        """The rows, and the seconds that they were waited for."""
        began = time.perf_counter()
        rows = tuple(islice(self.stream, self.rows))
        return rows, time.perf_counter() - began

    def remarks(self) -> Iterator[tuple[str, int]]:
        """What a person should know of each dataset that was read, and how many of its rows are not used."""
        parts = self.stream.parts
        samples = sum(part.samples_out for part in parts.values())
        tokens = sum(part.tokens_out for part in parts.values())
        for name, part in parts.items() if len(parts) > 1 else ():
            shares = f"{part.samples_out / samples:.1%} of the samples, {part.tokens_out / tokens:.1%}"
            yield f"{name}: {shares} of the tokens; read to its end {part.epoch} times", 0
        for name, part in parts.items():
            if part.refused_count:
                place, reason = part.refused[0]
                rows = "1 row" if part.refused_count == 1 else f"{part.refused_count} rows"
                yield f"{rows} of {name} not used, first {place}: {reason}", part.refused_count
            if part.context:
                turns = "1 assistant turn" if part.context == 1 else f"{part.context:,} assistant turns"
                yield f"{turns} of {name} context only: {RESHAPED}", 0
            if part.unsaid:
                turns = "1 assistant turn" if part.unsaid == 1 else f"{part.unsaid:,} assistant turns"
                yield f"{turns} of {name} learnt without what was thought: {UNSAID}", 0

    def state_dict(self) -> dict[str, Any]:
        stream = self._peeked[2] if self._peeked is not None else self.stream.state_dict()
        return {"epoch": self.epoch, "stream": stream}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.stream.load_state_dict(state["stream"])


def batches(step: StepRows, rows_at_once: int, group: Group) -> Iterator[Batch]:
    """This worker's passes over its rows, by data rank r, r + world, ..., as many as every other worker's."""
    own = dealt(step.rows, group.data_rank, group.data_world)
    passes: Sequence[list[PackedRow]] = list(groups(own, rows_at_once))
    for number, rows in enumerate(passes):
        forward = forward_of(rows, group.device)
        yield Batch(
            ids_BT=forward.ids_BT,
            targets_BT=forward.targets_BT,
            layout=forward.layout,
            step=step,
            rows=tuple(rows),
            first=number == 0,
            last=number == len(passes) - 1,
        )
