"""What may code that is not trusted do inside its process? No reference, no network, no other process.

The file tree and the namespaces around the process are the walls; this is the lock on the inside, which also
holds where a machine gives no namespaces.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

REFUSED_MODULES = ("transformers", "peft", "vllm", "trl", "accelerate", "huggingface_hub")
REFUSED_EVENTS = (
    "socket.",
    "os.fork",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "os.kill",
    "pty.",
    "subprocess.",
)
CHANGING_EVENTS = {
    f"os.{name}"
    for name in (
        "chmod",
        "chown",
        "link",
        "mkdir",
        "remove",
        "rename",
        "rmdir",
        "symlink",
        "truncate",
        "utime",
    )
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class ReferenceRefusedError(ImportError):
    """A port asked for the reference."""


class Guard(importlib.abc.MetaPathFinder):
    """Stands before every other finder, so that the reference can't be imported by name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] in REFUSED_MODULES:
            raise ReferenceRefusedError(f"a port can't import {fullname}: it must not lean on the reference")
        return None


def run(module: str, folders: dict[str, str], processes: int, status: int) -> None:
    """Import `module` and say so, become so many processes, close the door, call `main(folders)` in each."""
    sys.meta_path.insert(0, Guard())
    _end_with_parent()
    work = importlib.import_module(module)
    with os.fdopen(status, "w") as report:  # nothing of a port's runs while it is open
        report.write("imported\n")
    gc.freeze()  # what was imported stays: looking through it again and again takes up to a tenth of the time
    # it starts a process for each piece of its work, which closes the door itself
    if hasattr(work, "spread"):
        work.spread(folders, processes, close)
        os._exit(0)
    main = work.main
    # as torchrun names them, for processes that hold one model between them
    os.environ.update(WORLD_SIZE=str(processes), GROUP=os.urandom(8).hex(), RANK="0")
    children = _fork(processes - 1)
    close(folders)
    main(folders)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    # threads that a port left behind must not keep the process
    os._exit(1 if failed else 0)


def _end_with_parent() -> None:
    """Nobody is left to wait for an answer when standard input ends: whoever asked holds its other end."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(1)

    with contextlib.suppress(RuntimeError):  # a fork beside one that took all threads goes without
        threading.Thread(target=watch, daemon=True).start()


def _fork(count: int) -> list[int]:
    """The others' process ids; in each of them none. What was imported is shared: only one paid for it."""
    children: list[int] = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            os.environ["RANK"] = str(number + 1)
            return []
        children.append(child)
    return children


def close(folders: dict[str, str]) -> None:
    """From here on: read anything that is left, write to the output and /tmp, start and reach nothing."""
    _end_with_parent()  # a fork has none of its parent's threads
    writable = (os.path.realpath(folders["output"]), "/tmp", "/dev/shm", "/dev/null")

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED_EVENTS):
            raise PermissionError(f"a port can't do this: {event}")
        if event in CHANGING_EVENTS:
            paths = [os.path.realpath(os.fsdecode(part)) for part in arguments if not _is_number(part)]
            if not all(_is_inside(path, writable) for path in paths):
                raise PermissionError(f"a port can't do this: {event} {paths}")
        if event != "open" or _is_number(arguments[0]):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if any(f"/{name}/" in path for name in REFUSED_MODULES):
            raise PermissionError(f"a port can't read {path}")
        writes = bool(arguments[2] & WRITING) if isinstance(arguments[2], int) else False
        if writes and not _is_inside(path, writable):
            raise PermissionError(f"a port can't write {path}")

    sys.addaudithook(refuse)


def _is_inside(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _is_number(value: object) -> bool:
    """A file descriptor, a mode, or none: no path."""
    return value is None or isinstance(value, int | float)
