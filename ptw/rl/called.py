"""What runs the functions of rewards/, beside training? `python -m ptw.rl.called SECONDS FILE`.

Asked over stdin, it answers over stdout, both pickled. Whatever takes longer than SECONDS ends this process
from within, also where it lets no other thread run (a regular expression); where it was then stands in FILE,
which is given by its number.
"""

from __future__ import annotations

import faulthandler
import inspect
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from ptw.workspace import rooms


class Asked(NamedTuple):
    """Call this function of this file. `beside`: what it is given by name, as far as it takes it."""

    file: Path
    function: str
    arguments: tuple[Any, ...]
    beside: Mapping[str, Any]
    gives_number: bool


def main() -> None:
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a reward prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to heed
    seconds, trace = float(sys.argv[1]), os.fdopen(int(sys.argv[2]), "w")
    while True:
        try:
            one: Asked = pickle.load(asked)
        except EOFError:  # the run has ended, or was killed
            return
        with limited(seconds, trace):
            answer = answered(one)
        answers.write(answer)
        answers.flush()


@contextmanager
def limited(seconds: float, trace: IO[str]) -> Iterator[None]:
    faulthandler.dump_traceback_later(seconds, exit=True, file=trace)
    yield
    faulthandler.cancel_dump_traceback_later()


def answered(one: Asked) -> bytes:
    """What the function gives, and None; or None, and what it raises."""
    try:
        function: Callable[..., Any] = getattr(rooms.load(one.file), one.function)
        taken = inspect.signature(function).parameters
        beside = {key: value for key, value in one.beside.items() if key in taken}
        value = function(*one.arguments, **beside)
        return pickle.dumps((float(value) if one.gives_number else value, None))
    except Exception as error:
        return pickle.dumps((None, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
