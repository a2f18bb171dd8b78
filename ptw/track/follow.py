"""How do trackers get what a run writes down, each step once, without ever standing in its way?

Each tracker is fed from the run's folder by a thread of its own, beside the workers. What it could not be
told is on disk, so it is told as soon as it answers again; what it knows stands in tracking-<name>.json.
"""

import importlib
import json
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.runs.record import EVENTS, METRICS, RunRecord

POLL_SECONDS = 1.0
RETRY_SECONDS = 30.0
LAST_SECONDS = 20.0  # that the end of a run waits for a tracker
NOT_FIGURES = ("kind", "step", "total")
ODD = re.compile(r"[^\w.-]")

Row = tuple[int, dict[str, float]]  # a step and its figures


@dataclass(frozen=True)
class Known:
    """What a tracker was told in earlier launches: under which id, and the last step of each figure."""

    id: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict)


class Tracker(Protocol):
    """A run that is open in a tracker. Whatever these raise is said once, and tried again."""

    id: str

    def known(self) -> Mapping[str, int]:
        """The last step of each figure that it has, where it can say."""
        ...

    def log(self, rows: Sequence[Row]) -> None: ...

    def close(self, state: str) -> None:
        """The run is over for now: done, stopped or failed."""
        ...


@contextmanager
def tracked(folder: Path, targets: Mapping[str, str | bool]) -> Iterator[None]:
    """Feed [tracking]'s trackers while a run in this folder is worked on."""
    with ExitStack() as stack:
        for name, target in targets.items():
            if target is not False:
                stack.enter_context(_fed(Follower(folder, name, target)))
        yield


@contextmanager
def _fed(follower: "Follower") -> Iterator[None]:
    thread = threading.Thread(target=follower.run, name=follower.name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        follower.ending.set()
        thread.join(LAST_SECONDS)
        if thread.is_alive():
            follower.say(f"does not answer; what it was not told stands in {METRICS}")


class Follower:
    """One tracker's thread."""

    def __init__(self, folder: Path, name: str, target: str | bool) -> None:
        self.folder, self.name, self.target = folder, name, target
        self.ending = threading.Event()
        self._file = folder / f"tracking-{name}.json"
        self._said = False
        self._tracker: Tracker | None = None
        self._known = Known()
        self._read = (0, 0)  # which file, and up to which byte

    def run(self) -> None:
        """Until the run ends, and once more then."""
        while True:
            ends = self.ending.is_set()
            try:
                self._catch_up()
                if ends and self._tracker is not None:
                    self._tracker.close(record.read(self.folder).state)
                wait = POLL_SECONDS
            except (ImportError, PtwError) as error:
                self.say(_reason(error, self.name))
                return  # the next try would end the same
            except Exception as error:  # a tracker may fail in any way, and none is the run's
                self.say(f"{_reason(error, self.name)}; it is tried again")
                wait = RETRY_SECONDS
            if ends:
                return
            self.ending.wait(wait)

    def say(self, text: str) -> None:
        """An event of the run, the first time."""
        if not self._said:
            self._said = True
            time = datetime.now(UTC).isoformat(timespec="seconds")
            lines.append(self.folder / EVENTS, {"time": time, "text": f"tracking, {self.name}: {text}"})

    def _catch_up(self) -> None:
        """Open the tracker if it is not, and tell it what it does not know."""
        if self._tracker is None:
            self._known = _kept(self._file)
            module = importlib.import_module(f"ptw.track.{self.name}")
            self._tracker = module.begin(self.target, record.read(self.folder), self._known)
            self._remember(self._tracker.known())
        found, read = self._new_lines()
        rows = [(step, self._unknown(step, values)) for step, values in map(_row, found)]
        if rows := [row for row in rows if row[1]]:
            self._tracker.log(rows)
            self._remember({key: step for step, values in rows for key in values})
        self._read = read

    def _new_lines(self) -> tuple[list[lines.Line], tuple[int, int]]:
        """A run that goes on cuts what it does again, into another file: that is read from its start."""
        path = self.folder / METRICS
        file = path.stat().st_ino if path.exists() else 0
        found, end = lines.read(path, self._read[1] if file == self._read[0] else 0)
        return found, (file, end)

    def _unknown(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        return {key: value for key, value in values.items() if step > self._known.steps.get(key, -1)}

    def _remember(self, steps: Mapping[str, int]) -> None:
        assert self._tracker is not None
        self._known = Known(self._tracker.id, {**self._known.steps, **steps})
        record.write_json(self._file, {"id": self._known.id, "steps": self._known.steps})


def settings_of(run: RunRecord) -> dict[str, Any]:
    """What a tracker keeps beside the figures: all that the run was made from."""
    beside = {"commit": run.commit, "digests": run.digests, "versions": run.versions}
    return record.flat({**record.made_of(run.plan), **beside})


def _row(line: lines.Line) -> Row:
    """Under names that every tracker takes: eval/validation_ndcg_at_10."""
    group = "train" if line["kind"] == "train" else "eval"
    return line["step"], {
        f"{group}/{ODD.sub('_', key.replace('@', '_at_'))}": float(value)
        for key, value in line.items()
        if key not in NOT_FIGURES and isinstance(value, int | float) and math.isfinite(value)
    }


def _kept(file: Path) -> Known:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Known(values["id"], values["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return Known()


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, ImportError):
        return f"{error}; pip install 'ptw[{name}]'"
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
