"""Who makes samples of rows: whoever asks for them, or processes of their own?"""

from __future__ import annotations

import multiprocessing
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ptw.data.render import render
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.files.read import Row
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry

CHUNK_ROWS = 32
CHUNKS_AHEAD = 4  # of each process: what it works on, and what it may begin without being asked
Made = Sample | PtwError
Chunk = tuple[DatasetEntry, list[Row]]


class Renderers:
    """Makes samples in the order of their rows. With `processes` they are made ahead, and nobody waits for
    Python's lock; a process ends with whoever began it, however that ends.
    """

    def __init__(self, tokenizer: Tokenizer, processes: int = 0) -> None:
        self._tokenizer, self._count = tokenizer, processes
        self._started: list[Connection] = []
        self._close = weakref.finalize(self, _end, self._started)

    def of(self, rows: Sequence[Row], dataset: DatasetEntry) -> Iterator[Made]:
        """Of each row its sample, or what is wrong with it."""
        if not self._count:
            return (_made(row, dataset, self._tokenizer) for row in rows)
        return self._from_processes(rows, dataset)

    def close(self) -> None:
        """End the processes; the next rows begin others."""
        _end(self._started)

    def _from_processes(self, rows: Sequence[Row], dataset: DatasetEntry) -> Iterator[Made]:
        if not self._started:
            self._started += [_start(self._tokenizer) for _ in range(self._count)]
        asked: deque[Connection] = deque()
        begins = iter(range(0, len(rows), CHUNK_ROWS))
        while True:
            while len(asked) < CHUNKS_AHEAD * self._count and (begin := next(begins, None)) is not None:
                one = self._started[begin // CHUNK_ROWS % self._count]
                one.send((dataset, list(rows[begin : begin + CHUNK_ROWS])))
                asked.append(one)
            if not asked:
                return
            yield from _answer(asked.popleft())


def _made(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Made:
    try:
        return render(row, dataset, tokenizer)
    except PtwError as error:
        return error


def _start(tokenizer: Tokenizer) -> Connection:
    here, there = multiprocessing.get_context("spawn").Pipe()
    # the child has its own end alone: when this process dies, it reads the end of the pipe, and ends
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(there, tokenizer), daemon=True)
    process.start()
    there.close()
    return here


def _work(asked: Any, tokenizer: Tokenizer) -> None:
    while True:
        try:
            dataset, rows = asked.recv()
            asked.send([_made(row, dataset, tokenizer) for row in rows])
        except (EOFError, OSError, KeyboardInterrupt):
            return


def _answer(process: Connection) -> list[Made]:
    try:
        made: list[Made] = process.recv()
    except (EOFError, OSError) as error:
        raise PtwError(
            "a process that renders rows died (out of memory?): set renderers = 0 of the cluster, or fewer"
        ) from error
    return made


def _end(started: list[Connection]) -> None:
    while started:
        started.pop().close()
