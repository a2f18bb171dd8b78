"""Who is at work in a run folder? The kernel lets go of a lock when its process dies, also by kill -9."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ptw.errors import PtwError

Who = Literal["driver", "worker"]
BOTH: tuple[Who, ...] = ("driver", "worker")
POLL_SECONDS = 0.05


@contextmanager
def held(folder: Path, who: Who, timeout_seconds: float = 1.0) -> Iterator[None]:
    """The only driver, or the only first worker, of a run; PtwError when another one stays."""
    descriptor = os.open(_file(folder, who), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not _taken(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                hint = "stop it first (Ctrl-C), or wait for it"
                raise PtwError(f"{folder}: another process trains this run; {hint}")
            time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def is_held(folder: Path, *whose: Who) -> bool:
    """Whether a driver or a worker is at work there, or one of these."""
    for who in whose or BOTH:
        if not _file(folder, who).exists():
            continue
        descriptor = os.open(_file(folder, who), os.O_RDONLY)
        try:
            if not _taken(descriptor, fcntl.LOCK_SH):
                return True
        finally:
            os.close(descriptor)
    return False


def was_started(folder: Path) -> bool:
    """Whether anybody ever worked there."""
    return any(_file(folder, who).exists() for who in BOTH)


def _file(folder: Path, who: Who) -> Path:
    return folder / f".{who}.lock"


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
