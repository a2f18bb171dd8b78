"""How does a run that trains on a cluster come to be seen, stopped and fetched here?"""

import dataclasses
import json
import shutil
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.files.store import Store
from ptw.runs import lock, record
from ptw.train import worker
from ptw.train.jobs.cluster import why_ended
from ptw.train.jobs.place import LINES, STOP, bring, store_of
from ptw.train.progress import watching

LOOK_SECONDS = 1.0
ASK_SECONDS = 10.0  # between questions whether the job is alive
OF_THERE = ("state", "message", "finished", "faults", "versions")  # what the cluster knows better


class View:
    """Brings what the storage has of a run into its folder here."""

    def __init__(self, found: record.RunRecord) -> None:
        assert found.job is not None
        self.folder = found.folder
        self.job: dict[str, Any] = dict(found.job)
        self.store = store_of(self.job["storage"], self.job["key"], found.name)
        self._stamps: dict[str, str] = {}

    def look(self) -> record.RunRecord:
        """The record as it is now, with its metrics and events."""
        there = self.store.names()
        changed = [name for name in there if self._stamps.get(name) != there[name]]
        for name in changed:
            if any(fnmatch(name, pattern) for pattern in LINES):
                self.store.get(name, self.folder / name)
        if record.FILE in changed:
            self._take_record()
        self._stamps = there
        return record.read(self.folder)

    def _take_record(self) -> None:
        aside = self.folder / ".there.json"
        if not self.store.get(record.FILE, aside):
            return
        there = json.loads(aside.read_text(encoding="utf-8"))
        aside.unlink()
        if there["job"]["id"] == self.job["id"]:  # not of a job before this one
            mine = record.read(self.folder)
            record.write(dataclasses.replace(mine, **{key: there[key] for key in OF_THERE}))


def follow(found: record.RunRecord) -> Path:
    """Show the run until it ends, then fetch it; its folder. Ctrl-C leaves it alone where it trains."""
    if found.job is None:
        raise PtwError(f"{found.name} trains on this machine, where `ptw train` shows it")
    name, cluster = found.name, found.job["cluster"]
    try:
        found = _watched(View(found), found)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\n{name} goes on at {cluster}: `ptw runs follow {name}` shows it again, "
            f"`ptw runs stop {name}` stops it\n"
        )
        raise
    if found.state == "done":
        return fetch(found)
    if found.state == "stopped":
        sys.stderr.write(f"{found.name} is stopped; `ptw train {found.recipe} --resume` goes on with it\n")
        raise KeyboardInterrupt
    raise PtwError(f"{found.name}: {found.message}")


def _watched(view: View, found: record.RunRecord) -> record.RunRecord:
    asked = time.monotonic()
    with watching(found.folder) as watch:
        while True:
            found = view.look()
            watch.poll()
            if found.state != "running":
                return found
            if time.monotonic() > asked + ASK_SECONDS:
                found, asked = settled(view, found), time.monotonic()
            else:
                time.sleep(LOOK_SECONDS)


def settled(view: View, found: record.RunRecord) -> record.RunRecord:
    """The record, also where the job died without a last word; where nobody answers it stays as it is."""
    try:
        why = why_ended(view.job)
    except PtwError:
        return found
    if why is None:
        return found
    found = view.look()  # what was its last word came before its end
    return found if found.state != "running" else record.change(found.folder, state="failed", message=why)


def refreshed(found: record.RunRecord) -> record.RunRecord:
    """What `ptw runs` shows: as the cluster has it where it can be reached, else as it was last seen."""
    if found.job is None or found.state != "running":
        return found
    try:
        view = View(found)
        now = view.look()
        return settled(view, now) if now.state == "running" else now
    except PtwError as error:
        sys.stderr.write(f"{found.name}: as it was last seen, for {error}\n")
        return found


def fetch(found: record.RunRecord, checkpoints: bool = False) -> Path:
    """What the storage has of the run: record, metrics, events and model."""
    if found.job is None:
        raise PtwError(f"{found.name} trained on this machine: its files are in {found.folder}")
    view = View(found)
    view.look()
    _fetch_folders(view.store, found.folder, (record.MODEL,))
    if checkpoints:
        _fetch_folders(view.store, found.folder, (record.CHECKPOINTS, "best-step-*"))
    return found.folder


def bring_home(found: record.RunRecord) -> record.RunRecord:
    """A run that trained on a cluster and goes on here, with its checkpoints."""
    fetch(found, checkpoints=True)
    return record.change(found.folder, state="stopped", job=None)


def stop(found: record.RunRecord) -> None:
    """Ask for a checkpoint and an end, wherever the run trains."""
    if found.state != "running":
        raise PtwError(f"{found.name} is {found.state}: there is nothing to stop")
    if found.job is None:
        if not lock.is_held(found.folder):
            raise PtwError(f"{found.name}: nobody works on it")
        (found.folder / worker.STOP).touch()
        return
    with tempfile.NamedTemporaryFile() as empty:
        View(found).store.put(Path(empty.name), STOP)


def _fetch_folders(store: Store, folder: Path, patterns: tuple[str, ...]) -> None:
    """Each whole or not at all."""
    names = [name for name in store.names() if any(fnmatch(name.split("/")[0], each) for each in patterns)]
    aside = folder / ".fetching"
    try:
        bring(store, aside, names)
        for top in sorted({name.split("/")[0] for name in names}):
            shutil.rmtree(folder / top, ignore_errors=True)
            (aside / top).rename(folder / top)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
