"""How are functions of files of rewards/ called, so that one that hangs or dies is noticed?"""

from __future__ import annotations

import math
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import ptw
from ptw.errors import PtwError
from ptw.rl.called import Asked
from ptw.workspace import rooms

FRAME = re.compile(r'File "(.*)", line (\d+) in ')
SHOWN = 80  # letters of an answer


class Caller:
    """A process of its own for them, which the first call starts: what hangs or dies there, names itself.

    Nothing that a function holds on to, or prints, disturbs training; what it keeps between calls is kept.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._trace: IO[str] | None = None
        self._closed = False

    def number(self, file: Path, function: str, place: str, answer: str, *more: Any, **beside: Any) -> float:
        """Of an answer, or of an item of it; PtwError names file and row, also of what is no number."""
        value: float = self._asked(Asked(file, function, (answer, *more), beside, True), place, answer)
        if not math.isfinite(value):
            raise PtwError(
                f"rewards/{file.name}: {place}: {value} is no {function}; the answer was {answer[:80]!r}"
            )
        return value

    def value(self, file: Path, function: str, place: str, answer: str, *arguments: Any) -> Any:
        """Whatever it gives, after this answer."""
        return self._asked(Asked(file, function, arguments, {}, False), place, answer)

    def close(self) -> None:
        """For good: what a thread still asks is refused."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._trace):
                assert pipe is not None
                pipe.close()
            self._process = None

    def _asked(self, one: Asked, place: str, answer: str) -> Any:
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump(one, process.stdin)
            process.stdin.flush()
            value, fault = pickle.load(process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # it has ended, or is being ended
            value, fault = None, self._end(one)
        if fault is not None:
            shown = answer[:SHOWN] + ("..." if len(answer) > SHOWN else "")
            raise PtwError(f"rewards/{one.file.name}: {place}: {fault}; the answer was {shown!r}")
        return value

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise PtwError("rewards/: the run has ended")
        if self._process is None:
            self._trace = tempfile.TemporaryFile("w+")  # noqa: SIM115 (it stays open as long as the process)
            number = self._trace.fileno()
            home = str(Path(ptw.__file__).parents[1])
            path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ptw.rl.called", str(self._seconds), str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[number],
                env={**os.environ, "PYTHONPATH": path},
            )
        return self._process

    def _end(self, one: Asked) -> str:
        """Why the process has ended."""
        if self._closed or self._process is None or self._trace is None:
            return "the run has ended"
        code = self._process.wait()
        self._trace.seek(0)
        trace = self._trace.read()
        self._stop()
        if not trace:
            return f"{one.function} ended its process (exit {code})"
        places = [line for file, line in FRAME.findall(trace) if file == str(one.file.resolve())]
        where = f" (it was in line {places[0]})" if places else ""
        return (
            f"{one.function} took longer than reward_seconds = {self._seconds:g}{where}; mend it, or set more"
        )


def files_of(root: Path, setting: str, names: Sequence[str], function: str, takes: str) -> dict[str, Path]:
    """Files of rewards/ by name; PtwError for one that is not there, or lacks the function."""
    there = rooms.files(root, "rewards")
    for name in names:
        if name not in there:
            known = ", ".join(there) or "none"
            raise PtwError(f"settings: {setting}: there is no rewards/{name}.py; there are {known}")
        if not rooms.may_define(there[name], function):
            raise PtwError(f"{there[name]}: has no `def {function}({takes})`")
    return {name: there[name] for name in names}
