"""Which cases is a port held to, and what does the reference say to them? Drawn, asked and kept by content.

Both happen in a process of their own: transformers is never imported here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ptw.errors import PtwError
from ptw.verify import closure, prune
from ptw.verify.reports.machine import processor
from ptw.verify.sandbox import PACKAGE

REQUEST_SECONDS = 300  # for one family's cases, or what is said to one of them
LAST_LINES, LAST_BYTES = 12, 1 << 14
MAKER, ANSWERER = (PACKAGE / "verify" / name for name in ("drawing/draw.py", "reference/trace.py"))


@dataclass(frozen=True)
class Family:
    """A model_type's cases: a folder each in `given`, and in `drawn` a file each that says what it is for."""

    model_type: str
    folder: Path

    @property
    def given(self) -> Path:
        return self.folder / "given"

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.given.iterdir())) if self.given.is_dir() else ()

    def drawn(self, name: str) -> dict[str, Any]:
        """What a case is for: its name, kind, changes and seed."""
        values: dict[str, Any] = json.loads((self.folder / "drawn" / f"{name}.json").read_text())
        return values

    @property
    def error(self) -> str:
        file = self.folder / "error"
        return file.read_text() if file.exists() else ""


class Reference:
    """The reference's process, started when it is first needed, or before to import meanwhile."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def start(self) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ptw.verify.reference.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.words,
                env=_environment(),
                cwd=PACKAGE.parent,
                start_new_session=True,
            )
            threading.Thread(target=self._listen, args=[self.process], daemon=True).start()

    def draw(self, requests: Sequence[Mapping[str, object]]) -> None:
        self._ask("draw", requests)

    def answer(self, requests: Sequence[Mapping[str, object]]) -> None:
        self._ask("answer", requests)

    def enlarge(self, requests: Sequence[Mapping[str, object]]) -> None:
        self._ask("enlarge", requests)

    def close(self) -> None:
        """Its workers end with it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None
        self.words.close()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.put(line)
        self.lines.put(b"")

    def _ask(self, kind: str, requests: Sequence[Mapping[str, object]]) -> None:
        """Have every request done; PtwError with the process's last words if it could not."""
        if not requests:
            return
        self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        workers = os.cpu_count() or 1
        seconds = REQUEST_SECONDS * -(-len(requests) // workers)
        asked = {"kind": kind, "requests": list(requests), "workers": workers}
        try:
            self.process.stdin.write(json.dumps(asked).encode() + b"\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=seconds)
        except (BrokenPipeError, queue.Empty) as error:
            why = "ended" if isinstance(error, BrokenPipeError) else f"took longer than {seconds} seconds"
            raise PtwError(f"the reference's process {why}:\n{self._last_words()}") from None
        if not line or json.loads(line)["failed"]:
            raise PtwError(f"the reference's process failed:\n{self._last_words()}")

    def _last_words(self) -> str:
        self.words.seek(max(0, self.words.seek(0, os.SEEK_END) - LAST_BYTES))
        return "\n".join(self.words.read().decode(errors="replace").splitlines()[-LAST_LINES:])


def draw(
    model_types: Sequence[str], level: str, seed: int, folder: Path, cache: Path, reference: Reference
) -> list[Family]:
    """The cases of each family, below `folder`; those for practice, always the same, are kept in `cache`."""
    families = [Family(model_type, folder / model_type) for model_type in model_types]
    missing = []
    for family in families:
        family.given.mkdir(parents=True, exist_ok=True)
        kept = cache / "cases" / _key(family.model_type, level, str(seed))
        if kept.is_dir() and level == "practice":
            shutil.copytree(kept, family.folder, dirs_exist_ok=True)
            prune.used(kept)
        else:
            missing.append((family, kept))
    reference.draw(
        [
            {"model_type": family.model_type, "level": level, "seed": seed, "folder": str(family.folder)}
            for family, _ in missing
        ]
    )
    for family, kept in missing:
        if level == "practice" and not family.error:
            publish(family.folder, kept)
    return families


def are_kept(model_types: Sequence[str], seed: int, cache: Path) -> bool:
    """Whether all these practice cases have been drawn before, as a sign that they have been answered too."""
    return all((cache / "cases" / _key(name, "practice", str(seed))).is_dir() for name in model_types)


def none_are_kept(cache: Path) -> bool:
    """Whether no practice case was ever drawn here."""
    return not (cache / "cases").is_dir()


def cache_folder(root: Path | None) -> Path:
    """Of the workspace, else of the user."""
    if root is not None:
        return root / ".ptw" / "verify"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptw" / "verify"


def computing(verifiers: Sequence[Path]) -> str:
    """Of how the reference is asked, by these verifiers, and of the versions that compute."""
    return _base() + closure.digest([ANSWERER, *verifiers])


def digest(computed: str, *folders: Path) -> str:
    """Of how something is computed, and of names and contents of the files that it is computed from."""
    hashed = hashlib.sha256(computed.encode())
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            hashed.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


def publish(source: Path, target: Path) -> None:
    """Copy a file or folder into the cache, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        with contextlib.suppress(FileExistsError, OSError):  # another process was faster, or the disk is full
            if source.is_dir():
                shutil.copytree(source, aside / "new")
            else:
                shutil.copyfile(source, aside / "new")
            (aside / "new").replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def versions() -> Iterator[tuple[str, str]]:
    for name in ("transformers", "torch", "peft"):
        yield name, metadata.version(name)


@functools.cache
def _base() -> str:
    return json.dumps([list(versions()), list(sys.version_info[:2]), processor()])


def _key(*parts: str) -> str:
    said = json.dumps([_base(), closure.digest([MAKER]), *parts])
    return hashlib.sha256(said.encode()).hexdigest()


def _environment() -> dict[str, str]:
    """One thread: as many processes run as there are cores; and never the network."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
