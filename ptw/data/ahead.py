"""How is work done in the background, a bounded number of results ahead of whoever takes them?"""

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1
_CLOSE_SECONDS = 5.0
_END = object()


class Ahead(Generic[T]):
    """Iterates in a thread. An exception comes out where it would have without the thread.

    A thread is enough where a CPU learns: training waits for rows for less than a thousandth of its time
    (benchmarks/mix.py). For quicker devices there are `renderers`.
    """

    def __init__(self, results: Iterator[T], size: int) -> None:
        self._queue: queue.Queue[object] = queue.Queue(size)
        self._stop = threading.Event()
        # the thread must not keep this object alive: its end is how an abandoned thread is stopped
        self._thread = threading.Thread(target=_work, args=(results, self._queue, self._stop), daemon=True)
        self._close = weakref.finalize(self, self._stop.set)
        self._thread.start()

    def __iter__(self) -> "Ahead[T]":
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        result = self._queue.get()
        if result is _END or isinstance(result, _Failure):
            self.close()
            if isinstance(result, _Failure):
                raise result.error
            raise StopIteration
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread; what is ahead is forgotten. One that waits for a store ends when that answers."""
        self._close()
        self._thread.join(_CLOSE_SECONDS)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _work(results: Iterator[T], ahead: "queue.Queue[object]", stop: threading.Event) -> None:
    try:
        for result in results:
            if not _put(result, ahead, stop):
                return
        _put(_END, ahead, stop)
    except BaseException as error:  # raised again where the result would have been taken
        _put(_Failure(error), ahead, stop)


def _put(result: object, ahead: "queue.Queue[object]", stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            ahead.put(result, timeout=_POLL_SECONDS)
            return True
        except queue.Full:
            continue
    return False
