"""How does a run get into TensorBoard? Event files in a folder: `tensorboard --logdir runs` shows them."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from ptw.runs.record import RunRecord
from ptw.track.follow import Known, Row, settings_of


class Board:
    """One run's event files, written at once: what is said to be told must be on disk."""

    def __init__(self, folder: Path, known: Known) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.id = str(folder)
        # a run that goes on within a second would write over its first file
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if known.steps:  # of what earlier files have, TensorBoard drops all from here on
            start = 1 + max(known.steps.values())
            self._write(Event(step=start, session_log=SessionLog(status=SessionLog.START)))

    def known(self) -> Mapping[str, int]:
        return {}

    def log(self, rows: Sequence[Row]) -> None:
        for step, values in rows:
            named = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
            self._write(Event(step=step, summary=Summary(value=named)))
        self._events.flush()

    def tell(self, title: str, markdown: str) -> None:
        self._write(Event(step=0, summary=text(title, markdown)))

    def close(self, state: str) -> None:
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)


def begin(target: str | bool, run: RunRecord, known: Known) -> Board:
    """`true` writes into the run's folder, a name into that folder of the workspace."""
    workspace = run.folder.parent.parent
    folder = run.folder / "tensorboard" if target is True else workspace / str(target) / run.name
    board = Board(folder, known)
    if known.id is None:
        rows = [f"| {key} | {json.dumps(value)} |" for key, value in settings_of(run).items()]
        board.tell("made from", "\n".join(["| | |", "|---|---|", *rows]))
    return board
