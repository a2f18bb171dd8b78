"""What do many wrong ports say to the cases? One process imports; each mutant is answered by a fork of it.

Runs apart as a port does (see `sandbox`). The process that forks runs no mutant's code; each of its children
closes the door behind itself, and may write to its own folder only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ptw.errors import PtwError
from ptw.ports.port import Port, find_port
from ptw.verify.port.trace import subject_of
from ptw.verify.subject import Probe, Tensors, ask, probes
from ptw.workspace import rooms

WORK, SECONDS, ERRORS = "work.json", ".seconds.json", ".errors.json"  # the latter beside a case's folder
STOP = "stop"  # stands in folders["gate"] when nobody waits for answers any more
BROKEN = "broken"  # stands in a mutant's folder with what kept it from being imported
POLL_SECONDS = 0.005
PATIENCE = 10  # times as long as it may work
LAST_CHARACTERS = 300

Folders = Mapping[str, str]
Task = Mapping[str, Any]  # name, room, port, and asks: [case, [verifier, ...]] in turn


def spread(folders: Folders, processes: int, close: Callable[[dict[str, str]], None]) -> None:
    """Answer each task of folders["gate"]; what stands in folders["output"]/NAME is whole."""
    work = json.loads((Path(folders["gate"]) / WORK).read_text())
    asked = probes(rooms.python_files(Path(folders["verifiers"])))
    waiting, running = list(reversed(work["tasks"])), dict[int, tuple[str, float]]()
    while (waiting or running) and not (Path(folders["gate"]) / STOP).exists():
        while waiting and len(running) < processes:
            task = waiting.pop()
            own = _aside(folders, task["name"])
            own.mkdir()
            child = os.fork()
            if child == 0:
                # of its own work, not by the clock: on a busy machine a right answer would count as a kill
                resource.setrlimit(resource.RLIMIT_CPU, (work["seconds"], work["seconds"]))
                _begin(task, {**folders, "output": str(own)}, asked, close)
            running[child] = (task["name"], time.monotonic() + PATIENCE * work["seconds"])
        _end_late(running)
        child, _ = os.waitpid(-1, os.WNOHANG)
        if child in running:  # else one that a mutant left behind
            name, _ = running.pop(child)
            _aside(folders, name).rename(Path(folders["output"]) / name)
        elif not child:
            time.sleep(POLL_SECONDS)


def _aside(folders: Folders, name: str) -> Path:
    return Path(folders["output"]) / f".{name}"


def _end_late(running: Mapping[int, tuple[str, float]]) -> None:
    for child, (_, deadline) in running.items():
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)


def _begin(
    task: Task, folders: dict[str, str], asked: Mapping[str, Probe], close: Callable[[dict[str, str]], None]
) -> None:
    status = 1
    try:
        close(folders)
        _answer(task, folders, asked)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _answer(task: Task, folders: Folders, asked: Mapping[str, Probe]) -> None:
    root, output = Path(folders["mutants"]) / task["room"], Path(folders["output"])
    try:
        port = find_port(root, task["port"])
        assert port is not None
    except PtwError as error:
        (output / BROKEN).write_text(str(error))
        return
    for case, names in task["asks"]:
        target = output / f".{case}"
        target.mkdir()
        given = Path(folders[f"cases-{task['port']}"]) / case
        _answer_case(port, root, {name: asked[name] for name in names if name in asked}, given, target)
        target.rename(output / case)


def _answer_case(port: Port, root: Path, asked: Mapping[str, Probe], given: Path, target: Path) -> None:
    """As a gate's trace, but a verifier whose probe fails leaves the others theirs."""
    values = json.loads((given / "checkpoint" / "config.json").read_text())
    try:
        port.Config.from_hf(values)
    except PtwError as refusal:
        (target / "refused").write_text(str(refusal))
        return
    except Exception as error:
        _beside(target, ERRORS, dict.fromkeys(asked, _last(error)))
        return
    found, errors, seconds = Tensors(), {}, {}
    subject = subject_of(port, root, given, target)
    for name, probe in asked.items():
        start = time.process_time()  # not by the clock: others may be at work
        try:
            found |= ask(subject, {name: probe})
        except Exception as error:
            errors[name] = _last(error)
        seconds[name] = time.process_time() - start
    save_file(found, target / "trace.safetensors")
    _beside(target, ERRORS, errors)
    _beside(target, SECONDS, seconds)


def _beside(target: Path, end: str, values: Mapping[str, object]) -> None:
    """What is said of a case stands outside of its folder, which holds what a port may write only."""
    target.with_name(target.name.removeprefix(".") + end).write_text(json.dumps(values))


def _last(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:LAST_CHARACTERS]
