"""What does a run write down while it trains, so that each step stands there once, also after a crash?"""

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ptw.data.pack import PackedRow
from ptw.errors import PtwError
from ptw.runs import lines
from ptw.runs.record import EVENTS, METRICS
from ptw.train.group import Group

STARTS_IN_VAIN = 5


class Ledger:
    """The first worker's metrics.jsonl and events.jsonl, and each batch's own samples-<data rank>.jsonl."""

    def __init__(self, folder: Path, group: Group) -> None:
        self.folder = folder
        self.group = group

    def say(self, text: str, **facts: Any) -> None:
        """An event: what a person should know who looks at the run, now or later."""
        if self.group.first:
            time = datetime.now(UTC).isoformat(timespec="seconds")
            lines.append(self.folder / EVENTS, {"time": time, "text": text, **facts})

    def start(self, launch: str, step: int) -> None:
        """An event; PtwError when the workers of this launch are lost again and again at the same place."""
        start = [launch, step]
        events, _ = lines.read(self.folder / EVENTS)
        starts = [event["start"] for event in events if "start" in event]
        if launch and starts[-STARTS_IN_VAIN:] == [start] * STARTS_IN_VAIN:
            raise PtwError(
                f"the workers were lost {STARTS_IN_VAIN} times after step {step}; if memory ran out, take "
                "fewer rows_at_once, then go on with --resume"
            )
        processes = self.group.gathered([socket.gethostname(), os.getpid()])
        workers = f"{self.group.world} worker{'s' if self.group.world > 1 else ''}"
        self.say(f"start at step {step} on {workers}", start=start, processes=processes)

    def metric(self, kind: str, step: int, **values: Any) -> None:
        """kind "train": the step that made `step` steps; "eval": measured after them."""
        if self.group.first:
            lines.append(self.folder / METRICS, {"kind": kind, "step": step, **values})

    def samples(self, step: int, rows: Sequence[PackedRow]) -> None:
        """The samples of this worker's rows, once where several workers compute them together."""
        if not self.group.answers:
            return
        samples = [sample for row in rows for sample in row.samples]
        path = self.folder / f"samples-{self.group.data_rank}.jsonl"
        lines.append(path, {"step": step, "samples": samples})

    def cut(self, step: int) -> None:
        """Forget what was written after the checkpoint of this step; it is all done again."""
        if self.group.first:
            for path in (self.folder / METRICS, *self.folder.glob("samples-*.jsonl")):
                lines.keep(path, lambda line: _stands(line, step))
        self.group.wait()


def _stands(line: lines.Line, step: int) -> bool:
    # what was measured at the checkpoint's step was measured after the checkpoint
    return int(line["step"]) <= step if line.get("kind") != "eval" else int(line["step"]) < step
