"""In which order does an epoch go through a source's rows?"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ptw.data.sources import Position, walk
from ptw.files.find import File
from ptw.files.read import Row

BLOCK_ROWS = 4096
BLOCK_BYTES = 16 << 20


class Start(NamedTuple):
    """Where block number `block` of an epoch begins, `file` being a place in that epoch's order of files."""

    epoch: int
    block: int = 0
    file: int = 0
    number: int = 0
    byte: int = 0


@dataclass(frozen=True)
class Block:
    """As many rows as are held in memory at once, in the order in which they are used."""

    start: Start
    rows: Sequence[Row]


def blocks(files: Sequence[File], seed: int, start: Start, shuffle: bool, among: int = 1) -> Iterator[Block]:
    """The blocks of the epoch of `start` from there on: files in random order, rows in a block too.

    The same for the same seed and epoch, wherever it starts. `among` sources share the memory of one.
    """
    order = list(files)
    if shuffle:
        random.Random(f"{seed} files {start.epoch}").shuffle(order)
    rows: list[Row] = []
    held = 0
    for position, row in walk(order, Position(start.file, start.number, start.byte)):
        rows.append(row)
        held += row.size
        if len(rows) * among >= BLOCK_ROWS or held * among >= BLOCK_BYTES:
            yield _block(start, rows, seed, shuffle)
            start = Start(start.epoch, start.block + 1, *position)
            rows, held = [], 0
    if rows:
        yield _block(start, rows, seed, shuffle)


def _block(start: Start, rows: list[Row], seed: int, shuffle: bool) -> Block:
    if shuffle:
        random.Random(f"{seed} rows {start.epoch} {start.block}").shuffle(rows)
    return Block(start, rows)
