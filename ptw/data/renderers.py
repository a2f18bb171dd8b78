"""Who makes samples of rows: whoever asks for them, or processes of their own?"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


class Renderers:
    """Makes samples in the order of their rows. With `processes` they are made ahead, and nobody waits for
    Python's lock; a process ends with whoever began it, however that ends.
    """

    def __init__(self, tokenizer: Tokenizer, processes: int = 0) -> None:
        self._tokenizer, self._count = tokenizer, processes
        self._started: list[_Process] = []
        weakref.finalize(self, _end, self._started)

    def of(self, rows: Sequence[Row], dataset: DatasetEntry) -> Iterator[Made]:
        """Of each row its sample, or what is wrong with it. Several may be asked in turn, or given up."""
        if not self._count:
            return (_made(row, dataset, self._tokenizer) for row in rows)
        return self._from_processes(rows, dataset)

    def close(self) -> None:
        """End the processes; the next rows begin others."""
        _end(self._started)

    def _from_processes(self, rows: Sequence[Row], dataset: DatasetEntry) -> Iterator[Made]:
        if not self._started:
            self._started += [_Process(self._tokenizer) for _ in range(self._count)]
        asked: deque[tuple[_Process, _Chunk]] = deque()
        begins = iter(range(0, len(rows), CHUNK_ROWS))
        while True:
            while len(asked) < CHUNKS_AHEAD * self._count and (begin := next(begins, None)) is not None:
                process = self._started[begin // CHUNK_ROWS % self._count]
                asked.append((process, process.ask(dataset, rows[begin : begin + CHUNK_ROWS])))
            if not asked:
                return
            process, chunk = asked.popleft()
            yield from process.answer(chunk)


@dataclass
class _Chunk:
    made: list[Made] | None = None  # once it was answered


class _Process:
    """Answers chunks in the order in which it was asked, whoever waits for which."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        # the child has its own end alone: when this process dies, it reads the end of the pipe, and ends
        context.Process(target=_work, args=(there, tokenizer), daemon=True).start()
        there.close()
        self._asked: deque[_Chunk] = deque()

    def ask(self, dataset: DatasetEntry, rows: Sequence[Row]) -> _Chunk:
        self._asked.append(_Chunk())
        try:
            self._pipe.send((dataset, list(rows)))
        except OSError as error:
            raise _died() from error
        return self._asked[-1]

    def answer(self, chunk: _Chunk) -> list[Made]:
        while chunk.made is None:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise _died() from error
            if isinstance(answer, Exception):
                raise answer
            self._asked.popleft().made = answer
        return chunk.made

    def close(self) -> None:
        self._pipe.close()


def _made(row: Row, dataset: DatasetEntry, tokenizer: Tokenizer) -> Made:
    try:
        return render(row, dataset, tokenizer)
    except PtwError as error:
        return error


def _work(pipe: Connection, tokenizer: Tokenizer) -> None:
    """Until the pipe ends. A thread reads it, so that who asks never waits for who is not read yet."""
    asked: queue.SimpleQueue[tuple[DatasetEntry, list[Row]] | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, asked), daemon=True).start()
    while (chunk := asked.get()) is not None:
        dataset, rows = chunk
        answer: list[Made] | Exception
        try:
            answer = [_made(row, dataset, tokenizer) for row in rows]
        except Exception as error:  # a mistake of ptw's own: raised where a thread would have raised it
            answer = error
        try:
            pipe.send(answer)
        except OSError:  # nobody waits any more
            return


def _read(pipe: Connection, asked: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            asked.put(pipe.recv())
    except (EOFError, OSError):
        asked.put(None)


def _died() -> PtwError:
    return PtwError(
        "a process that renders rows died (out of memory?): set renderers = 0 of the cluster, or fewer"
    )


def _end(started: list[_Process]) -> None:
    while started:
        started.pop().close()
