"""How many rows has a stream, and steps a run? Counted so that a stop is heeded on the way.

Rows are counted by making them, which of a large dataset takes long; so the count is kept in .ptw/rows, for
all runs of the same data, tokenizer and packing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ptw import __version__
from ptw.data import state
from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.runs import record
from ptw.train.group import Group

if TYPE_CHECKING:
    from ptw.train.run import Run

SLICE = 256  # rows between two looks at whether to stop
MANY_STEPS = 100  # of an epoch: then how well the others pack changes their number little
SAY_SECONDS = 20.0
SAID = "counting the rows of {epochs} to know its steps: {rows:,} so far; with `steps` set none are counted"


class Stopped(Exception):
    """Nothing went wrong: somebody asked the run to stop; what was trained is in a checkpoint."""


def steps_of(run: Run, open_stream: Callable[[int], Stream]) -> int:
    """Steps of all epochs."""
    settings, group = run.settings, run.group
    kept = _place(run) if group.first else None
    known = int(group.sum(float(_read(kept)))[0])
    rows = known or _rows(run, open_stream)
    if kept is not None and not known:
        _keep(kept, rows)
    return -(-rows // settings.rows)


def rows_of(
    rows: Iterator[PackedRow],
    group: Group,
    stopping: Callable[[], bool],
    say: Callable[[int], None] = lambda count: None,
) -> int:
    """The first worker counts, the others wait no longer than a slice takes. Stopped: it was asked to."""
    count, said = 0, time.monotonic()
    while True:
        found = sum(1 for _ in islice(rows, SLICE)) if group.first else 0
        found_by_first, stop = group.sum(float(found), float(stopping()))
        count += int(found_by_first)
        if stop:
            raise Stopped
        if found_by_first < SLICE:
            return count
        if time.monotonic() > said + SAY_SECONDS:
            say(count)
            said = time.monotonic()


def _rows(run: Run, open_stream: Callable[[int], Stream]) -> int:
    """Of all epochs. Of many the first tells: the others differ by how well they pack."""
    epochs, enough = run.settings.epochs, MANY_STEPS * run.settings.rows

    def counted(passes: int, what: str) -> int:
        def say(count: int) -> None:
            run.ledger.say(SAID.format(epochs=what, rows=count))

        with closing(open_stream(passes)) as stream:
            return rows_of(stream, run.group, run.is_asked_to_stop, say)

    first = counted(1, "an epoch")
    if epochs > 1 and first < enough:
        return counted(epochs, f"{epochs} epochs")
    return first * epochs


def _place(run: Run) -> Path | None:
    """Where the count of such rows is kept; None where a record does not tell what the data was."""
    begun, plan, settings = record.read(run.plan.run_folder()), run.plan, run.settings
    names = [f"dataset {share.dataset.name}" for share in plan.datasets[plan.dataset].parts]
    if begun.fingerprint is None or not set(names) <= set(begun.digests):
        return None
    content = [begun.digests[name] for name in names]
    declared = plan.as_json()["datasets"][plan.dataset]
    packing = [settings.read_window, settings.rows, settings.epochs, settings.seed]
    decides = [__version__, state.VERSION, content, declared, begun.fingerprint, packing]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return plan.root / ".ptw" / "rows" / f"{digest[:32]}.json"


def _read(kept: Path | None) -> int:
    """0: not known."""
    try:
        return 0 if kept is None else int(json.loads(kept.read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _keep(kept: Path, rows: int) -> None:
    """A count that can't be kept is counted again."""
    aside = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"rows": rows}))
        aside.replace(kept)
    except OSError:
        aside.unlink(missing_ok=True)
