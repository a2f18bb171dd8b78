"""What does a job do on the cluster? It drives the run there, and brings its folder to where it is followed.

`python -m ptw.train.jobs.head`, in the folder that the job was sent with.
"""

import dataclasses
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ptw.errors import PtwError
from ptw.files.store import Store
from ptw.runs import origin, record
from ptw.train import checkpoint, launch, worker
from ptw.train.group import Group
from ptw.train.jobs.cluster import ORDER
from ptw.train.jobs.pack import code_digest
from ptw.train.jobs.place import STOP, Mirror, bring, home_of, is_folder, store_of
from ptw.train.ledger import Ledger
from ptw.train.plan import Plan

LEAST_SECONDS, MOST_SECONDS = 1.0, 20.0  # between two looks at what is new
PAUSES = 5  # so many times what a look took: large files are not all that is done


def main(sent: Path) -> int:
    """Train what was sent; 0 done, 1 failed, 130 stopped."""
    order = json.loads((sent / ORDER).read_text(encoding="utf-8"))
    job = order["job"]
    home = home_of(job["storage"], order["folder"], job["key"])
    folder = home / "runs" / order["name"]
    store = store_of(job["storage"], job["key"], order["name"])
    try:
        shutil.copytree(sent, home, dirs_exist_ok=True, ignore=shutil.ignore_patterns(ORDER))
        folder.mkdir(parents=True, exist_ok=True)
        with _seen(folder, None if is_folder(job["storage"]) else store):
            found = _begun(order, home, folder)
            _say_versions(order, folder)
            launch.carry_out(found)
    except PtwError as error:
        sys.stderr.write(f"ptw: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _begun(order: Mapping[str, Any], home: Path, folder: Path) -> record.RunRecord:
    """The record that was sent, as it is here."""
    values = {key: value for key, value in order["record"].items() if key != "name"}
    plan = Plan.from_json(values["plan"])
    plan = dataclasses.replace(
        plan,
        root=home,
        file=home / "recipes" / plan.file.name,
        folder=folder,
        cluster=dataclasses.replace(plan.cluster, address="auto"),
    )
    values |= {"plan": plan.as_json(), "state": "running", "versions": origin.versions(), "job": order["job"]}
    found = record.RunRecord(folder=folder, **values)
    record.write(found)
    return found


def _say_versions(order: Mapping[str, Any], folder: Path) -> None:
    here, there = origin.versions(), order["versions"]
    differ = [
        f"{name} {here.get(name, '-')} (there {there.get(name, '-')})"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]
    if not differ and code_digest() != order["code"]:
        differ = [f"ptw {here.get('ptw', '-')}, but in other words"]
    if differ:
        alone = Group(0, 1, torch.device("cpu"))
        Ledger(folder, alone).say(f"the cluster has other versions than who submitted: {', '.join(differ)}")


@contextmanager
def _seen(folder: Path, store: Store | None) -> Iterator[None]:
    """While this lasts the run's folder goes to its storage; None: the folder is the storage."""
    if store is None:
        yield
        return
    if not checkpoint.complete(folder):  # it goes on from another head, or from the machine that it began on
        bring(store, folder, [name for name in store.names() if name not in (STOP, record.FILE)])
    mirror, over = Mirror(folder, store), threading.Event()
    thread = threading.Thread(target=_keep_seen, args=(mirror, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        mirror.send()


def _keep_seen(mirror: Mirror, over: threading.Event) -> None:
    pause, fault = LEAST_SECONDS, ""
    while not over.wait(pause):
        began = time.monotonic()
        try:
            if not (mirror.folder / worker.STOP).exists():
                mirror.store.get(STOP, mirror.folder / worker.STOP)
            if (mirror.folder / record.FILE).exists():
                mirror.send()
            fault = ""
        except (PtwError, OSError) as error:  # training goes on; the last word is said at the end
            if str(error) != fault:
                fault = str(error)
                sys.stderr.write(f"{fault}; the run goes on, and it is tried again\n")
        pause = min(MOST_SECONDS, max(LEAST_SECONDS, PAUSES * (time.monotonic() - began)))


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
