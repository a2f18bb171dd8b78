"""In which order does an epoch go through a source's rows?"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ptw.data.sources import Position, walk
from ptw.files.find import File
from ptw.files.read import Row
from ptw.files.spans import Span, spans

BLOCK_ROWS = 4096
BLOCK_BYTES = 16 << 20


class Start(NamedTuple):
    """Where block number `block` of an epoch begins, `span` being a place in that epoch's order of spans."""

    epoch: int
    block: int = 0
    span: int = 0
    number: int = 0
    byte: int = 0


@dataclass(frozen=True)
class Block:
    """As many rows as are held in memory at once, in the order in which they are used."""

    start: Start
    rows: Sequence[Row]


class Order:
    """Goes through files in blocks: their spans in random order, the rows of a block too; else as written.

    A block has rows of many spans, so that what lies together in a file is far apart in an epoch. The same
    for the same seed and epoch, wherever it starts. `among` sources share the memory of one.
    """

    def __init__(self, files: Sequence[File], seed: int, shuffle: bool, among: int = 1) -> None:
        self._files = files
        self._seed = seed
        self._shuffle = shuffle
        self._rows = BLOCK_ROWS / among
        self._bytes = BLOCK_BYTES / among
        self._epochs: dict[int, list[Span]] = {}

    def blocks(self, start: Start) -> Iterator[Block]:
        """The blocks of the epoch of `start` from there on."""
        rows: list[Row] = []
        held = 0
        for position, row in walk(self._of(start.epoch), Position(start.span, start.number, start.byte)):
            rows.append(row)
            held += row.size
            if len(rows) >= self._rows or held >= self._bytes:
                yield self._block(start, rows)
                start = Start(start.epoch, start.block + 1, *position)
                rows, held = [], 0
        if rows:
            yield self._block(start, rows)

    @cached_property
    def _spans(self) -> list[Span]:
        return [span for file in self._files for span in (spans(file) if self._shuffle else [Span(file)])]

    def _of(self, epoch: int) -> list[Span]:
        """An epoch's spans; samples of two epochs may be open, and begin blocks again after a stop."""
        if epoch not in self._epochs:
            order = list(self._spans)
            if self._shuffle:
                random.Random(f"{self._seed} spans {epoch}").shuffle(order)
            self._epochs = dict([*self._epochs.items(), (epoch, order)][-2:])
        return self._epochs[epoch]

    def _block(self, start: Start, rows: list[Row]) -> Block:
        if self._shuffle:
            random.Random(f"{self._seed} rows {start.epoch} {start.block}").shuffle(rows)
        return Block(start, rows)
