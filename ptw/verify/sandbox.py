"""How does code that is not trusted run? In a process that sees little, reaches nothing and ends in time.

Where the machine lends namespaces (root, or users may make their own) the process has its own file tree, in
which `transformers`, the caches and the workspace are not there, no network, and no view of other processes.
Without them, limits and guards inside the process remain. What could not be enforced is in `Outcome.missing`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import ptw
from ptw.errors import PtwError

PACKAGE = Path(ptw.__file__).resolve().parent
ENTER = Path(__file__).resolve().with_name("enter.py")
HIDDEN = ("transformers", "peft", "vllm", "trl", "accelerate")
NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=SIGKILL")
LAST_LINES, LAST_BYTES = 12, 1 << 16
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Limits:
    seconds: int = 120
    memory_bytes: int = 12 << 30  # of address space: importing torch alone takes about four
    processes: int = 64
    file_bytes: int = 1 << 30


@dataclass(frozen=True)
class Outcome:
    error: str = ""  # why it failed, with the process's own last lines; empty when it ended well
    missing: tuple[str, ...] = field(default=())  # protections that this machine did not give


def run_apart(
    module: str,
    inputs: Mapping[str, Path],
    output: Path,
    limits: Limits | None = None,
    processes: int = 1,
    go: Callable[[], None] = lambda: None,
    *,
    linked: bool = False,
    shown: Iterable[Path] = (),
    stopped: threading.Event | None = None,
    turn: contextlib.AbstractContextManager[object] = contextlib.nullcontext(),  # noqa: B008 - holds nothing
) -> Outcome:
    """Run `module.main(folders)` apart; `folders` names each input (read-only) and `output` (writable).

    `linked` processes may speak to each other, over a network that has nothing else; files that are `shown`
    lie where they lie outside.
    Inputs are folders made for this: they become readable for all. `go` returns when the inputs are whole:
    the process starts before, in its `turn`, and its seconds count from there. It ends when `stopped` is set.
    """
    limits = limits or Limits()
    output.mkdir(parents=True, exist_ok=True)
    for path in inputs.values():
        readable(path)
    prefix = namespaces()
    status_read, status_write = os.pipe()
    spec = _spec(module, inputs, output, limits, namespaced=prefix is not None)
    spec |= {"side_by_side": processes, "linked": linked, "shown": [str(path) for path in shown]}
    command = [*(prefix or ()), sys.executable, "-I", str(ENTER), str(status_write), json.dumps(spec)]
    # the last words go to a file, which the process's own limit on files bounds
    with contextlib.ExitStack() as starting, open(status_read) as status, tempfile.TemporaryFile() as words:
        starting.enter_context(turn)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes when this process is gone, however it went
            stdout=subprocess.DEVNULL,
            stderr=words,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            pass_fds=[status_write],
            start_new_session=True,
            cwd="/",
        )
        os.close(status_write)
        try:
            reported, _ = status.readline(), status.readline()  # the room is built, and all is imported
            starting.close()
            go()
        except BaseException:
            _end(process)
            raise
        error = _wait(process, limits.seconds, words, stopped) or _remove_odd(output)
    missing = json.loads(reported)["missing"] if reported else []
    return Outcome(error=error, missing=tuple(missing))


@functools.cache
def namespaces() -> tuple[str, ...] | None:
    """The command that gives a process its own file tree, network and process table, if there is one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    as_user = (unshare, "--user", "--map-root-user", *NAMESPACES)
    tries = [(unshare, *NAMESPACES), as_user] if os.geteuid() == 0 else [as_user]
    for prefix in tries:
        trial = [*prefix, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(trial, capture_output=True, check=False, timeout=30).returncode == 0:
            return prefix
    return None


def readable(folder: Path) -> None:
    """Inputs may be written for their owner only, and the process is a stranger."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():  # what a link leads to is somebody's own
            path.chmod(0o755 if path.is_dir() else 0o644)


def _wait(
    process: subprocess.Popen[bytes], seconds: int, words: IO[bytes], stopped: threading.Event | None
) -> str:
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                return f"took longer than its {seconds} seconds and was ended"
            if stopped is not None and stopped.is_set():
                return "was stopped"
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=POLL_SECONDS)
    finally:
        _end(process)
    if process.returncode == 0:
        return ""
    words.seek(max(0, words.seek(0, os.SEEK_END) - LAST_BYTES))
    lines = [line for line in words.read().decode(errors="replace").splitlines() if line.strip()]
    said = "\n".join(lines[-LAST_LINES:]) or "without a word"
    return f"ended with status {process.returncode}:\n{said}"


def _remove_odd(output: Path) -> str:
    """A link would lead whoever reads the output elsewhere, a pipe would hold them up: neither stays."""
    odd = [path for path in output.rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())]
    for path in odd:
        path.unlink()
    return f"wrote what is no plain file: {odd[0].name}" if odd else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and those it started: its group, and with its init the whole process table."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _spec(
    module: str, inputs: Mapping[str, Path], output: Path, limits: Limits, *, namespaced: bool
) -> dict[str, object]:
    return {
        "module": module,
        "inputs": {name: str(path.resolve()) for name, path in inputs.items()},
        "output": str(output.resolve()),
        "package": str(PACKAGE),
        "system": [str(path) for path in _system_folders()],
        "hidden": [str(path) for path in hidden_folders()],
        "executable": sys.executable,
        "namespaced": namespaced,
        # root inside a user namespace of its own is nobody outside it
        "is_root": os.geteuid() == 0 and "--user" not in (namespaces() or ()),
        "seconds": limits.seconds,
        "memory_bytes": limits.memory_bytes,
        "processes": limits.processes,
        "file_bytes": limits.file_bytes,
    }


def _system_folders() -> list[Path]:
    """Where Python and the system's libraries live: all of the machine's files that the process sees."""
    python = {Path(sys.base_prefix), Path(sys.prefix), Path(sys.executable).resolve().parent.parent}
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise PtwError("torch is not installed in this environment: install ptw with its dependencies")
    python.add(Path(torch.origin).parent.parent)
    system = [Path(folder) for folder in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")]
    # parents first, so that a folder inside another is not bound twice
    chosen: list[Path] = []
    for path in sorted([*system, *python], key=lambda path: len(path.parts)):
        inside = any(path.is_relative_to(parent) for parent in chosen)
        if path.exists() and not inside and path != Path("/"):
            chosen.append(path)
    return chosen


@functools.cache
def hidden_folders() -> tuple[Path, ...]:
    """Wherever this machine's Pythons hold the reference or a copy of it, and what else wraps it."""
    sites = {Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("platlib"))}
    sites |= {Path(entry) for entry in sys.path if entry}
    for prefix in (sys.base_prefix, sys.prefix, "/usr", "/usr/local"):
        for kind in ("site-packages", "dist-packages"):
            sites |= set(Path(prefix).glob(f"lib/python3*/{kind}"))
    found = {(site / name).resolve() for site in sites for name in HIDDEN if (site / name).is_dir()}
    return tuple(sorted(found))
